"""Values to bytes and back: the same value of the same type, or an error that says where and leaks nothing."""

from __future__ import annotations

import collections
import enum
import functools
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_botsession import Codec, CorruptSession, SerializationError, SessionTooLarge
from redis_botsession.packing import MAX_DEPTH

from .strategies import Color, Level, Modes, Money, Rights, Step, datas, hashables, registered_codec, shape, texts, values

CODEC = registered_codec()
#: Stands for what must not get into a log.
SECRET = "s3cret-value"  # noqa: S105 - it is one for the tests only


def stored(value: Any, codec: Codec = CODEC) -> bytes:
    """What is stored for ``value``."""
    return codec.encode({"a": value})[b"a"]


def loaded(packed: bytes, codec: Codec = CODEC) -> Any:
    """The value that ``packed`` is loaded as."""
    return codec.decode({b"a": packed}, key="k")["a"]


def ext(code: int, *items: Any) -> bytes:
    """An extension type whose content is an array of ``items``."""
    return raw_ext(code, packb(list(items)))


def raw_ext(code: int, content: bytes) -> bytes:
    # Not ExtType: that refuses the codes below 0.
    packed: bytes = msgpack.Packer().pack_ext_type(code, content)
    return packed


def packb(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


class Zone(tzinfo):
    """A zone of an application's own."""

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


# --- what goes in comes out


@given(datas)
def test_values_come_back_with_their_types(data: dict[str, Any]) -> None:
    assert shape(CODEC.decode(CODEC.encode(data))) == shape(data)


@given(values)
def test_what_was_loaded_is_stored_in_the_same_bytes(value: Any) -> None:
    packed = stored(value)
    assert stored(loaded(packed)) == packed


@given(values, values)
def test_values_that_differ_have_bytes_that_differ(one: Any, other: Any) -> None:
    assert (stored(one) == stored(other)) is (shape(one) == shape(other))


@given(
    st.lists(hashables, unique_by=hash, max_size=12).flatmap(lambda items: st.tuples(st.just(items), st.permutations(items)))
)
# Small sets of these are iterated in the order in which they were filled.
@example(([0, 8, 16, 24], [24, 8, 16, 0]))
@example(([frozenset([0, 8]), 1], [1, frozenset([8, 0])]))
def test_a_set_has_the_same_bytes_whatever_order_it_was_filled_in(orders: tuple[list[Any], list[Any]]) -> None:
    one, other = orders
    for kind in (set, frozenset):
        assert stored(kind(one)) == stored(kind(other))
        assert stored({"in": [kind(one)]}) == stored({"in": [kind(other)]})


@given(st.lists(texts, unique=True))
def test_any_text_is_a_name(names: list[str]) -> None:
    data = {name: number for number, name in enumerate(names)}
    fields = CODEC.encode(data)
    assert list(fields) == [name.encode("utf-8", "surrogatepass") for name in names]
    assert CODEC.decode(fields) == data


def test_any_mapping_is_data() -> None:
    assert CODEC.encode(MappingProxyType({"a": 1})) == CODEC.encode(collections.OrderedDict(a=1)) == {b"a": b"\x01"}


def test_a_zone_that_is_not_a_zoneinfo_comes_back_as_the_offset_it_had() -> None:
    for zone in (Zone(timedelta(hours=2)), timezone(timedelta(hours=2), "CEST")):
        for value in (datetime(2026, 7, 1, 12, tzinfo=zone), time(12, tzinfo=zone)):
            back = loaded(stored(value))
            assert shape(back) == shape(value.replace(tzinfo=timezone(timedelta(hours=2))))


# Written by hand from the msgpack specification: what is stored outlives every release.
STORED = [
    (None, "c0"),
    (True, "c3"),
    (1, "01"),
    (-1, "ff"),
    (2**64 - 1, "cfffffffffffffffff"),
    (2**64, "c70901010000000000000000"),
    (-(2**63) - 1, "c70901ff7fffffffffffffff"),
    (-0.0, "cb8000000000000000"),
    ("é", "a2c3a9"),
    ("\ud800", "a3eda080"),
    (b"\xff", "c401ff"),
    ([1], "9101"),
    ({"a": 1, 2: 3, b"b": 4}, "83a161010203c4016204"),
    ((1, 2), "c70302920102"),
    ({2, 1}, "c70303920102"),
    (frozenset({1}), "d5049101"),
    (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), "d70593ce000f42400000"),
    (datetime(1970, 1, 1, 0, 0, 1), "d70593ce000f4240c000"),  # noqa: DTZ001 - naive on purpose
    (datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"), fold=1), "c707059300a355544301"),
    (date(1970, 1, 1), "d606000af93b"),
    (time(0, 0, 1), "d70793ce000f4240c000"),
    (timedelta(days=1, seconds=2, microseconds=3), "d60893010203"),
    (Decimal("1.10"), "d609312e3130"),
    (UUID(int=1), "d80a00000000000000000000000000000001"),
    (Color.RED, "c70b0b92a5436f6c6f72a3524544"),
]


@pytest.mark.parametrize(("value", "packed"), STORED, ids=[packed for _, packed in STORED])
def test_what_is_stored_stays_what_it_was(value: Any, packed: str) -> None:
    assert stored(value).hex() == packed
    assert shape(loaded(bytes.fromhex(packed))) == shape(value)


# --- registered types


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


SUBCLASSES: list[tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = [
    (collections.OrderedDict(a=1, b=2), dict, collections.OrderedDict),
    (collections.Counter("aab"), dict, collections.Counter),
    (collections.defaultdict(list, a=[1]), dict, lambda items: collections.defaultdict(list, items)),
    (Price(1, "EUR"), tuple, lambda items: Price(*items)),
    (Text("text"), lambda text: str.__str__(text), Text),
    (Whole(7), int, Whole),
    (Whole(2**70), int, Whole),
    (Real(1.5), float, Real),
    (Raw(b"raw"), bytes, Raw),
    (Items([1, 2]), list, Items),
    (Pair((1, 2)), list, Pair),
    (Tags({1, 2}), list, Tags),
    (Fixed({1, 2}), frozenset, Fixed),
    (Instant(2026, 1, 2, tzinfo=UTC), lambda when: when.timestamp(), lambda stamp: Instant.fromtimestamp(stamp, UTC)),
    (Day(2026, 1, 2), date.toordinal, Day.fromordinal),
    (Exact("1.10"), str, Exact),
]


@pytest.mark.parametrize(("value", "encode", "decode"), SUBCLASSES, ids=lambda item: type(item).__name__)
def test_a_registered_type_comes_back_whatever_it_is_a_kind_of(
    value: Any, encode: Callable[[Any], Any], decode: Callable[[Any], Any]
) -> None:
    codec = Codec()
    codec.register(type(value), encode=encode, decode=decode)
    for data in (value, [value], {"key": (value,)}):
        back = loaded(stored(data, codec), codec)
        assert back == data
        inner = back if data is value else back[0] if type(back) is list else back["key"][0]
        assert type(inner) is type(value)


@pytest.mark.parametrize("kind", [bytearray, memoryview, msgpack.ExtType, msgpack.Timestamp])
def test_what_msgpack_packs_in_its_own_way_cannot_be_registered(kind: Any) -> None:
    # Else the hooks would never be called, and a bytearray would come back as bytes.
    with pytest.raises(ValueError, match=kind.__qualname__):
        Codec().register(kind, encode=bytes, decode=kind)


@pytest.mark.parametrize(
    "value",
    [
        Color.RED,
        Level.HIGH,
        Step.EMAIL,
        Rights.READ | Rights.ADMIN,
        Rights(0),
        Modes.A | Modes.B,
        Money(Decimal("1.10"), "EUR"),
        Money(Decimal(1), [Money(Decimal(2), {Color.RED, Level.LOW})]),
    ],
    ids=repr,
)
def test_registered_types_come_back_at_any_place(value: Any) -> None:
    data = [value, {"k": (value,)}]
    assert shape(loaded(stored(data))) == shape(data)
    assert stored(data) == stored(loaded(stored(data)))


def test_a_member_of_an_enum_comes_back_after_its_value_changed() -> None:
    class Mood(enum.Enum):
        GOOD = 1

    class Renumbered(enum.Enum):
        BAD = 1
        GOOD = 2

    before, after = Codec(), Codec()
    before.register(Mood)
    after.register(Renumbered, tag="Mood")
    assert loaded(stored(Mood.GOOD, before), after) is Renumbered.GOOD


def test_a_class_that_was_renamed_reads_what_was_stored_under_its_tag() -> None:
    @dataclass
    class Old:
        n: int

    @dataclass
    class New:
        n: int

    before, after = Codec(), Codec()
    before.register(Old, encode=lambda old: old.n, decode=Old)
    after.register(New, tag="Old", encode=lambda new: new.n, decode=New)
    assert loaded(stored([Old(1)], before), after) == [New(1)]
    assert stored([Old(1)], before) == stored([New(1)], after)


def test_a_type_that_is_not_registered_on_reading_is_named_and_so_is_the_remedy() -> None:
    with pytest.raises(CorruptSession, match=r"Codec\.register") as caught:
        Codec().decode({b"ok": b"\x01", b"mood": stored([Color.RED])}, key="the key")
    assert (caught.value.key, caught.value.field) == ("the key", "mood")
    assert all(word in str(caught.value) for word in ("the key", "mood", "Color"))


def test_a_member_that_is_no_more_is_corrupt() -> None:
    class Fewer(enum.Enum):
        GREEN = "green"

    codec = Codec()
    codec.register(Fewer, tag="Color")
    with pytest.raises(CorruptSession) as caught:
        loaded(stored(Color.RED), codec)
    assert (caught.value.key, caught.value.field) == ("k", "a")


def test_subclasses_of_a_registered_class_are_not_meant() -> None:
    class Cents(Money):
        pass

    with pytest.raises(SerializationError, match="Cents"):
        stored(Cents(Decimal(1), "EUR"))


def test_a_type_is_registered_once() -> None:
    codec = registered_codec()
    with pytest.raises(ValueError, match="Color"):
        codec.register(Color)
    with pytest.raises(ValueError, match="Color"):
        codec.register(Color, tag="another")


@pytest.mark.parametrize(
    "built_in",
    [
        type(None),
        bool,
        int,
        float,
        str,
        bytes,
        list,
        tuple,
        dict,
        set,
        frozenset,
        datetime,
        date,
        time,
        timedelta,
        Decimal,
        UUID,
    ],
)
def test_a_built_in_type_is_not_registered_anew(built_in: type) -> None:
    with pytest.raises(ValueError, match="built in"):
        Codec().register(built_in, encode=str, decode=built_in)


def test_a_tag_is_of_one_type() -> None:
    codec = registered_codec()
    with pytest.raises(ValueError, match=r"'Color'.*tag="):
        codec.register(Price, tag="Color", encode=tuple, decode=lambda items: Price(*items))
    # What was refused has left nothing behind.
    codec.register(Price, encode=tuple, decode=lambda items: Price(*items))
    assert loaded(stored([Color.RED, Price(1, "EUR")], codec), codec) == [Color.RED, Price(1, "EUR")]


def test_hooks_come_in_pairs() -> None:
    for hooks in ({}, {"encode": tuple}, {"decode": lambda items: Price(*items)}):
        with pytest.raises(TypeError, match="encode= and decode="):
            Codec().register(Price, **cast("Any", hooks))


def test_codecs_share_nothing() -> None:
    with pytest.raises(SerializationError, match="Color"):
        stored(Color.RED, Codec())


# --- what cannot be stored


class Loud:
    """Says the secret wherever it can."""

    def __repr__(self) -> str:
        return SECRET

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return SECRET


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


def is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@contextmanager
def refused(path: str, key: str | None = "the key") -> Iterator[None]:
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


@given(buried())
def test_what_cannot_be_stored_is_refused_with_its_path(case: tuple[Any, str]) -> None:
    value, path = case
    with refused(f"cart{path}"):
        CODEC.encode({"before": SECRET, "cart": value, "after": [SECRET]}, key="the key")


@pytest.mark.parametrize("value", UNSTORABLE, ids=lambda value: type(value).__name__)
def test_what_cannot_be_stored_is_refused_by_the_name_of_its_type(value: Any) -> None:
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
def test_what_is_refused_is_told_what_to_do_about_it(value: Any, hint: str) -> None:
    with pytest.raises(SerializationError, match=hint):
        stored([value])


class Unshowable:
    def __repr__(self) -> str:
        raise LookupError(SECRET)


BAD_KEYS: list[Any] = [
    (1, 2),
    None,
    1.5,
    True,
    frozenset(),
    Text("x"),
    Whole(1),
    Raw(b"x"),
    date(2026, 1, 1),
    Color.RED,
    Level.LOW,
    Step.NAME,
]


@pytest.mark.parametrize("bad", BAD_KEYS, ids=repr)
def test_a_dict_with_other_keys_than_str_int_and_bytes_is_refused(bad: Any) -> None:
    for data, path in (
        ({"a": {bad: SECRET}}, f"a[{bad!r}]"),
        ({"a": [0, ({"b": {"ok": SECRET, bad: SECRET}},)]}, f"a[1][0].b[{bad!r}]"),
        ({"a": Money(Decimal(1), {bad: SECRET})}, "a"),
    ):
        with refused(path):
            CODEC.encode(data, key="the key")


@pytest.mark.parametrize("bad", [1, b"a", None, 1.5, True, (1, 2), Text("x"), Step.NAME], ids=repr)
def test_a_top_level_key_that_is_not_str_is_refused(bad: Any) -> None:
    with refused(repr(bad)):
        CODEC.encode({"a": SECRET, bad: SECRET}, key="the key")


@pytest.mark.parametrize(
    "data",
    [
        {Unshowable(): SECRET},
        {10**5000: SECRET},
        {"a": {Unshowable(): SECRET}},
        {"a": [{10**5000: object()}]},
        {"a": {(10**5000,): SECRET}},
    ],
    ids=["top-level object", "top-level int", "object", "int", "tuple"],
)
def test_a_key_that_cannot_be_shown_is_refused_like_any_other(data: Any) -> None:
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(data, key="the key")
    assert_holds_no_secret(caught.value)


@pytest.mark.parametrize("data", [None, SECRET, [SECRET], [("a", SECRET)], {SECRET}, 1], ids=lambda data: type(data).__name__)
def test_data_that_is_no_mapping_is_refused(data: Any) -> None:
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
def test_what_a_hook_says_stays_out_of_the_message(error: Exception) -> None:
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
    "result", [object(), Loud(), [bytearray(SECRET.encode())], {"a": Text(SECRET)}, {Loud(): 1}, {(SECRET,): 1}]
)
def test_what_a_hook_gives_is_refused_at_the_value_it_is_for(result: Any) -> None:
    codec = Codec()
    codec.register(Loud, encode=lambda _: result, decode=lambda _: Loud())
    with refused("a[0].b"):
        codec.encode({"a": [{"b": Loud()}]}, key="the key")


@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 1, tzinfo=Zone(LookupError(SECRET))), time(1, tzinfo=Zone(LookupError(SECRET)))]
)
def test_what_a_zone_says_stays_out_of_the_message(value: Any) -> None:
    with refused("a[0]"):
        CODEC.encode({"a": [value]}, key="the key")


