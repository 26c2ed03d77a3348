"""Values to msgpack and back, with their types.

msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md) knows None, bool, 64-bit integers, float, str, bytes, list
and dict. The rest travels as its extension types, with the codes of ``_Ext``; they are part of what is stored and never
change their meaning.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgpack

from .errors import CorruptSession, SerializationError, SessionTooLarge

T = TypeVar("T")

#: How many containers may stand inside each other in a value.
MAX_DEPTH = 32
#: The default limit on the bytes of a session: all top-level keys and their packed values.
DEFAULT_MAX_BYTES = 1024 * 1024

_SURROGATES = "surrogatepass"
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_KEY_TYPES = frozenset({str, int, bytes})
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - what naive datetimes are counted from
_MICROSECOND = timedelta(microseconds=1)


class _Ext(enum.IntEnum):
    """Codes of the extension types. Stored: never renumber."""

    INT = 1  # big-endian two's complement; only beyond 64 bits
    TUPLE = 2  # array
    SET = 3  # array, sorted by packed element
    FROZENSET = 4  # array, sorted by packed element
    DATETIME = 5  # [local microseconds since 1970, zone, fold]
    DATE = 6  # proleptic ordinal
    TIME = 7  # [microseconds since midnight, zone, fold]
    TIMEDELTA = 8  # [days, seconds, microseconds]
    DECIMAL = 9  # str()
    UUID = 10  # 16 bytes
    REGISTERED = 11  # [tag, what its encode gave]


@dataclass(frozen=True, slots=True)
class _Registered:
    tag: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class _CodecError(Exception):
    """Why a value cannot be packed or unpacked, in words that hold none of the data; and where inside of it."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path


