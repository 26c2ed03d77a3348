"""The contract of a store, as tests that any store can be put through.

    from redis_botsession.testing import StoreContract

    class TestMyStore(StoreContract):
        def make_store(self, **options):
            return MyStore(**options)

pytest finds the tests by themselves; it needs no plugin for asyncio. They take some seconds, since they wait for sessions to
expire.
"""

from .contract import StoreContract

__all__ = ["StoreContract"]