def test_what_is_too_large_or_too_deep_stays_out_of_the_message() -> None:
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
def test_what_does_not_decode_stays_out_of_the_message(packed: bytes) -> None:
    with pytest.raises(CorruptSession) as caught:
        loaded(packed)
    assert_holds_no_secret(caught.value)


# --- depth

WRAP: dict[str, Callable[[Any], Any]] = {
    "list": lambda item: [item],
    "tuple": lambda item: (item,),
    "dict": lambda item: {"k": item},
    "set": lambda item: {item},
    "frozenset": lambda item: frozenset({item}),
}
STEP = {"list": "[0]", "tuple": "[0]", "dict": ".k", "set": "{*}", "frozenset": "{*}"}
# By hand: what the codec refuses to write, it must be made to read.
WRAP_PACKED: dict[str, Callable[[bytes], bytes]] = {
    "list": lambda packed: b"\x91" + packed,
    "dict": lambda packed: b"\x81\xa1k" + packed,
    "tuple": lambda packed: raw_ext(2, b"\x91" + packed),
    "set": lambda packed: raw_ext(3, b"\x91" + packed),
    "frozenset": lambda packed: raw_ext(4, b"\x91" + packed),
}


def nested(kinds: list[str], bottom: Any) -> Any:
    """``bottom`` in containers; the first of ``kinds`` is the innermost."""
    return functools.reduce(lambda item, kind: WRAP[kind](item), kinds, bottom)


