"""The record of a session, and the ids that name it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

#: What identifies a user or a channel.
Id = str | int


def normal_id(value: Id, name: str) -> str:
    """``value`` as the text that identifies it: 42 and "42" are one.

    Raises:
        TypeError: neither ``str`` nor ``int`` (a ``bool`` is a mistake, too).
        ValueError: empty.
    """
    if type(value) is str:
        text = value
    elif isinstance(value, str):
        text = str.__str__(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        text = int.__repr__(value)
    else:
        raise TypeError(f"{name} must be str or int, not {type(value).__name__}")
    if not text:
        raise ValueError(f"{name} must not be empty")
    return text


class Keep(enum.Enum):
    """The type of ``KEEP``, the default of ``expires_at`` in a write: the deadline stays as it is. (None removes it.)"""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, repr=False)
class BotSession:
    """The state of one user in one channel. A plain record: changing it changes nothing in a store.

    Its ``repr`` shows the names of the top-level keys and no values, so that it can be logged.

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

    def __repr__(self) -> str:
        keys = ", ".join(map(repr, self.data)) if isinstance(self.data, Mapping) else "not a dict"
        return f"<{type(self).__name__} {self.user_id!r}/{self.channel_id!r} version {self.version}, keys: {keys or 'none'}>"


@dataclass(slots=True)
class Loaded:
    """What ``BotSessionStore.load`` returns: a session and, where the store has them, its values as they are stored.

    Attributes:
        session: The session.
        names: The UTF-8 names of its top-level keys; None: the store has no packed values.
        values: The packed values, in the order of ``names``.
    """

    session: BotSession
    names: Sequence[bytes] | None = None
    values: Sequence[bytes] = ()

    @property
    def packed(self) -> dict[bytes, bytes] | None:
        """The packed values by name, or None."""
        return None if self.names is None else dict(zip(self.names, self.values, strict=True))
