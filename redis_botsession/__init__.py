"""Redis-native session store for chat bots."""

from ._codec.codec import Codec
from ._session.live import BotSessionHelper
from ._session.record import KEEP, BotSession
from .base import BotSessionStore
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
    "MemorySessionStore",
    "OutcomeUnknown",
    "SerializationError",
    "SessionError",
    "SessionGone",
    "SessionMiddleware",
    "SessionStore",
    "SessionTooLarge",
    "VersionConflict",
    "__version__",
    "memory_store",
]