def nested_packed(kinds: list[str], bottom: bytes) -> bytes:
    return functools.reduce(lambda packed, kind: WRAP_PACKED[kind](packed), kinds, bottom)


@st.composite
def towers(draw: st.DrawFn) -> list[str]:
    """Containers that may stand inside each other, the innermost first."""
    height = draw(st.integers(MAX_DEPTH - 2, MAX_DEPTH + 2))
    hashable = draw(st.integers(0, height))
    inner = [draw(st.sampled_from(["tuple", "frozenset"])) for _ in range(hashable)]
    middle = ["set"] if hashable < height and draw(st.booleans()) else []
    outer = [draw(st.sampled_from(["list", "tuple", "dict"])) for _ in range(height - hashable - len(middle))]
    return inner + middle + outer


@given(towers())
@example(["tuple"] * MAX_DEPTH)
@example(["tuple"] * (MAX_DEPTH + 1))
@example(["frozenset"] * (MAX_DEPTH - 1) + ["set"])
@example(["frozenset"] * MAX_DEPTH + ["set"])
@example(["dict"] * MAX_DEPTH)
@example(["dict"] * (MAX_DEPTH + 1))
@example(["list"] * MAX_DEPTH)
@example(["list"] * (MAX_DEPTH + 1))
def test_as_many_containers_as_allowed_and_no_more(kinds: list[str]) -> None:
    value, packed = nested(kinds, 1), nested_packed(kinds, b"\x01")
    if len(kinds) <= MAX_DEPTH:
        assert stored(value) == packed
        assert shape(loaded(packed)) == shape(value)
    else:
        path = "a" + "".join(STEP[kind] for kind in reversed(kinds))[: sum(len(STEP[kind]) for kind in kinds[-MAX_DEPTH:])]
        with refused(path):
            CODEC.encode({"a": value}, key="the key")
        with pytest.raises(SerializationError, match="deeper"):
            stored(value)
        with pytest.raises(CorruptSession, match="deeper"):
            loaded(packed)


