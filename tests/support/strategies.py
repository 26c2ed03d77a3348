"""Hypothesis strategies for ids and for values of every type, and a strict comparison of values."""

from __future__ import annotations

import enum
import string
import struct
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from redis_botsession import Codec
from redis_botsession.testing.harness import ODD_IDS

MICROSECOND = timedelta(microseconds=1)

#: Any text, including lone surrogates, which a str may hold.
texts = st.text(st.characters())

# Random text hardly ever has separators, braces and (partial) escapes side by side.
_pieces = st.sampled_from((*":{}%~*?[]\\.-_ \n\x00", *"01aAé🤖\ud800\udfff", "%3A", "%3a", "%7B", "}:{", "}:"))
ids = st.one_of(
    st.lists(_pieces, min_size=1, max_size=6).map("".join),
    st.sampled_from(ODD_IDS),
    st.text(st.characters(), min_size=1),
)
prefixes = st.one_of(
    st.text(st.sampled_from(string.ascii_lowercase[:2] + ":%.\n-^é\ud800"), max_size=4),
    st.text(st.characters(exclude_characters="{}*?[]\\"), max_size=8),
)


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Step(enum.StrEnum):
    NAME = "name"
    EMAIL = "email"


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    ADMIN = enum.auto()


class Modes(enum.IntFlag):
    A = 1
    B = 2


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: Any


def registered_codec() -> Codec:
    """Returns a codec with the types above registered."""
    codec = Codec()
    for kind in (Color, Level, Step, Rights, Modes):
        codec.register(kind)
    codec.register(Money, encode=lambda money: (money.amount, money.currency), decode=lambda pair: Money(*pair))
    return codec


_edges = st.sampled_from(
    [sign * 2**bits + step for bits in (5, 7, 8, 16, 31, 32, 53, 63, 64, 200) for sign in (1, -1) for step in (-1, 0, 1)]
)
integers = st.one_of(st.integers(), _edges)

# An offset may be anything under a day, to the microsecond.
_offsets = st.one_of(
    st.integers(-23, 23).map(lambda hours: timedelta(hours=hours)),
    st.timedeltas(MICROSECOND - timedelta(days=1), timedelta(days=1) - MICROSECOND),
)
zones = st.one_of(st.none(), _offsets.map(timezone), st.timezones())
folds = st.sampled_from([0, 1])
datetimes = st.builds(lambda when, zone, fold: when.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, folds)
times = st.builds(lambda when, zone, fold: when.replace(tzinfo=zone, fold=fold), st.times(), zones, folds)

_digits = st.lists(st.integers(0, 9), max_size=30).map(tuple)
_signs = st.sampled_from([0, 1])
_numbers = st.one_of(
    st.decimals(allow_nan=False),
    st.builds(lambda sign, digits, exponent: Decimal((sign, digits, exponent)), _signs, _digits, st.integers(-(10**9), 10**9)),
    # A NaN can carry a payload of digits.
    st.from_regex(r"-?NaN([1-9][0-9]{0,20})?", fullmatch=True, alphabet=st.characters(codec="ascii")).map(Decimal),
)
decimals = st.one_of(
    _numbers,
    st.from_regex(r"-?sNaN([1-9][0-9]{0,20})?", fullmatch=True, alphabet=st.characters(codec="ascii")).map(Decimal),
)

_registered = st.one_of(
    st.sampled_from([*Color, *Level, *Step]),
    st.sampled_from([Rights(0), Rights.READ, Rights.READ | Rights.ADMIN, ~Rights.READ, Modes(0), Modes.A | Modes.B]),
    st.builds(Money, _numbers, texts),
)
# Without signaling NaN, which cannot be hashed.
_hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(),
    texts,
    st.binary(),
    datetimes,
    st.dates(),
    times,
    st.timedeltas(),
    _numbers,
    st.uuids(),
    _registered,
)
leaves = st.one_of(_hashable_leaves, decimals)


def _hashable_containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.frozensets(items, max_size=4), st.lists(items, max_size=4).map(tuple))


hashables = st.recursive(_hashable_leaves, _hashable_containers, max_leaves=8)
dict_keys = st.one_of(texts, integers, st.binary(), hashables)


def _containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(items, max_size=4),
        st.lists(items, max_size=4).map(tuple),
        st.dictionaries(dict_keys, items, max_size=4),
        st.sets(hashables, max_size=4),
        st.frozensets(hashables, max_size=4),
        st.builds(lambda amount, note: Money(amount, note), _numbers, items),
    )


#: Values of every type, nested.
values = st.recursive(leaves, _containers, max_leaves=12)
datas = st.dictionaries(texts, values, max_size=4)


def shape(value: Any) -> Any:
    """Returns a description of a value that is equal for equal values of equal types.

    ``==`` on the values is too weak (1 == True, -0.0 == 0.0, one instant in two zones) and too strong (nan != nan).
    """
    kind = type(value)
    match value:
        case enum.Enum():
            return kind, value.name, value.value
        case Money():
            return kind, shape(value.amount), shape(value.currency)
        case list() | tuple():
            return kind, [shape(item) for item in value]
        case dict():
            return kind, [(shape(name), shape(item)) for name, item in value.items()]
        case set() | frozenset():
            return kind, sorted((shape(item) for item in value), key=repr)
        case float():
            return kind, struct.pack(">d", value)
        case bool() | None | str() | bytes() | UUID() | timedelta():
            return kind, value
        case int():
            # Hexadecimal: repr() refuses numbers of over 4,300 digits.
            return kind, hex(value)
        case Decimal():
            return kind, value.as_tuple()
        case datetime() | time():
            return kind, value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo)
        case date():
            return kind, value.isoformat()
    raise AssertionError(f"no shape for {kind}")


def _zone(zone: tzinfo | None) -> Any:
    if isinstance(zone, ZoneInfo):
        return ZoneInfo, zone.key
    return zone and (type(zone), zone.utcoffset(None))
