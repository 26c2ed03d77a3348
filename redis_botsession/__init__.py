"""Redis-native session store for chat bots."""

from ._codec.codec import Codec
from ._session.changes import Write
from ._session.live_session import BotSessionHelper
from ._session.record import KEEP, BotSession, Loaded
from ._store.base import BotSessionStore
from .errors import (
    CorruptSession,
    DurabilityUnproven,
    OutcomeUnknown,
    SerializationError,
    SessionError,
    SessionGone,
    SessionTooLarge,
    VersionConflict,
)
from .memory import MemorySessionStore, memory_store
from .middleware import SessionMiddleware
from .store import SessionStore
from .version import __version__

__all__ = [
    "KEEP",
    "BotSession",
    "BotSessionHelper",
    "BotSessionStore",
    "Codec",
    "CorruptSession",
    "DurabilityUnproven",
    "Loaded",
    "MemorySessionStore",
    "OutcomeUnknown",
    "SerializationError",
    "SessionError",
    "SessionGone",
    "SessionMiddleware",
    "SessionStore",
    "SessionTooLarge",
    "VersionConflict",
    "Write",
    "__version__",
    "memory_store",
]