NESTING = ["list", "tuple", "dict", "frozenset"]
EMPTY: list[Any] = [[], (), {}, set(), frozenset()]
EMPTY_AT_THE_BOTTOM = [(kind, empty) for kind in NESTING for empty in EMPTY if kind != "frozenset" or is_hashable(empty)]


@pytest.mark.parametrize(("kind", "bottom"), EMPTY_AT_THE_BOTTOM, ids=repr)
def test_an_empty_container_counts(kind: str, bottom: Any) -> None:
    fits = nested([kind] * (MAX_DEPTH - 1), bottom)
    assert shape(loaded(stored(fits))) == shape(fits)
    with pytest.raises(SerializationError, match="deeper"):
        stored(WRAP[kind](fits))
    with pytest.raises(CorruptSession, match="deeper"):
        loaded(WRAP_PACKED[kind](stored(fits)))


def test_breadth_is_not_depth() -> None:
    wide = [nested(["list"] * (MAX_DEPTH - 1), number) for number in range(1000)]
    assert loaded(stored(wide)) == wide


def survives(script: str) -> None:
    """Runs ``script`` in a Python of its own, since what goes wrong there may end the process."""
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("kind", WRAP_PACKED)
def test_reading_what_is_far_too_deep_is_an_error_and_not_the_end_of_the_process(kind: str) -> None:
    survives(f"""
import pytest
from redis_botsession import CorruptSession
from tests.test_codec import loaded, nested_packed

for depth in (100, 1000, 20_000):
    with pytest.raises(CorruptSession):
        loaded(nested_packed([{kind!r}] * depth, b"\\x01"))
""")


