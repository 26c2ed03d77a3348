"""The contract: all tests that a store must pass."""

from .lifetimes import LifetimeContract
from .live import LiveContract
from .records import RecordContract
from .writes import WriteContract


class StoreContract(RecordContract, WriteContract, LifetimeContract, LiveContract):
    """What every store has to do. Subclass it and say how to make the store: ``make_store``."""
