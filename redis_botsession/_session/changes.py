"""What has changed in a session since it was loaded, and what a write asks a store to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .._codec.codec import Codec, too_large
from .._codec.walk import IMMUTABLE, SURROGATES
from .record import KEEP, BotSession, Keep


@dataclass(slots=True, kw_only=True)
class Write:
    """What a store is asked to do to one session, atomically. ``BotSessionStore.write`` takes it.

    Treat it as immutable: ``frozen=True`` would cost 0.8 µs a write.

    Attributes:
        values: The top-level keys to set.
        packed: ``values`` as the store's codec packs them, by UTF-8 names; None where they have not been packed yet.
        remove: The top-level keys to remove. Those that do not exist are ignored.
        keep: None: all other top-level keys stay. Otherwise the session is replaced: only the keys named here stay, and
            those in ``values``.
        expected_version: The version the session must have; 0: there must be no session. None: any.
        since_version: The session must have existed without a break since this version: one that was deleted and created
            again is another. None: any. Implies ``create=False``.
        create: Whether to create the session if there is none.
        drop_empty: Whether to remove the session if no top-level key is left.
        expires_at: The session's own deadline; ``KEEP``: as it is. None removes it.

    Raises:
        TypeError: ``remove`` or ``keep`` is one text, or holds something else than ``str``.
        ValueError: a key is both set and removed or kept, or both ``remove`` and ``keep`` are given.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    packed: Mapping[bytes, bytes] | None = None
    remove: Sequence[str] = ()
    keep: Sequence[str] | None = None
    expected_version: int | None = None
    since_version: int | None = None
    create: bool = True
    drop_empty: bool = False
    expires_at: datetime | Keep | None = KEEP

    def __post_init__(self) -> None:
        if self.keep is not None:
            if self.remove:
                raise ValueError("a write takes the keys to remove or the keys to keep, not both")
            self.keep = self._checked(self.keep, "kept")
        elif self.remove:
            self.remove = self._checked(self.remove, "removed")

    def _checked(self, names: Sequence[str], done: str) -> list[str]:
        """The names, each once: the script counts the bytes of each removed key."""
        if isinstance(names, str | bytes):
            raise TypeError(f"give an iterable of keys, not one {type(names).__name__}: [...]")
        checked = list(dict.fromkeys(names))
        for name in checked:
            if type(name) is not str:
                raise TypeError(f"the keys to remove or keep must be str, not {type(name).__name__}")
            if name in self.values:
                raise ValueError(f"{name!r} is both changed and {done}")
        return checked

    @property
    def may_create(self) -> bool:
        """Whether this write may create a session."""
        return self.create and self.since_version is None

    def data_after(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The top-level keys of a session after this write, for stores that hold a session as a whole.

        Args:
            before: The top-level keys of the session now; empty if there is none.
        """
        if self.keep is None:
            kept = {name: value for name, value in before.items() if name not in self.remove}
        else:
            kept = {name: before[name] for name in self.keep if name in before}
        return {**kept, **self.values}


@dataclass(slots=True)
class Changes:
    """The difference between a session and its snapshot.

    Attributes:
        changed: The top-level keys that are new or have another value.
        removed: The top-level keys that are gone.
        expires_at: The session's own deadline, if that has changed; else ``KEEP``.
        packed: ``changed``, packed, by UTF-8 names.
    """

    changed: dict[str, Any]
    removed: list[str]
    expires_at: datetime | Keep | None
    packed: dict[bytes, bytes]

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed or self.expires_at is not KEEP)

    def as_write(self, *, since: int = 0, expected: int | None = None) -> Write:
        """The write that applies these changes.

        Args:
            since: The version of the session in which they were found; 0: it was not stored yet. A session that was deleted
                or created again since then is not written to.
            expected: The version the session must still have; None: any.
        """
        return Write(
            values=self.changed,
            packed=self.packed,
            remove=self.removed,
            expires_at=self.expires_at,
            since_version=since or None,
            expected_version=expected,
        )


class Snapshot:
    """A session as it was at one moment, kept as the bytes of each value: so changes inside a value show, and 1 is not True.

    Args:
        session: The session; it may be changed afterwards.
        codec: The codec of the session's store.
        max_bytes: The limit of that store.
        key: The session's key, for messages.
        packed: Its packed values, if it was just loaded and the store had them: then they are not packed again.

    Raises:
        SerializationError: a value cannot be stored.
        SessionTooLarge: more than ``max_bytes`` bytes.
    """

    __slots__ = ("_codec", "_expires_at", "_key", "_max_bytes", "_packed", "_values")

    def __init__(
        self, session: BotSession, codec: Codec, *, max_bytes: int, key: str, packed: dict[bytes, bytes] | None = None
    ) -> None:
        self._codec = codec
        self._max_bytes = max_bytes
        self._key = key
        self._values = dict(session.data)
        self._packed = self._pack(self._values) if packed is None else packed
        self._expires_at = session.expires_at

    def changes_in(self, session: BotSession) -> Changes:
        """What differs in ``session`` from this snapshot. Raises what the class raises."""
        if not isinstance(session.data, Mapping):
            raise TypeError(
                f"session {self._key}: data must be a dict, not {type(session.data).__name__}; nothing was written. "
                "To empty a session use session.data.clear(), to remove it await session.delete()"
            )
        before = self._values
        # An immutable value that is still the same object has not changed, and need not be packed to see that.
        suspects = {
            name: value
            for name, value in session.data.items()
            if type(value) not in IMMUTABLE or name not in before or before[name] is not value
        }
        changed: dict[str, Any] = {}
        packed: dict[bytes, bytes] = {}
        for (name, value), (utf8, now) in zip(suspects.items(), self._pack(suspects).items(), strict=True):
            was = self._packed.get(utf8)
            if was is None or (was != now and self._packed_again(name, utf8, was) != now):
                changed[name] = value
                packed[utf8] = now
        removed = [name for name in before if name not in session.data]
        if packed:
            self._check_size(packed, removed)
        return Changes(changed, removed, KEEP if self._expires_at == session.expires_at else session.expires_at, packed)

    def apply(self, changes: Changes) -> None:
        """Moves the snapshot on to the state after ``changes``. The session may have been changed further meanwhile."""
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

    def _packed_again(self, name: str, utf8: bytes, stored: bytes) -> bytes:
        """A stored value as this codec packs it. Another program may have packed the same value to other bytes."""
        was = self._values[name]
        if type(was) not in IMMUTABLE:
            (was,) = self._codec.decode({utf8: stored}, max_bytes=self._max_bytes, key=self._key).values()
        return self._pack({name: was})[utf8]