def test_what_can_be_stored_of_a_long_chain_of_registered_types_can_be_read() -> None:
    survives("""
from redis_botsession import Codec, SerializationError

class Node:
    def __init__(self, below):
        self.below = below

codec = Codec()
codec.register(Node, encode=lambda node: node.below, decode=Node)
for length in (10, 100, 300, 1000):
    node = None
    for _ in range(length):
        node = Node(node)
    try:
        fields = codec.encode({"a": node})
    except SerializationError:
        assert length > 10
    else:
        node = codec.decode(fields)["a"]
        for _ in range(length):
            node = node.below
        assert node is None
""")


# --- size


@given(datas)
def test_the_limit_on_the_size_is_exact(data: dict[str, Any]) -> None:
    fields = CODEC.encode(data)
    size = sum(map(len, fields)) + sum(map(len, fields.values()))
    assert CODEC.encode(data, max_bytes=size) == fields
    assert shape(CODEC.decode(fields, max_bytes=size)) == shape(data)
    if size:
        with pytest.raises(SessionTooLarge) as caught:
            CODEC.encode(data, max_bytes=size - 1, key="the key")
        assert (caught.value.limit, caught.value.key) == (size - 1, "the key")
        assert caught.value.size >= size
        with pytest.raises(SessionTooLarge) as caught:
            CODEC.decode(fields, max_bytes=size - 1, key="the key")
        assert (caught.value.size, caught.value.limit, caught.value.key) == (size, size - 1, "the key")


