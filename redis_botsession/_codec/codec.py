"""Values to msgpack and back, with their types.

msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md) knows None, bool, 64-bit integers, float, str, bytes, list
and dict. All other types are its extension types: ``types.py``.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgpack

from ..errors import CorruptSession, SerializationError, SessionTooLarge
from .types import CONTAINERS, DECODERS, CodecError, Ext
from .walk import (
    CONTAINER_TYPES,
    IMMUTABLE,
    MAX_DEPTH,
    SCALARS,
    SURROGATES,
    TOO_DEEP,
    Packing,
    Registered,
    TooManyBytesError,
    check_loaded,
    reason_of,
    show,
)

T = TypeVar("T")

#: The default limit on the bytes of a session: all top-level keys and their packed values.
DEFAULT_MAX_BYTES = 1024 * 1024

# The packer packs these as bytes or extension types without calling our hook, so they would come back as another type.
_PACKED_AS_OTHERS = frozenset({bytearray, memoryview, msgpack.ExtType, msgpack.Timestamp})


# All values of a session are unpacked at once, as one array with a marker between the values: only if each field is exactly
# one value are the markers at every second place. The marker is random, so that no stored value can contain it. For sessions of
# 30 keys this takes 15 to 20 % less time than unpacking each field.
_MARK_VALUE = 2**63 + int.from_bytes(os.urandom(7), "big")
_MARK: bytes = msgpack.packb(_MARK_VALUE)
_INT64 = 2**63
_header: Callable[[int], bytes] = msgpack.Packer().pack_array_header
_HEADERS = [_header(length) for length in range(64)]


class Codec:
    """Packs the values of a session and unpacks them to the same values of the same types.

    Built in: None, bool, int of any size, float, str, bytes, list, tuple, dict (nested ones with keys of any type here that can
    be a key), set, frozenset, datetime (aware and naive), date, time, timedelta, Decimal, UUID. Other types, enums among them,
    are registered::

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
        # Types that hold no other values, so the walk need not enter them.
        self._leaves = IMMUTABLE
        self._spare: list[Packing] = []
        # It calls no hook, so all calls of encode can share it.
        self._pack_scalar: Callable[[Any], bytes] = msgpack.Packer(unicode_errors=SURROGATES).pack
        self._from_top_ext = partial(self._from_ext, 0)

    def register(
        self,
        cls: type[T],
        *,
        tag: str | None = None,
        encode: Callable[[T], Any] | None = None,
        decode: Callable[[Any], T] | None = None,
    ) -> None:
        """Registers a type. Every process that reads the sessions must register it, too.

        Args:
            cls: The type; its subclasses are other types.
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
        # Packers that were made before do not know the new type.
        self._spare.clear()

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
        packing: Packing | None = None
        for name, value in data.items():
            if type(name) is not str:
                shown = show(name)
                raise SerializationError(
                    f"session {key}: top-level keys of data must be str, not {type(name).__name__} ({shown})",
                    key=key,
                    path=shown,
                )
            kind = type(value)
            if kind in SCALARS and (kind is not int or -_INT64 <= value < _INT64):
                packed = self._pack_scalar(value)
            else:
                packing = packing or self._packing(max_bytes)
                packed = _pack(packing, value, name, key)
            field = name.encode("utf-8", SURROGATES)
            fields[field] = packed
            size += len(field) + len(packed)
            if size > max_bytes:
                raise too_large(key, size, max_bytes)
        if packing is not None:
            self._spare.append(packing)
        return fields

    def decode(
        self, fields: Mapping[bytes, bytes], *, max_bytes: int = DEFAULT_MAX_BYTES, key: str | None = None
    ) -> dict[str, Any]:
        """The reverse of ``encode``.

        Raises:
            CorruptSession: a field does not decode.
            SessionTooLarge: the fields take more than ``max_bytes`` bytes.
        """
        return self.decode_lists(list(fields), list(fields.values()), max_bytes=max_bytes, key=key)

    def decode_lists(self, names: list[bytes], packed: list[bytes], *, max_bytes: int, key: str | None) -> dict[str, Any]:
        """``decode`` for names and packed values that stand in two lists."""
        joined = _MARK.join(packed)
        count = len(packed)
        size = len(b"".join(names)) + len(joined) - len(_MARK) * (count - 1)
        if count and size > max_bytes:
            raise too_large(key, size, max_bytes)
        try:
            return self._decode_at_once(names, joined, count)
        except Exception:  # noqa: BLE001 - any error: decoding one field at a time finds the field
            return self._decode_one_by_one(names, packed, key)

    def _decode_at_once(self, names: list[bytes], joined: bytes, count: int) -> dict[str, Any]:
        if not count:
            return {}
        length = 2 * count - 1
        header = _HEADERS[length] if length < len(_HEADERS) else _header(length)
        items = msgpack.unpackb(header + joined, strict_map_key=False, unicode_errors=SURROGATES, ext_hook=self._from_top_ext)
        values = items[::2]
        if items[1::2].count(_MARK_VALUE) != count - 1:
            raise CodecError("a field that is not one value")
        if not SCALARS.issuperset(map(type, values)):
            for value in values:
                if type(value) not in self._leaves:
                    # A loaded value must be storable again, and another program may have written it.
                    check_loaded(value, self._leaves)
        return dict(zip(map(bytes.decode, names), values, strict=True))

    def _decode_one_by_one(self, names: list[bytes], packed: list[bytes], key: str | None) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for field, value in zip(names, packed, strict=True):
            try:
                data[field.decode("utf-8", SURROGATES)] = self._unpack(value)
            except Exception as error:
                name = field.decode("utf-8", "backslashreplace")
                raise CorruptSession(
                    f"session {key}: field {name!r} does not decode: {reason_of(error)}; "
                    "if that cannot be mended, delete the session, or replace it with set()",
                    key=key,
                    field=name,
                ) from error
        return data

    def _packing(self, max_bytes: int) -> Packing:
        """Takes a packer for one call: it is for one thread at a time, and a hook may call encode in turn."""
        try:
            packing = self._spare.pop()
        except IndexError:
            packing = Packing(self._by_type, self._leaves)
        packing.start(max_bytes)
        return packing

    def _unpack(self, packed: bytes) -> Any:
        value = self._unpack_below(packed, 0)
        if type(value) not in self._leaves:
            check_loaded(value, self._leaves)
        return value

    def _unpack_below(self, packed: bytes, depth: int) -> Any:
        if depth > MAX_DEPTH:
            # Some thousand nested extension types would overflow the stack of the process.
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


def _pack(packing: Packing, value: Any, name: str, key: str | None) -> bytes:
    try:
        return packing.pack(value)
    except TooManyBytesError:
        raise too_large(key, packing.max_bytes + 1, packing.max_bytes) from None
    except Exception as error:
        found = packing.locate(value, name) or CodecError(reason_of(error), name)
        raise SerializationError(
            f"session {key}: cannot store {found.path}: {found.reason}", key=key, path=found.path
        ) from error


def too_large(key: str | None, size: int, limit: int) -> SessionTooLarge:
    """The error for data that takes ``size`` bytes, of at most ``limit``."""
    return SessionTooLarge(
        f"session {key} takes {size:,} bytes or more, of at most {limit:,}; "
        "keep large things elsewhere and their ids here, or raise max_bytes",
        key=key,
        size=size,
        limit=limit,
    )


def _enum_hooks(cls: type[enum.Enum]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    # A combination of flags has no name, so flags are stored by value.
    if issubclass(cls, enum.Flag):
        return lambda member: member.value, cls
    return lambda member: member.name, lambda name: cls[name]
