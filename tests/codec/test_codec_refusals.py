"""What cannot be stored is refused: an error says where, and leaks nothing."""

from __future__ import annotations

import collections
import enum
from collections.abc import Callable
from datetime import UTC, datetime, time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_botsession import Codec, CorruptSession, SerializationError, SessionTooLarge
from redis_botsession._codec.walk import MAX_DEPTH

from ..support.packed_values import (
    CODEC,
    SECRET,
    Day,
    Exact,
    Fixed,
    Instant,
    Items,
    Loud,
    Pair,
    Price,
    Raw,
    Real,
    Tags,
    Text,
    Whole,
    Zone,
    assert_holds_no_secret,
    ext,
    is_hashable,
    loaded,
    nested,
    packb,
    raw_ext,
    refused,
    stored,
)
from ..support.strategies import Money, Step

# --- what cannot be stored


class Unregistered(enum.IntEnum):
    ONE = 1


UNSTORABLE: list[Any] = [
    object(),
    Loud(),
    iter(()),
    bytearray(SECRET.encode()),
    memoryview(SECRET.encode()),
    collections.OrderedDict(a=SECRET),
    collections.defaultdict(list),
    collections.Counter(),
    collections.deque([SECRET]),
    Unregistered.ONE,
    Price(1, SECRET),
    Text(SECRET),
    Whole(1),
    Real(1.0),
    Raw(SECRET.encode()),
    Items([SECRET]),
    Pair((SECRET,)),
    Tags({SECRET}),
    Fixed({SECRET}),
    Instant(2026, 1, 1, tzinfo=UTC),
    Day(2026, 1, 1),
    Exact(1),
    datetime(2026, 1, 1, tzinfo=Zone(None)),
    time(1, tzinfo=Zone(None)),
    msgpack.ExtType(2, SECRET.encode()),
    msgpack.Timestamp(1, 2),
    complex(1, 2),
    Fraction(1, 2),
    range(3),
    ...,
    NotImplemented,
    int,
    print,
    ValueError(SECRET),
    {}.keys(),
]
IDENTIFIED = [("price", ".price"), ("class", ".class"), ("цена", ".цена")]
QUOTED: list[tuple[Any, str]] = [
    ("odd key", "['odd key']"),
    ("", "['']"),
    ("it's", '["it\'s"]'),
    ("1", "['1']"),
    ("a.b", "['a.b']"),
    (5, "[5]"),
    (-(2**70), f"[{-(2**70)}]"),
    (b"x", "[b'x']"),
]


@st.composite
def buried(draw: st.DrawFn) -> tuple[Any, str]:
    """Something that cannot be stored, somewhere inside of a value; and its path from there."""
    value = draw(st.sampled_from(UNSTORABLE))
    path = ""
    for kind in draw(st.lists(st.sampled_from(["list", "tuple", "dict", "set", "frozenset"]), max_size=6)):
        others = [SECRET] * draw(st.integers(0, 2))
        if kind == "dict":
            key, step = draw(st.sampled_from(IDENTIFIED + QUOTED))
            value = {"before": SECRET, key: value, "after": [SECRET]}
        elif kind in ("set", "frozenset"):
            if not is_hashable(value):
                continue
            step = "{*}"
            value = {value, *others} if kind == "set" else frozenset({value, *others})
        else:
            step = f"[{len(others)}]"
            value = [*others, value, SECRET] if kind == "list" else (*others, value, SECRET)
        path = step + path
    return value, path


@given(buried())
def test_codec_what_cannot_be_stored_is_refused_with_its_path(case: tuple[Any, str]) -> None:
    value, path = case
    with refused(f"cart{path}"):
        CODEC.encode({"before": SECRET, "cart": value, "after": [SECRET]}, key="the key")