@contextmanager
def little_memory(limit: int = 4_000_000) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


def doubled(times: int, bottom: Any) -> Any:
    """A few lists in which ``bottom`` stands 2 ** ``times`` times."""
    for _ in range(times):
        bottom = [bottom, bottom]
    return bottom


def circle(*more: Any) -> list[Any]:
    """A list that holds itself twice, and ``more``."""
    items: list[Any] = []
    items += [items, items, *more]
    return items


def circle_of_dicts() -> dict[str, Any]:
    items: dict[str, Any] = {}
    items["a"] = items["b"] = ([items], items)
    return items


# These would take hours, or all memory there is.
@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "value",
    [
        doubled(31, 1),
        doubled(31, []),
        doubled(60, 1),
        circle(),
        circle_of_dicts(),
        circle(object()),
        [circle(), object()],
        [doubled(30, 1), object()],
        [doubled(30, 1), {(1, 2): 3}],
        [doubled(30, []), datetime(2026, 1, 1, tzinfo=Zone(None))],
        doubled(30, object()),
        ["x" * 9000] * 4000,
        [b"x" * 9000] * 4000,
        [{"key": "x" * 9000}] * 4000,
        [("x" * 9000,)] * 4000,
        [{"x" * 9000: 1}] * 4000,
        [10**20_000] * 4000,
    ],
    ids=[
        "shared 2**31 times",
        "shared lists",
        "shared and deep",
        "circle",
        "circle of dicts",
        "circle with an object",
        "an object beside a circle",
        "an object beside what is shared",
        "a bad key beside what is shared",
        "a bad zone beside what is shared",
        "a shared object",
        "long text many times",
        "long bytes many times",
        "long text many times in dicts",
        "long text many times in tuples",
        "long keys many times",
        "long numbers many times",
    ],
)
def test_what_holds_itself_or_one_thing_many_times_is_refused_at_once(value: Any) -> None:
    with little_memory(), pytest.raises((SerializationError, SessionTooLarge)) as caught:
        CODEC.encode({"a": value}, max_bytes=10_000, key="the key")
    assert caught.value.key == "the key"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "result", [doubled(25, 1), doubled(60, 1), circle(), ["x" * 9000] * 4000], ids=["shared", "deep", "circle", "long text"]
)
def test_a_hook_that_gives_one_thing_many_times_is_refused_at_once(result: Any) -> None:
    codec = Codec()
    codec.register(Loud, encode=lambda _: result, decode=lambda _: Loud())
    with little_memory(), pytest.raises((SerializationError, SessionTooLarge)):
        codec.encode({"a": [Loud()]}, max_bytes=10_000)


class Node:
    """Registered, it takes part in what is shared or goes round in a circle."""

    def __init__(self, *below: Any) -> None:
        self.below = list(below)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "value",
    [
        functools.reduce(lambda node, _: Node(node, node), range(30), Node()),
        [Node("x" * 9000)] * 4000,
    ],
    ids=["shared 2**30 times", "one many times"],
)
def test_registered_types_that_take_too_much_are_refused_at_once(value: Any) -> None:
    codec = Codec()
    codec.register(Node, encode=lambda node: node.below, decode=lambda below: Node(*below))
    with little_memory(), pytest.raises((SerializationError, SessionTooLarge)):
        codec.encode({"a": value}, max_bytes=10_000)


def test_a_registered_type_that_holds_itself_is_refused() -> None:
    codec = Codec()
    codec.register(Loud, encode=lambda loud: [loud, loud], decode=lambda _: Loud())
    with refused("a"):
        codec.encode({"a": Loud()}, key="the key")


# --- garbage


