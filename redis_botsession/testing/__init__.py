"""The contract of a store, as tests for any store::

    from redis_botsession.testing import StoreContract

    class TestMyStore(StoreContract):
        def make_store(self, **options):
            return MyStore(**options)

pytest collects the tests of the subclass, and needs no plugin for asyncio. They take some seconds, since they wait for
sessions to expire.
"""

from .contract import StoreContract

__all__ = ["StoreContract"]
