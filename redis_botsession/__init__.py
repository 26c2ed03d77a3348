"""Redis-native session store for chat bots."""

from .base import BotSessionStore
from .codec import Codec
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
from .helper import BotSessionHelper
from .memory import MemorySessionStore, memory_store
from .middleware import SessionMiddleware
from .session import KEEP, BotSession
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