def check_garbage(fields: Mapping[bytes, bytes]) -> None:
    """Whatever is there: it gives values, or CorruptSession with the field."""
    try:
        data = CODEC.decode(fields, key="the key")
    except CorruptSession as error:
        corrupt = error
    else:
        assert set(data) == {field.decode("utf-8", "surrogatepass") for field in fields}
        return
    assert corrupt.key == "the key"
    assert corrupt.field in {field.decode("utf-8", "backslashreplace") for field in fields}
    assert "the key" in str(corrupt)
    assert repr(corrupt.field) in str(corrupt)


@given(st.dictionaries(st.binary(), st.binary(), max_size=3))
def test_any_bytes_give_a_value_or_are_corrupt(fields: dict[bytes, bytes]) -> None:
    check_garbage(fields)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """What is stored for a value, with some of its bytes changed, cut out or put in."""
    packed = bytearray(stored(draw(values)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(packed)))
        match draw(st.sampled_from(["flip", "cut", "cut out", "put in"])):
            case "flip" if at < len(packed):
                packed[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del packed[at:]
            case "cut out":
                del packed[at : at + draw(st.integers(1, 4))]
            case _:
                packed[at:at] = draw(st.binary(min_size=1, max_size=4))
    return bytes(packed)


@given(damaged())
def test_damaged_values_give_a_value_or_are_corrupt(packed: bytes) -> None:
    check_garbage({b"a": packed})


_plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    texts,
    st.binary(),
    st.sampled_from(["Color", "UTC"]),
)
_codes = st.one_of(st.integers(1, 11), st.integers(-128, 127))
# Everything that msgpack can say, with our extension types around things that do not belong into them.
_strange = st.recursive(
    st.one_of(_plain.map(packb), st.builds(raw_ext, _codes, st.binary(max_size=20))),
    lambda items: st.one_of(
        st.lists(items, max_size=3).map(lambda several: bytes([0x90 | len(several)]) + b"".join(several)),
        st.lists(st.tuples(items, items), max_size=2).map(
            lambda pairs: bytes([0x80 | len(pairs)]) + b"".join(a + b for a, b in pairs)
        ),
        st.builds(raw_ext, _codes, items),
        st.builds(
            lambda code, several: raw_ext(code, bytes([0x90 | len(several)]) + b"".join(several)),
            _codes,
            st.lists(items, max_size=3),
        ),
    ),
    max_leaves=8,
)


@given(_strange)
@example(ext(11, ["unhashable tag"], 1))
def test_extensions_around_anything_give_a_value_or_are_corrupt(packed: bytes) -> None:
    check_garbage({b"a": packed})


@given(_strange)
@example(b"\x81\xc0\x01")
@example(b"\x81\xc3\x01")
@example(b"\x81\xcb" + bytes(8) + b"\x01")
@example(b"\x81" + raw_ext(2, b"\x91\x01") + b"\x01")
@example(raw_ext(-1, bytes(4)))
@example(packb({"in": [msgpack.Timestamp(1, 2)]}))
def test_what_loads_can_be_saved(packed: bytes) -> None:
    # Else the live session, which packs what it has loaded to see what changes, cannot even load it.
    with suppress(CorruptSession):
        stored(loaded(packed))