@pytest.mark.parametrize("value", UNSTORABLE, ids=lambda value: type(value).__name__)
def test_codec_what_cannot_be_stored_is_refused_by_the_name_of_its_type(value: Any) -> None:
    with refused("a"):
        CODEC.encode({"a": value}, key="the key")
    with refused("cart[2].price"):
        CODEC.encode({"cart": [SECRET, {}, {"price": value}]}, key="the key")
    if not isinstance(value, datetime | time):
        with pytest.raises(SerializationError, match=rf"\b{type(value).__qualname__}\b"):
            stored(value)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (Text("x"), r"str\(\.\.\.\).*Codec\.register"),
        (Price(1, "x"), r"tuple\(\.\.\.\).*Codec\.register"),
        (collections.OrderedDict(), r"dict\(\.\.\.\).*Codec\.register"),
        (Unregistered.ONE, r"int\(\.\.\.\).*Codec\.register"),
        (object(), r"Codec\.register"),
        (bytearray(), r"bytes\(\.\.\.\)$"),
        (memoryview(b""), r"bytes\(\.\.\.\)$"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_codec_what_is_refused_is_told_what_to_do_about_it(value: Any, hint: str) -> None:
    with pytest.raises(SerializationError, match=hint):
        stored([value])


class Unshowable:
    def __repr__(self) -> str:
        raise LookupError(SECRET)


BAD_KEYS: list[Any] = [
    Text("x"),
    Whole(1),
    Raw(b"x"),
    Unregistered.ONE,
    (1, Text("x")),
    frozenset({(Unregistered.ONE,)}),
]


@pytest.mark.parametrize("bad", BAD_KEYS, ids=repr)
def test_codec_dict_with_a_key_that_cannot_be_stored_is_refused(bad: Any) -> None:
    for data, path in (
        ({"a": {bad: SECRET}}, f"a[{bad!r}]"),
        ({"a": [0, ({"b": {"ok": SECRET, bad: SECRET}},)]}, f"a[1][0].b[{bad!r}]"),
        ({"a": Money(Decimal(1), {bad: SECRET})}, "a"),
    ):
        with pytest.raises(SerializationError) as caught:
            CODEC.encode(data, key="the key")
        assert caught.value.path is not None
        # Inside of the key, it goes on.
        assert caught.value.path.startswith(path)
        assert_holds_no_secret(caught.value)


@pytest.mark.parametrize("bad", [1, b"a", None, 1.5, True, (1, 2), Text("x"), Step.NAME], ids=repr)
def test_codec_top_level_key_that_is_not_str_is_refused(bad: Any) -> None:
    with refused(repr(bad)):
        CODEC.encode({"a": SECRET, bad: SECRET}, key="the key")


@pytest.mark.parametrize(
    "data",
    [
        {Unshowable(): SECRET},
        {10**5000: SECRET},
        {"a": {Unshowable(): SECRET}},
        {"a": [{10**5000: object()}]},
        {"a": {(10**5000, object()): SECRET}},
    ],
    ids=["top-level object", "top-level int", "object", "int", "tuple"],
)
def test_codec_key_that_cannot_be_shown_is_refused_like_any_other(data: Any) -> None:
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(data, key="the key")
    assert_holds_no_secret(caught.value)


@pytest.mark.parametrize("data", [None, SECRET, [SECRET], [("a", SECRET)], {SECRET}, 1], ids=lambda data: type(data).__name__)
def test_codec_data_that_is_no_mapping_is_refused(data: Any) -> None:
    with refused(""):
        CODEC.encode(data, key="the key")


# --- nothing of a session in a message


def raising(error: Exception) -> Callable[[Any], Any]:
    def hook(_: Any) -> Any:
        raise error

    return hook


LOUD_ERRORS = [
    ValueError(SECRET),
    KeyError(SECRET),
    SerializationError(SECRET, path=SECRET),
    CorruptSession(SECRET, field=SECRET),
]


@pytest.mark.parametrize("error", LOUD_ERRORS, ids=lambda error: type(error).__name__)
def test_codec_what_a_hook_says_stays_out_of_the_message(error: Exception) -> None:
    writes, reads = Codec(), Codec()
    writes.register(Loud, encode=raising(error), decode=raising(error))
    with refused("a[0].b"):
        writes.encode({"a": [{"b": Loud()}]}, key="the key")
    reads.register(Loud, encode=lambda _: SECRET, decode=raising(error))
    with pytest.raises(CorruptSession) as caught:
        loaded(stored([Loud()], reads), reads)
    assert (caught.value.key, caught.value.field) == ("k", "a")
    assert_holds_no_secret(caught.value)


@pytest.mark.parametrize(
    "result", [object(), Loud(), [bytearray(SECRET.encode())], {"a": Text(SECRET)}, {Loud(): 1}, {(SECRET, Loud()): 1}]
)
def test_codec_what_a_hook_gives_is_refused_at_the_value_it_is_for(result: Any) -> None:
    codec = Codec()
    codec.register(Loud, encode=lambda _: result, decode=lambda _: Loud())
    with refused("a[0].b"):
        codec.encode({"a": [{"b": Loud()}]}, key="the key")


@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 1, tzinfo=Zone(LookupError(SECRET))), time(1, tzinfo=Zone(LookupError(SECRET)))]
)
def test_codec_what_a_zone_says_stays_out_of_the_message(value: Any) -> None:
    with refused("a[0]"):
        CODEC.encode({"a": [value]}, key="the key")


def test_codec_what_is_too_large_or_too_deep_stays_out_of_the_message() -> None:
    with pytest.raises(SessionTooLarge) as caught:
        CODEC.encode({"a": SECRET * 10}, max_bytes=100)
    assert_holds_no_secret(caught.value)
    with pytest.raises(SessionTooLarge) as caught:
        CODEC.decode({b"a": stored(SECRET * 10)}, max_bytes=100)
    assert_holds_no_secret(caught.value)
    with refused("a" + MAX_DEPTH * "[0]"):
        CODEC.encode({"a": nested(["list"] * (MAX_DEPTH + 1), SECRET)}, key="the key")


@pytest.mark.parametrize(
    "packed",
    [
        packb(SECRET)[:-1],
        packb(SECRET) + b"\xc0",
        packb([SECRET, 1])[:-1],
        b"\xc1" + SECRET.encode(),
        packb({SECRET: 1}) + packb(SECRET),
        raw_ext(9, SECRET.encode()),
        raw_ext(10, SECRET.encode()),
        raw_ext(77, SECRET.encode()),
        ext(3, [SECRET]),
        ext(5, SECRET, SECRET, 0),
        ext(8, SECRET, 0, 0),
        ext(11, "Color", SECRET),
        ext(11, "nobody's", SECRET),
    ],
    ids=bytes.hex,
)
def test_codec_what_does_not_decode_stays_out_of_the_message(packed: bytes) -> None:
    with pytest.raises(CorruptSession) as caught:
        loaded(packed)
    assert_holds_no_secret(caught.value)
