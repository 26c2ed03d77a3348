"""The types that msgpack does not know, as its extension types.

The codes are part of what is stored: they are never renumbered, and their contents never change their form.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgpack

_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - what naive datetimes are counted from
_MICROSECOND = timedelta(microseconds=1)


class CodecError(Exception):
    """A value cannot be packed or unpacked. The message holds none of the data.

    Attributes:
        reason: Those words.
        path: Where inside of the data the value is; empty if that is not known.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path


class Ext(enum.IntEnum):
    """The codes of the extension types."""

    INT = 1  # big-endian two's complement; only beyond 64 bits
    TUPLE = 2  # array
    SET = 3  # array, sorted by packed element
    FROZENSET = 4  # array, sorted by packed element
    DATETIME = 5  # [local microseconds since 1970, zone, fold]
    DATE = 6  # proleptic ordinal, big-endian
    TIME = 7  # [microseconds since midnight, zone, fold]
    TIMEDELTA = 8  # [days, seconds, microseconds]
    DECIMAL = 9  # str()
    UUID = 10  # 16 bytes
    REGISTERED = 11  # [tag, what its encode gave]


def _zone(zone: tzinfo | None, offset: timedelta | None, what: str) -> int | str | None:
    """The stored form of a time zone: the key of a ZoneInfo, else the offset in microseconds; None for a naive value."""
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and zone.key is not None:
        return zone.key
    if offset is None:
        raise CodecError(f"the zone of this {what} has no fixed offset; use datetime.timezone or ZoneInfo")
    return offset // _MICROSECOND


def _to_zone(zone: int | str | None) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        try:
            return ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise CodecError("its time zone is not known here; install the tzdata package") from error
    return timezone(timedelta(microseconds=zone)) if zone else UTC


def _from_datetime(value: datetime) -> bytes:
    local = (value.replace(tzinfo=None) - _NAIVE_EPOCH) // _MICROSECOND
    return _array(local, _zone(value.tzinfo, value.utcoffset(), "datetime"), value.fold)


def _to_datetime(micros: int, zone: int | str | None, fold: int) -> datetime:
    return (_NAIVE_EPOCH + timedelta(microseconds=micros)).replace(tzinfo=_to_zone(zone), fold=fold)


def _from_time(value: time) -> bytes:
    micros = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
    return _array(micros, _zone(value.tzinfo, value.utcoffset(), "time"), value.fold)


def _to_time(micros: int, zone: int | str | None, fold: int) -> time:
    return (_NAIVE_EPOCH + timedelta(microseconds=micros)).time().replace(tzinfo=_to_zone(zone), fold=fold)


def _array(*items: int | str | None) -> bytes:
    packed: bytes = msgpack.packb(items)
    return packed


def _of_array(make: Callable[..., Any]) -> Callable[[bytes], Any]:
    # The items are numbers, text and None, never extension types, so nothing nests here.
    return lambda content: make(*msgpack.unpackb(content))


#: How to encode the types that hold no other values.
ENCODERS: dict[type, tuple[Ext, Callable[[Any], bytes]]] = {
    int: (Ext.INT, lambda value: value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)),
    datetime: (Ext.DATETIME, _from_datetime),
    date: (Ext.DATE, lambda value: value.toordinal().to_bytes(4, "big")),
    time: (Ext.TIME, _from_time),
    timedelta: (Ext.TIMEDELTA, lambda value: _array(value.days, value.seconds, value.microseconds)),
    Decimal: (Ext.DECIMAL, lambda value: str(value).encode("ascii")),
    UUID: (Ext.UUID, lambda value: value.bytes),
}

#: How to decode them.
DECODERS: dict[int, Callable[[bytes], Any]] = {
    Ext.INT: lambda content: int.from_bytes(content, "big", signed=True),
    Ext.DATETIME: _of_array(_to_datetime),
    Ext.DATE: lambda content: date.fromordinal(int.from_bytes(content, "big")),
    Ext.TIME: _of_array(_to_time),
    Ext.TIMEDELTA: _of_array(timedelta),
    Ext.DECIMAL: lambda content: Decimal(content.decode("ascii")),
    Ext.UUID: lambda content: UUID(bytes=content),
}

#: Containers that msgpack does not have: what to make of a list of the items.
CONTAINERS: dict[int, Callable[[list[Any]], Any]] = {Ext.TUPLE: tuple, Ext.SET: set, Ext.FROZENSET: frozenset}
