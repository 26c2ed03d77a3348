"""The record of a session."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final


class Keep(enum.Enum):
    """The default of ``expires_at`` in ``update``: leave it as it is. (None takes it away.)"""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class BotSession:
    """The state of one user in one channel. A plain record: changing it changes nothing in a store.

    Attributes:
        user_id: The user. Stores give it as ``str``.
        channel_id: The chat or channel. Stores give it as ``str``.
        data: The application's state: top-level keys are ``str``, values are what ``Codec`` can store.
        created_at: When the session was created; aware, UTC.
        updated_at: When it was last written; aware, UTC. Stores set it from their own clock.
        expires_at: The session's own deadline, or None: then the store's rolling TTL holds.
        version: Grows with each write, never repeats for a session; 0: not stored yet.
    """

    user_id: str
    channel_id: str
    data: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=_now)
    updated_at: datetime = field(default_factory=_now)
    expires_at: datetime | None = None
    version: int = 0


#: A session and its packed values by their UTF-8 names, as they are stored; or None where the store does not have them.
Loaded = tuple[BotSession, dict[bytes, bytes] | None]
