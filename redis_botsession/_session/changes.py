"""What has changed in a session since it was loaded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .._codec.codec import Codec, too_large
from .._codec.walk import IMMUTABLE, SURROGATES
from .record import KEEP, BotSession, Keep


@dataclass(slots=True)
class Changes:
    """The difference between a session and its snapshot: what ``update`` takes; ``packed`` has what ``changed`` has, packed."""

    changed: dict[str, Any]
    removed: list[str]
    expires_at: datetime | Keep | None
    packed: dict[bytes, bytes]

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed or self.expires_at is not KEEP)


class Snapshot:
    """A session as it was, by the bytes of each value: nested changes in place show, and 1 is not True.

    Args:
        session: The session; it may be changed afterwards.
        codec: The codec of the session's store.
        max_bytes: The limit of that store.
        key: The session's key, for messages.
        stored: Its packed values as they were loaded, if it was just loaded: then they are not packed again.

    Raises:
        SerializationError: a value cannot be stored.
        SessionTooLarge: more than ``max_bytes`` bytes.
    """

    __slots__ = ("_codec", "_expires_at", "_key", "_max_bytes", "_packed", "_values")

    def __init__(
        self, session: BotSession, codec: Codec, *, max_bytes: int, key: str, stored: dict[bytes, bytes] | None = None
    ) -> None:
        self._codec = codec
        self._max_bytes = max_bytes
        self._key = key
        self._values = dict(session.data)
        self._packed = self._pack(self._values) if stored is None else stored
        self._expires_at = session.expires_at

    def until(self, session: BotSession) -> Changes:
        """What it takes to get from this to the session as it is now. Raises what the class raises."""
        before = self._values
        # What cannot change in place and is still the same object is the same.
        suspects = {
            name: value
            for name, value in session.data.items()
            if type(value) not in IMMUTABLE or name not in before or before[name] is not value
        }
        changed: dict[str, Any] = {}
        packed: dict[bytes, bytes] = {}
        for (name, value), (field, now) in zip(suspects.items(), self._pack(suspects).items(), strict=True):
            was = self._packed.get(field)
            if was is None or (was != now and self._packed_anew(name, field, was) != now):
                changed[name] = value
                packed[field] = now
        removed = [name for name in before if name not in session.data]
        if packed:
            self._check_size(packed, removed)
        return Changes(changed, removed, KEEP if self._expires_at == session.expires_at else session.expires_at, packed)

    def follow(self, changes: Changes) -> None:
        """Is now of the session as it was when ``changes`` were found. They may be applied while the session changes on."""
        for name in changes.removed:
            del self._values[name]
            del self._packed[name.encode("utf-8", SURROGATES)]
        self._values.update(changes.changed)
        self._packed.update(changes.packed)
        if changes.expires_at is not KEEP:
            self._expires_at = changes.expires_at

    def _check_size(self, packed: dict[bytes, bytes], removed: list[str]) -> None:
        after = {**self._packed, **packed}
        for name in removed:
            del after[name.encode("utf-8", SURROGATES)]
        size = sum(map(len, after)) + sum(map(len, after.values()))
        if size > self._max_bytes:
            raise too_large(self._key, size, self._max_bytes)

    def _pack(self, values: dict[str, Any]) -> dict[bytes, bytes]:
        return self._codec.encode(values, max_bytes=self._max_bytes, key=self._key)

    def _packed_anew(self, name: str, field: bytes, stored: bytes) -> bytes:
        """As we would have packed what was stored: others may have packed it otherwise."""
        was = self._values[name]
        if type(was) not in IMMUTABLE:
            (was,) = self._codec.decode({field: stored}, max_bytes=self._max_bytes, key=self._key).values()
        return self._pack({name: was})[field]