class _TooManyItemsError(Exception):
    """More items than there may be bytes."""


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
        self._by_type: dict[type, _Registered] = {}
        self._by_tag: dict[str, _Registered] = {}
        self._leaves: frozenset[type] = _SCALARS | _EXT_ENCODERS.keys()

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
            ValueError: the type is built in, or the type or the tag is registered already.
        """
        if encode is None and decode is None and issubclass(cls, enum.Enum):
            encode, decode = _enum_hooks(cls)
        if encode is None or decode is None:
            raise TypeError(f"{cls.__qualname__} is not an Enum: give encode= and decode=")
        tag = cls.__name__ if tag is None else tag
        built_in: frozenset[type] = _CONTAINERS
        if cls in self._leaves | built_in:
            raise ValueError(f"{cls.__qualname__} is built in or registered already")
        if tag in self._by_tag:
            raise ValueError(f"the tag {tag!r} is taken; give {cls.__qualname__} another with tag=")
        self._by_type[cls] = self._by_tag[tag] = _Registered(tag, encode, decode)
        self._leaves |= {cls}

    def encode(
        self, data: Mapping[str, Any], *, max_bytes: int = DEFAULT_MAX_BYTES, key: str | None = None
    ) -> dict[bytes, bytes]:
        """Packs each top-level value of ``data``: {UTF-8 name: msgpack}.

        Equal values give equal bytes, whatever order their sets were filled in.

        Raises:
            SerializationError: a value cannot be stored; its ``path`` says which.
            SessionTooLarge: names and values together take more than ``max_bytes`` bytes.
        """
        if not isinstance(data, Mapping):
            raise SerializationError(f"the data of session {key} must be a dict, not {type(data).__name__}", key=key, path="")
        fields: dict[bytes, bytes] = {}
        size = 0
        pack = self._packer()
        for name, value in data.items():
            if type(name) is not str:
                raise SerializationError(
                    f"session {key}: top-level keys of data must be str, not {type(name).__name__} ({name!r})",
                    key=key,
                    path=repr(name),
                )
            try:
                if type(value) not in _SCALARS:
                    self._check(value, max_bytes)
                packed = pack(value)
            except _TooManyItemsError:
                raise _too_large(key, max_bytes + 1, max_bytes) from None
            except Exception as error:
                path, reason = self._explain(value, name, error)
                raise SerializationError(f"session {key}: cannot store {path}: {reason}", key=key, path=path) from error
            field = name.encode("utf-8", _SURROGATES)
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
                data[field.decode("utf-8", _SURROGATES)] = self._unpack(packed)
            except Exception as error:
                name = field.decode("utf-8", "backslashreplace")
                raise CorruptSession(
                    f"session {key}: field {name!r} does not decode: {_reason(error)}; delete the session, or set it anew",
                    key=key,
                    field=name,
                ) from error
        return data

    def _packer(self) -> Callable[[Any], bytes]:
        # A Packer belongs to one thread at a time and is not re-entrant: one for each call.
        packer = msgpack.Packer(default=self._ext, strict_types=True, unicode_errors=_SURROGATES, buf_size=4096)
        pack: Callable[[Any], bytes] = packer.pack
        return pack

    def _ext(self, value: Any) -> msgpack.ExtType:
        encoder = _EXT_ENCODERS.get(type(value))
        if encoder is not None:
            code, content = encoder(value)
            return msgpack.ExtType(code, content if isinstance(content, bytes) else self._packer()(content))
        if isinstance(value, set | frozenset):
            pack = self._packer()
            elements = sorted(map(pack, value))
            header: bytes = msgpack.Packer().pack_array_header(len(elements))
            return msgpack.ExtType(_Ext.SET if type(value) is set else _Ext.FROZENSET, header + b"".join(elements))
        if type(value) is tuple:
            return msgpack.ExtType(_Ext.TUPLE, self._packer()(list(value)))
        registered = self._by_type[type(value)]
        content = registered.encode(value)
        self._check(content, None)
        return msgpack.ExtType(_Ext.REGISTERED, self._packer()([registered.tag, content]))

    def _check(self, value: Any, max_items: int | None) -> None:
        """Refuses types and depths that msgpack itself would let pass."""
        level: list[Any] = [value]
        count = 0
        leaves = self._leaves
        for _ in range(MAX_DEPTH + 1):
            below: list[Any] = []
            for item in level:
                kind = type(item)
                if kind in leaves:
                    continue
                if kind is dict:
                    if not _KEY_TYPES.issuperset(map(type, item)):
                        raise _CodecError("a dict with a key that is not str, int or bytes")
                    below.extend(item.values())
                elif kind in _CONTAINERS:
                    below.extend(item)
                else:
                    raise _CodecError(f"no encoding for {kind.__qualname__}")
            if not below:
                return
            # A list that holds itself many times over must not be walked to the end: each item takes a byte at least.
            count += len(below)
            if max_items is not None and count > max_items:
                raise _TooManyItemsError
            level = below
        raise _CodecError(_TOO_DEEP)

    def _explain(self, value: Any, name: str, error: Exception) -> tuple[str, str]:
        """The path of the first item of ``value`` that cannot be stored, and why; the slow way, once an error is certain."""
        try:
            self._locate(value, name, 0)
        except _CodecError as found:
            return found.path, found.reason
        return name, _reason(error)

    def _locate(self, value: Any, path: str, depth: int) -> None:
        kind = type(value)
        if kind in _CONTAINERS:
            if depth == MAX_DEPTH:
                raise _CodecError(_TOO_DEEP, path)
            for step, item in _children(value, path):
                self._locate(item, path + step, depth + 1)
        elif kind not in self._leaves:
            hint = f"store {_base(kind)}(...), or " if _base(kind) else ""
            raise _CodecError(f"no encoding for {kind.__qualname__}; {hint}register the type with Codec.register", path)
        else:
            try:
                self._packer()(value)
            except Exception as error:
                raise _CodecError(f"{kind.__qualname__}: {_reason(error)}", path) from error

    def _unpack(self, packed: bytes) -> Any:
        value = self._unpackb(packed)
        # A container takes a byte at least, so what is short cannot be deep.
        if len(packed) > MAX_DEPTH and type(value) in _CONTAINERS and _deeper_than(value, MAX_DEPTH):
            raise _CodecError(_TOO_DEEP)
        return value

    def _unpackb(self, packed: bytes) -> Any:
        return msgpack.unpackb(packed, strict_map_key=False, unicode_errors=_SURROGATES, ext_hook=self._from_ext)

    def _from_ext(self, code: int, content: bytes) -> Any:
        decoder = _EXT_DECODERS.get(code)
        if decoder is not None:
            return decoder(content)
        if code in _SEQUENCE_EXTS:
            return _SEQUENCE_EXTS[code](self._unpackb(content))
        if code in _ARRAY_EXTS:
            return _ARRAY_EXTS[code](*self._unpackb(content))
        if code != _Ext.REGISTERED:
            raise _CodecError(f"unknown extension type {code}")
        tag, encoded = self._unpackb(content)
        if tag not in self._by_tag:
            raise _CodecError(f"the type {tag!r} is not registered here; register it with Codec.register")
        return self._by_tag[tag].decode(encoded)


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _reason(error: Exception) -> str:
    # What others say may quote the data; they are the cause of what is raised, not part of its message.
    return error.reason if isinstance(error, _CodecError) else type(error).__name__


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
    return lambda member: member.name, cls.__getitem__


def _base(kind: type) -> str:
    """The built-in type that ``kind`` is a kind of, for a hint."""
    for base in (dict, list, tuple, set, frozenset, str, bytes, int, float):
        if issubclass(kind, base):
            return base.__name__
    return "bytes" if kind in (bytearray, memoryview) else ""


def _children(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if type(value) is dict:
        for name, item in value.items():
            if type(name) not in _KEY_TYPES:
                raise _CodecError(
                    f"the key of a nested dict must be str, int or bytes, not {type(name).__qualname__}", f"{path}[{name!r}]"
                )
            yield f".{name}" if type(name) is str and name.isidentifier() else f"[{name!r}]", item
    elif type(value) in (list, tuple):
        for number, item in enumerate(value):
            yield f"[{number}]", item
    else:
        for item in value:
            yield "{*}", item


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below.extend(item.values())
            elif kind in _CONTAINERS:
                below.extend(item)
        if not below:
            return False
        level = below
    return True


def _zone(zone: tzinfo | None, offset: timedelta | None, what: str) -> int | str | None:
    """How a time zone is stored: the key of a ZoneInfo, else the offset in microseconds, None for naive."""
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and zone.key is not None:
        return zone.key
    if offset is None:
        raise _CodecError(f"the zone of this {what} has no fixed offset; use datetime.timezone or ZoneInfo")
    return offset // _MICROSECOND


def _from_zone(zone: int | str | None) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        try:
            return ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise _CodecError(f"the time zone {zone!r} is not known here; install the tzdata package") from error
    return timezone(timedelta(microseconds=zone)) if zone else UTC


def _from_datetime(value: datetime) -> tuple[int, Any]:
    local = (value.replace(tzinfo=None) - _NAIVE_EPOCH) // _MICROSECOND
    return _Ext.DATETIME, [local, _zone(value.tzinfo, value.utcoffset(), "datetime"), value.fold]


def _to_datetime(micros: int, zone: int | str | None, fold: int) -> datetime:
    return (_NAIVE_EPOCH + timedelta(microseconds=micros)).replace(tzinfo=_from_zone(zone), fold=fold)


def _from_time(value: time) -> tuple[int, Any]:
    micros = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
    return _Ext.TIME, [micros, _zone(value.tzinfo, value.utcoffset(), "time"), value.fold]


def _to_time(micros: int, zone: int | str | None, fold: int) -> time:
    return (_NAIVE_EPOCH + timedelta(microseconds=micros)).time().replace(tzinfo=_from_zone(zone), fold=fold)


_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})

# What is encoded the same way whatever the codec has registered: content is bytes, or a value that is packed.
_EXT_ENCODERS: dict[type, Callable[[Any], tuple[int, Any]]] = {
    int: lambda value: (_Ext.INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)),
    datetime: _from_datetime,
    date: lambda value: (_Ext.DATE, value.toordinal().to_bytes(4, "big")),
    time: _from_time,
    timedelta: lambda value: (_Ext.TIMEDELTA, [value.days, value.seconds, value.microseconds]),
    Decimal: lambda value: (_Ext.DECIMAL, str(value).encode("ascii")),
    UUID: lambda value: (_Ext.UUID, value.bytes),
}

_EXT_DECODERS: dict[int, Callable[[bytes], Any]] = {
    _Ext.INT: lambda content: int.from_bytes(content, "big", signed=True),
    _Ext.DATE: lambda content: date.fromordinal(int.from_bytes(content, "big")),
    _Ext.DECIMAL: lambda content: Decimal(content.decode("ascii")),
    _Ext.UUID: lambda content: UUID(bytes=content),
}

_SEQUENCE_EXTS: dict[int, Callable[[Any], Any]] = {_Ext.TUPLE: tuple, _Ext.SET: set, _Ext.FROZENSET: frozenset}

_ARRAY_EXTS: dict[int, Callable[..., Any]] = {_Ext.DATETIME: _to_datetime, _Ext.TIME: _to_time, _Ext.TIMEDELTA: timedelta}
