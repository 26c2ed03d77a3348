"""Values to bytes and back: the same value of the same type."""

from __future__ import annotations

import collections
import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_botsession import Codec, CorruptSession, SerializationError

from ..support.packed_values import (
    CODEC,
    Day,
    Exact,
    Fixed,
    Instant,
    Items,
    Pair,
    Price,
    Raw,
    Real,
    Tags,
    Text,
    Whole,
    Zone,
    loaded,
    stored,
)
from ..support.strategies import (
    Color,
    Level,
    Modes,
    Money,
    Rights,
    Step,
    datas,
    hashables,
    registered_codec,
    shape,
    texts,
    values,
)

# --- what goes in comes out


@given(datas)
def test_codec_values_come_back_with_their_types(data: dict[str, Any]) -> None:
    assert shape(CODEC.decode(CODEC.encode(data))) == shape(data)


@given(values)
def test_codec_what_was_loaded_is_stored_in_the_same_bytes(value: Any) -> None:
    packed = stored(value)
    assert stored(loaded(packed)) == packed


@given(values, values)
def test_codec_values_that_differ_have_bytes_that_differ(one: Any, other: Any) -> None:
    assert (stored(one) == stored(other)) is (shape(one) == shape(other))


@given(
    st.lists(hashables, unique_by=hash, max_size=12).flatmap(lambda items: st.tuples(st.just(items), st.permutations(items)))
)
# Small sets of these are iterated in the order in which they were filled.
@example(([0, 8, 16, 24], [24, 8, 16, 0]))
@example(([frozenset([0, 8]), 1], [1, frozenset([8, 0])]))
def test_codec_set_has_the_same_bytes_whatever_order_it_was_filled_in(orders: tuple[list[Any], list[Any]]) -> None:
    one, other = orders
    for kind in (set, frozenset):
        assert stored(kind(one)) == stored(kind(other))
        assert stored({"in": [kind(one)]}) == stored({"in": [kind(other)]})


@given(st.lists(texts, unique=True))
def test_codec_any_text_is_a_name(names: list[str]) -> None:
    data = {name: number for number, name in enumerate(names)}
    fields = CODEC.encode(data)
    assert list(fields) == [name.encode("utf-8", "surrogatepass") for name in names]
    assert CODEC.decode(fields) == data


def test_codec_any_mapping_is_data() -> None:
    assert CODEC.encode(MappingProxyType({"a": 1})) == CODEC.encode(collections.OrderedDict(a=1)) == {b"a": b"\x01"}


def test_codec_zone_that_is_not_a_zoneinfo_comes_back_as_the_offset_it_had() -> None:
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
def test_codec_what_is_stored_stays_what_it_was(value: Any, packed: str) -> None:
    assert stored(value).hex() == packed
    assert shape(loaded(bytes.fromhex(packed))) == shape(value)


# --- registered types


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
def test_codec_registered_type_comes_back_whatever_it_is_a_kind_of(
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
def test_codec_what_msgpack_packs_in_its_own_way_cannot_be_registered(kind: Any) -> None:
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
def test_codec_registered_types_come_back_at_any_place(value: Any) -> None:
    data = [value, {"k": (value,)}]
    assert shape(loaded(stored(data))) == shape(data)
    assert stored(data) == stored(loaded(stored(data)))


def test_codec_member_of_an_enum_comes_back_after_its_value_changed() -> None:
    class Mood(enum.Enum):
        GOOD = 1

    class Renumbered(enum.Enum):
        BAD = 1
        GOOD = 2

    before, after = Codec(), Codec()
    before.register(Mood)
    after.register(Renumbered, tag="Mood")
    assert loaded(stored(Mood.GOOD, before), after) is Renumbered.GOOD


def test_codec_class_that_was_renamed_reads_what_was_stored_under_its_tag() -> None:
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


def test_codec_names_a_type_that_is_not_registered_on_reading() -> None:
    with pytest.raises(CorruptSession, match=r"Codec\.register") as caught:
        Codec().decode({b"ok": b"\x01", b"mood": stored([Color.RED])}, key="the key")
    assert (caught.value.key, caught.value.field) == ("the key", "mood")
    assert all(word in str(caught.value) for word in ("the key", "mood", "Color"))


def test_codec_member_that_is_no_more_is_corrupt() -> None:
    class Fewer(enum.Enum):
        GREEN = "green"

    codec = Codec()
    codec.register(Fewer, tag="Color")
    with pytest.raises(CorruptSession) as caught:
        loaded(stored(Color.RED), codec)
    assert (caught.value.key, caught.value.field) == ("k", "a")


def test_codec_subclasses_of_a_registered_class_are_not_meant() -> None:
    class Cents(Money):
        pass

    with pytest.raises(SerializationError, match="Cents"):
        stored(Cents(Decimal(1), "EUR"))


def test_codec_type_is_registered_once() -> None:
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
def test_codec_built_in_type_is_not_registered_anew(built_in: type) -> None:
    with pytest.raises(ValueError, match="built in"):
        Codec().register(built_in, encode=str, decode=built_in)


def test_codec_tag_is_of_one_type() -> None:
    codec = registered_codec()
    with pytest.raises(ValueError, match=r"'Color'.*tag="):
        codec.register(Price, tag="Color", encode=tuple, decode=lambda items: Price(*items))
    # What was refused has left nothing behind.
    codec.register(Price, encode=tuple, decode=lambda items: Price(*items))
    assert loaded(stored([Color.RED, Price(1, "EUR")], codec), codec) == [Color.RED, Price(1, "EUR")]


def test_codec_hooks_come_in_pairs() -> None:
    for hooks in ({}, {"encode": tuple}, {"decode": lambda items: Price(*items)}):
        with pytest.raises(TypeError, match="encode= and decode="):
            Codec().register(Price, **cast("Any", hooks))


def test_codec_codecs_share_nothing() -> None:
    with pytest.raises(SerializationError, match="Color"):
        stored(Color.RED, Codec())
