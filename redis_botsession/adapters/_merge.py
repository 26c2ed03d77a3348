"""A three-way merge between a session and a dict that a framework keeps as its copy. No I/O.

The framework keeps such dicts for longer than one message, in several processes at once. The base is what dict and session had
in common last. Each key of both is compared with the base by its packed bytes, so changes inside a value show: a key that only
one side has changed is taken over by the other.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from .._codec.codec import Codec
from .._codec.walk import SURROGATES
from .._session.changes import Changes
from .._session.record import KEEP, BotSession, Loaded
from .._session.times import from_micros
from ..errors import SerializationError, SessionTooLarge
from ._ids import Names

Data = dict[Any, Any]
Packed = dict[bytes, bytes]

# Two markers that equal no packed value: "the store may or may not have this value", and "this value cannot be stored".
_UNSURE: Final = b""
_UNSTORABLE: Final = b"\xc1"


class Packer:
    """Packs dicts, whose keys may be anything that can be stored and hashed, as top-level keys of a session.

    Args:
        codec: The store's.
        max_bytes: The store's.
    """

    def __init__(self, codec: Codec, max_bytes: int) -> None:
        self.names = Names(codec)
        self._codec = codec
        self._max_bytes = max_bytes

    def pack(self, data: Data, key: str) -> tuple[dict[bytes, Any], Packed, SerializationError | SessionTooLarge | None]:
        """Packs a dict: its keys and its packed values by their names in the store, and the error if a value cannot be stored.

        Args:
            data: The dict.
            key: What the session is called in messages.
        """
        try:
            packed = self._encode(data, key)
            return dict(zip(packed, data, strict=True)), packed, None
        except (SerializationError, SessionTooLarge) as error:
            keys: dict[bytes, Any] = {}
            packed = {}
            for each, value in data.items():
                with suppress(SerializationError, SessionTooLarge):
                    name = _field(self.names.name(each))
                    keys[name], packed[name] = each, _UNSTORABLE
                    packed.update(self._encode({each: value}, key))
            return keys, packed, error

    def stored(self, loaded: Loaded) -> Packed:
        """The packed values of a session as it was loaded."""
        packed = loaded.packed
        return self._codec.encode(loaded.session.data, max_bytes=self._max_bytes) if packed is None else packed

    def is_same(self, was: bytes | None, now: bytes | None) -> bool:
        """Whether two packed values are of one value; None: there is none."""
        if was == now or not was or not now:
            return was == now
        # Another program may have packed the same value to other bytes, so compare it packed by this codec.
        return self._codec.encode(self._codec.decode({b"": was}))[b""] == now

    def _encode(self, data: Data, key: str) -> Packed:
        return self._codec.encode(self.names.pack(data), max_bytes=self._max_bytes, key=key)


class Copy:
    """The base of a merge: what a dict and its session had in common last.

    Attributes:
        base: The packed values by name. Never changed in place, since a pending write compares with the base it began from.
        version: The session's version then; 0: no session is known.
    """

    __slots__ = ("_created_at", "_key", "_packer", "base", "version")

    def __init__(self, packer: Packer, key: str) -> None:
        self._packer = packer
        self._key = key
        self.base: Packed = {}
        self.version = 0
        self._created_at: datetime | None = None

    def changes(self, data: Data, base: Packed, *, piecemeal: bool = False) -> tuple[Changes, SerializationError | None]:
        """The changes from ``base`` to ``data``; with ``piecemeal``, without values that cannot be stored, and their error.

        Raises:
            SerializationError: something cannot be stored, and not ``piecemeal``.
            SessionTooLarge: it takes more than the store's ``max_bytes``.
        """
        keys, packed, error = self._packer.pack(data, self._key)
        if error is not None and not (piecemeal and isinstance(error, SerializationError)):
            raise error
        return self._between(base, keys, packed, data), error

    def follow(self, changes: Changes, version: int) -> None:
        """Moves the base on after ``changes`` were written. ``version`` is the session's; 0: it was gone, and so are they."""
        if not self.version:
            self._created_at = None
        # Kept if there is no new one, so that the next merge sees that the session is gone.
        self.version = version or self.version
        removed = {_field(name) for name in changes.removed}
        self.base = {field: now for field, now in {**self.base, **changes.packed}.items() if field not in removed}

    def doubt(self, changes: Changes) -> None:
        """Marks the keys of ``changes`` as unsure: they may or may not be written, so they are written again in any case."""
        self.base = {**self.base, **dict.fromkeys([*changes.packed, *map(_field, changes.removed)], _UNSURE)}

    def merge(self, data: Data, loaded: Loaded | None) -> Changes | None:
        """Merges the changes of the session into ``data``, in place; the changes of ``data`` stay.

        If the session is gone, or is another one than before, ``data`` is emptied, with changes that were not written yet.

        Returns:
            The changes that were lost by that; None: the session is the same, or there was none before.
        """
        session = None if loaded is None else loaded.session
        theirs = {} if loaded is None else self._packer.stored(loaded)
        lost = None
        if self.version and (session is None or self._is_another(session)):
            keys, mine, _ = self._packer.pack(data, self._key)
            lost = self._between(self.base, keys, mine, data)
            data.clear()
            self.base = {}
        keys, mine, _ = self._packer.pack(data, self._key)
        for field, key in keys.items():
            if field not in theirs and self._packer.is_same(self.base.get(field), mine[field]):
                del data[key]
        if session is not None:
            taken = [field for field, now in theirs.items() if self._is_news(field, now, mine.get(field))]
            data.update(self._packer.names.unpack({name: session.data[name] for name in map(_name, taken)}))
        self.base = theirs
        self.version, self._created_at = (0, None) if session is None else (session.version, session.created_at)
        return lost

    def _is_another(self, session: BotSession) -> bool:
        if self._created_at is None:
            # This copy created the session, at that version or before.
            return session.created_at > from_micros(self.version)
        return session.created_at != self._created_at

    def _is_news(self, field: bytes, theirs: bytes, mine: bytes | None) -> bool:
        return mine != theirs and self._packer.is_same(self.base.get(field), mine)

    def _between(self, base: Packed, keys: dict[bytes, Any], packed: Packed, data: Data) -> Changes:
        changed = {
            field: now for field, now in packed.items() if now != _UNSTORABLE and not self._packer.is_same(base.get(field), now)
        }
        removed = [_name(field) for field in base if field not in packed]
        return Changes({_name(field): data[keys[field]] for field in changed}, removed, KEEP, changed)


def _field(name: str) -> bytes:
    return name.encode("utf-8", SURROGATES)


def _name(field: bytes) -> str:
    return field.decode("utf-8", SURROGATES)
