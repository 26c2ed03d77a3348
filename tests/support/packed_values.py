"""Helpers for tests of the codec: short calls, values packed by hand, and types that the codec must refuse."""

from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, NamedTuple

import msgpack
import pytest

from redis_botsession import Codec, SerializationError

from .strategies import registered_codec

CODEC = registered_codec()
#: Stands for session data, which must not get into a log line or an error.
SECRET = "s3cret-value"  # noqa: S105 - it protects nothing


def stored(value: Any, codec: Codec = CODEC) -> bytes:
    """Returns the packed value that the codec makes of ``value``."""
    return codec.encode({"a": value})[b"a"]


def loaded(packed: bytes, codec: Codec = CODEC) -> Any:
    """Returns the value that the codec makes of ``packed``."""
    return codec.decode({b"a": packed}, key="k")["a"]


def ext(code: int, *items: Any) -> bytes:
    """Packs an extension type whose content is an array of ``items``."""
    return raw_ext(code, packb(list(items)))


def raw_ext(code: int, content: bytes) -> bytes:
    # Not msgpack.ExtType, which refuses codes below 0.
    packed: bytes = msgpack.Packer().pack_ext_type(code, content)
    return packed


def packb(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


class Zone(tzinfo):
    """A time zone class of an application, with an offset that may be invalid."""

    def __init__(self, offset: timedelta | Exception | None) -> None:
        self.offset = offset

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        if isinstance(self.offset, Exception):
            raise self.offset
        return self.offset

    def dst(self, when: datetime | None) -> timedelta | None:
        return None

    def tzname(self, when: datetime | None) -> str | None:
        return None


class Loud:
    """A value whose text in every form is the secret."""

    def __repr__(self) -> str:
        return SECRET

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return SECRET


def is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@contextmanager
def refused(path: str, key: str | None = "the key") -> Iterator[None]:
    """Expects a SerializationError that names the path and the key, and shows no session data."""
    with pytest.raises(SerializationError) as caught:
        yield
    assert caught.value.path == path
    assert caught.value.key == key
    assert path in str(caught.value)
    assert str(key) in str(caught.value)
    assert_holds_no_secret(caught.value)


def assert_holds_no_secret(error: Exception) -> None:
    assert SECRET not in str(error)
    assert SECRET not in repr(error)
    assert SECRET not in repr(vars(error))


#: Each puts a value into a container.
WRAP: dict[str, Callable[[Any], Any]] = {
    "list": lambda item: [item],
    "tuple": lambda item: (item,),
    "dict": lambda item: {"k": item},
    "set": lambda item: {item},
    "frozenset": lambda item: frozenset({item}),
}


#: Like ``WRAP`` for packed values. Packed by hand, because the codec refuses to pack some of these.
WRAP_PACKED: dict[str, Callable[[bytes], bytes]] = {
    "list": lambda packed: b"\x91" + packed,
    "dict": lambda packed: b"\x81\xa1k" + packed,
    "tuple": lambda packed: raw_ext(2, b"\x91" + packed),
    "set": lambda packed: raw_ext(3, b"\x91" + packed),
    "frozenset": lambda packed: raw_ext(4, b"\x91" + packed),
}


def nested(kinds: list[str], bottom: Any) -> Any:
    """Wraps ``bottom`` in containers; the first of ``kinds`` is the innermost."""
    return functools.reduce(lambda item, kind: WRAP[kind](item), kinds, bottom)


def nested_packed(kinds: list[str], bottom: bytes) -> bytes:
    """Wraps the packed value ``bottom`` in packed containers; the first of ``kinds`` is the innermost."""
    return functools.reduce(lambda packed, kind: WRAP_PACKED[kind](packed), kinds, bottom)


@contextmanager
def little_memory(limit: int = 4_000_000) -> Iterator[None]:
    """Fails if the block allocates ``limit`` bytes or more at a time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


# Subclasses of the built-in types, which would come back as their base class.


class Price(NamedTuple):
    amount: int
    currency: str


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Raw(bytes):
    pass


class Items(list[Any]):
    pass


class Pair(tuple[Any, ...]):
    __slots__ = ()


class Tags(set[Any]):
    pass


class Fixed(frozenset[Any]):
    pass


class Instant(datetime):
    pass


class Day(date):
    pass


class Exact(Decimal):
    pass
