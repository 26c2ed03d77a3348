"""What has changed in a session since it was loaded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .codec import Codec
from .session import KEEP, BotSession, Keep


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between a session and its snapshot: what ``update`` takes."""

    changed: dict[str, Any]
    removed: list[str]
    expires_at: datetime | Keep | None

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed or self.expires_at is not KEEP)


class Snapshot:
    """A session as it was, by the bytes of each value: nested changes in place show, and 1 is not True.

    Args:
        session: The session; it may be changed afterwards.
        codec: The codec of the session's store.
        max_bytes: The limit of that store.
        key: The session's key, for messages.

    Raises:
        SerializationError: a value cannot be stored.
        SessionTooLarge: more than ``max_bytes`` bytes.
    """

    def __init__(self, session: BotSession, codec: Codec, *, max_bytes: int, key: str) -> None:
        self._fields = codec.encode(session.data, max_bytes=max_bytes, key=key)
        self._expires_at = session.expires_at

    def until(self, later: Snapshot, session: BotSession) -> Changes:
        """What it takes to get from this to ``later``, which is of ``session`` as it is now."""
        before, after = self._fields, later._fields
        changed = {
            name: value
            for (name, value), (field, packed) in zip(session.data.items(), after.items(), strict=True)
            if before.get(field) != packed
        }
        removed = [field.decode("utf-8", "surrogatepass") for field in before.keys() - after.keys()]
        same = self._expires_at == later._expires_at
        return Changes(changed, removed, KEEP if same else later._expires_at)
