"""Values to msgpack and back, with their types.

msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md) knows None, bool, 64-bit integers, float, str, bytes, list
and dict. The rest travels as its extension types: ``extensions.py``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgpack

from .errors import CorruptSession, SerializationError, SessionTooLarge
from .extensions import CONTAINERS, DECODERS, ENCODERS, CodecError, Ext
from .packing import (
    CONTAINER_TYPES,
    MAX_DEPTH,
    SCALARS,
    SURROGATES,
    TOO_DEEP,
    Packing,
    Registered,
    TooManyBytesError,
    check,
    reason_of,
    show,
)

T = TypeVar("T")

#: The default limit on the bytes of a session: all top-level keys and their packed values.
DEFAULT_MAX_BYTES = 1024 * 1024

# The packer takes these for bytes and for extensions, without asking us.
_PACKED_AS_OTHERS = frozenset({bytearray, memoryview, msgpack.ExtType, msgpack.Timestamp})


class Codec:
    """Packs the values of a session and unpacks them to the same values of the same types.

    Built in: None, bool, int of any size, float, str, bytes, list, tuple, dict (nested keys: str, int, bytes), set, frozenset,
    datetime (aware and naive), date, time, timedelta, Decimal, UUID. Other types, enums among them, are registered::

        codec = Codec()
        codec.register(Color)
        codec.register(Money, encode=lambda m: (m.amount, m.currency), decode=lambda v: Money(*v))
        store = SessionStore.from_url(url, codec=codec)

    A subclass of a built-in type is another type: it is refused unless registered, since it would come back as its base. Of
    time zones, ``ZoneInfo`` comes back as itself, every other as the fixed offset that it had at that time.
    """

    def __init__(self) -> None:
        self._by_type: dict[type, Registered] = {}
        self._by_tag: dict[str, Registered] = {}
        # What has nothing inside for the walk through a value to find.
        self._leaves: frozenset[type] = SCALARS | ENCODERS.keys()

    def register(
        self,
        cls: type[T],
        *,
        tag: str | None = None,
        encode: Callable[[T], Any] | None = None,
        decode: Callable[[Any], T] | None = None,
    ) -> None:
        """Teaches the codec a type. Every process that reads the sessions has to register it.

        Args:
            cls: The type; its subclasses are not meant.
            tag: The name that is stored; default: the name of the class. Keep it when you rename the class.
            encode: From an instance to a value that can be stored. An Enum needs none: its members are stored by name.
            decode: From that value back to an instance.

        Raises:
            TypeError: no ``encode`` and ``decode``, and ``cls`` is not an Enum.
            ValueError: the type is built in or cannot be registered (bytearray, memoryview), or the type or the tag is
                registered already.
        """
        if encode is None and decode is None and issubclass(cls, enum.Enum):
            encode, decode = _enum_hooks(cls)
        if encode is None or decode is None:
            raise TypeError(f"{cls.__qualname__} is not an Enum: give encode= and decode=")
        tag = cls.__name__ if tag is None else tag
        if cls in _PACKED_AS_OTHERS:
            raise ValueError(f"{cls.__qualname__} cannot be registered: msgpack has a form of its own for it; store bytes")
        if cls in self._leaves | CONTAINER_TYPES:
            raise ValueError(f"{cls.__qualname__} is built in or registered already")
        if tag in self._by_tag:
            raise ValueError(f"the tag {tag!r} is taken; give {cls.__qualname__} another with tag=")
        self._by_type[cls] = self._by_tag[tag] = Registered(tag, encode, decode)
        self._leaves |= {cls}

    def encode(
        self, data: Mapping[str, Any], *, max_bytes: int = DEFAULT_MAX_BYTES, key: str | None = None
    ) -> dict[bytes, bytes]:
        """Packs each top-level value of ``data``: {UTF-8 name: msgpack}.

        The same values of the same types give the same bytes, whatever order their sets were filled in.

        Raises:
            SerializationError: a value cannot be stored; its ``path`` says which.
            SessionTooLarge: names and values together take more than ``max_bytes`` bytes.
        """
        if not isinstance(data, Mapping):
            raise SerializationError(f"the data of session {key} must be a dict, not {type(data).__name__}", key=key, path="")
        fields: dict[bytes, bytes] = {}
        size = 0
        packing = Packing(self._by_type, self._leaves, max_bytes)
        for name, value in data.items():
            if type(name) is not str:
                shown = show(name)
                raise SerializationError(
                    f"session {key}: top-level keys of data must be str, not {type(name).__name__} ({shown})",
                    key=key,
                    path=shown,
                )
            try:
                packed = packing.pack(value)
            except TooManyBytesError:
                raise _too_large(key, max_bytes + 1, max_bytes) from None
            except Exception as error:
                found = packing.locate(value, name) or CodecError(reason_of(error), name)
                raise SerializationError(
                    f"session {key}: cannot store {found.path}: {found.reason}", key=key, path=found.path
                ) from error
            field = name.encode("utf-8", SURROGATES)
            fields[field] = packed
            size += len(field) + len(packed)
            if size > max_bytes:
                raise _too_large(key, size, max_bytes)
        return fields

    def decode(
        self, fields: Mapping[bytes, bytes], *, max_bytes: int = DEFAULT_MAX_BYTES, key: str | None = None
    ) -> dict[str, Any]:
        """The reverse of ``encode``.

        Raises:
            CorruptSession: a field does not decode.
            SessionTooLarge: the fields take more than ``max_bytes`` bytes.
        """
        size = sum(map(len, fields)) + sum(map(len, fields.values()))
        if size > max_bytes:
            raise _too_large(key, size, max_bytes)
        data: dict[str, Any] = {}
        for field, packed in fields.items():
            try:
                data[field.decode("utf-8", SURROGATES)] = self._unpack(packed, max_bytes)
            except Exception as error:
                name = field.decode("utf-8", "backslashreplace")
                raise CorruptSession(
                    f"session {key}: field {name!r} does not decode: {reason_of(error)}; "
                    "if that cannot be mended, delete the session, or set it anew",
                    key=key,
                    field=name,
                ) from error
        return data

    def _unpack(self, packed: bytes, max_bytes: int) -> Any:
        value = self._unpack_below(packed, 0)
        if type(value) not in SCALARS:
            # What was loaded can be saved: others may have stored what only looks like ours.
            check(value, self._leaves, max_bytes)
        return value

    def _unpack_below(self, packed: bytes, depth: int) -> Any:
        if depth > MAX_DEPTH:
            # Beyond some thousand of these, the stack of the process would be at its end.
            raise CodecError(TOO_DEEP)
        return msgpack.unpackb(packed, strict_map_key=False, unicode_errors=SURROGATES, ext_hook=partial(self._from_ext, depth))

    def _from_ext(self, depth: int, code: int, content: bytes) -> Any:
        decoder = DECODERS.get(code)
        if decoder is not None:
            return decoder(content)
        if code in CONTAINERS:
            return CONTAINERS[code](self._unpack_below(content, depth + 1))
        if code != Ext.REGISTERED:
            raise CodecError(f"unknown extension type {code}")
        tag, encoded = self._unpack_below(content, depth + 1)
        if tag not in self._by_tag:
            raise CodecError(f"the type {show(tag)} is not registered here; register it with Codec.register")
        return self._by_tag[tag].decode(encoded)


def _too_large(key: str | None, size: int, limit: int) -> SessionTooLarge:
    return SessionTooLarge(
        f"session {key} takes {size:,} bytes or more, of at most {limit:,}; "
        "keep large things elsewhere and their ids here, or raise max_bytes",
        key=key,
        size=size,
        limit=limit,
    )


def _enum_hooks(cls: type[enum.Enum]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    # A combination of flags has no name of its own.
    if issubclass(cls, enum.Flag):
        return lambda member: member.value, cls
    return lambda member: member.name, lambda name: cls[name]