BAD_CONTENTS = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "two values": b"\x01\x02",
    "a list that goes on": b"\x92\x01",
    "text that is not UTF-8": b"\xa1\xff",
    "text longer than all": b"\xdb\xff\xff\xff\xff",
    "bytes longer than all": b"\xc6\xff\xff\xff\xffx",
    "a list longer than all": b"\xdd\xff\xff\xff\xff",
    "lists longer than all": b"\xdd\x00\x0f\xff\xff" * 500,
    "a dict longer than all": b"\xdf\xff\xff\xff\xff\x01\x02",
    "an extension longer than all": b"\xc9\xff\xff\xff\xff\x02",
    "a list longer than all in a tuple": raw_ext(2, b"\xdd\xff\xff\xff\xff"),
    "a key that is a list": b"\x81\x91\x01\x01",
    "a key that is a dict": b"\x81\x80\x01",
    "an unknown extension": raw_ext(12, b"\x01"),
    "extension 0": raw_ext(0, b"\x01"),
    "an extension of others": raw_ext(-128, b"\x01"),
    "a tuple of nothing": raw_ext(2, b""),
    "a tuple of a number": raw_ext(2, b"\x01"),
    "a tuple and more": raw_ext(2, b"\x90\x90"),
    "a set of lists": ext(3, [1]),
    "a set of dicts": ext(3, {}),
    "a set of sets": raw_ext(3, b"\x91" + ext(3, 1)),
    "a set of tuples of lists": raw_ext(3, b"\x91" + ext(2, [])),
    "a set of a signaling NaN": raw_ext(3, b"\x91" + raw_ext(9, b"sNaN")),
    "a frozenset of lists": ext(4, []),
    "a datetime of nothing": ext(5),
    "a datetime of too much": ext(5, 0, None, 0, 0),
    "a datetime before the year 1": ext(5, -(2**62), None, 0),
    "a datetime after the year 9999": ext(5, 2**62, None, 0),
    "a datetime of text": ext(5, "0", None, 0),
    "a datetime with a fold of 2": ext(5, 0, None, 2),
    "a datetime with a zone of a day": ext(5, 0, 86_400_000_000, 0),
    "a datetime with an endless zone": ext(5, 0, 2**63, 0),
    "a datetime with a zone of bytes": ext(5, 0, b"UTC", 0),
    "a datetime with an unknown zone": ext(5, 0, "Nowhere/Atlantis", 0),
    "a datetime with an empty zone": ext(5, 0, "", 0),
    "a datetime with a path for a zone": ext(5, 0, "../../../../etc/passwd", 0),
    "a datetime with an absolute path": ext(5, 0, "/etc/passwd", 0),
    "a datetime with a folder for a zone": ext(5, 0, "Europe", 0),
    "a datetime with a NUL in its zone": ext(5, 0, "UTC\x00", 0),
    "a datetime with a surrogate in its zone": ext(5, 0, "\ud800", 0),
    "a datetime with a long zone": ext(5, 0, "x" * 5000, 0),
    "a date before the year 1": raw_ext(6, bytes(4)),
    "a date after the year 9999": raw_ext(6, b"\xff\xff\xff\xff"),
    "a date of many bytes": raw_ext(6, b"\xff" * 40),
    "a time of text": ext(7, "0", None, 0),
    "a time with a zone of a day": ext(7, 0, -86_400_000_000, 0),
    "an endless timedelta": ext(8, 2**40, 0, 0),
    "a timedelta of text": ext(8, "1", 0, 0),
    "a timedelta of infinity": ext(8, float("inf"), 0, 0),
    "a number that is none": raw_ext(9, b"1.2.3"),
    "an empty number": raw_ext(9, b""),
    "a number that is not ASCII": raw_ext(9, "\u0661".encode()),
    "a short UUID": raw_ext(10, bytes(15)),
    "a long UUID": raw_ext(10, bytes(17)),
    "a registered type of nothing": ext(11),
    "a registered type without a value": ext(11, "Color"),
    "a registered type with a value too many": ext(11, "Color", "RED", 1),
    "a registered type that is none": raw_ext(11, b"\x01"),
    "an unknown type": ext(11, "Nobody", 1),
    "a type with a list for a tag": ext(11, [], 1),
    "an unknown member": ext(11, "Color", "BLUE"),
    "a member with a list for a name": ext(11, "Color", []),
    "flags that are none": ext(11, "Rights", 2**40),
    "hooks given what they cannot take": ext(11, "Money", 1),
}


@pytest.mark.parametrize("packed", BAD_CONTENTS.values(), ids=BAD_CONTENTS)
def test_what_is_not_ours_is_corrupt(packed: bytes) -> None:
    for where in (packed, b"\x91" + packed, b"\x81\xa1k" + packed, raw_ext(2, b"\x91" + packed)):
        with little_memory(), pytest.raises(CorruptSession, match=r"'a'.*delete the session, or set it anew") as caught:
            CODEC.decode({b"ok": b"\x01", b"a": where}, key="the key")
        assert (caught.value.key, caught.value.field) == ("the key", "a")


@pytest.mark.parametrize(
    ("field", "name"), [(b"\xffv", r"\xffv"), (b"\xc0\xaf", r"\xc0\xaf"), (b"\xf4\x90\x80\x80", r"\xf4\x90\x80\x80")]
)
def test_a_field_whose_name_is_not_utf8_is_corrupt(field: bytes, name: str) -> None:
    with pytest.raises(CorruptSession) as caught:
        CODEC.decode({b"a": b"\x01", field: b"\x01"}, key="the key")
    assert (caught.value.key, caught.value.field) == ("the key", name)
