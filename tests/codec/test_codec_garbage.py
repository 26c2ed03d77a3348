"""Whatever bytes are stored, loading gives a value or CorruptSession."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_botsession import CorruptSession

from ..support.packed_values import CODEC, ext, little_memory, loaded, packb, raw_ext, stored
from ..support.strategies import texts, values


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
def test_codec_any_bytes_give_a_value_or_are_corrupt(fields: dict[bytes, bytes]) -> None:
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
def test_codec_damaged_values_give_a_value_or_are_corrupt(packed: bytes) -> None:
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
def test_codec_extensions_around_anything_give_a_value_or_are_corrupt(packed: bytes) -> None:
    check_garbage({b"a": packed})


@given(_strange)
@example(b"\x81\xc0\x01")
@example(b"\x81\xc3\x01")
@example(b"\x81\xcb" + bytes(8) + b"\x01")
@example(b"\x81" + raw_ext(2, b"\x91\x01") + b"\x01")
@example(raw_ext(-1, bytes(4)))
@example(packb({"in": [msgpack.Timestamp(1, 2)]}))
def test_codec_what_loads_can_be_saved(packed: bytes) -> None:
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
def test_codec_what_is_not_ours_is_corrupt(packed: bytes) -> None:
    for where in (packed, b"\x91" + packed, b"\x81\xa1k" + packed, raw_ext(2, b"\x91" + packed)):
        with little_memory(), pytest.raises(CorruptSession, match=r"'a'.*delete the session, or replace it with set") as caught:
            CODEC.decode({b"ok": b"\x01", b"a": where}, key="the key")
        assert (caught.value.key, caught.value.field) == ("the key", "a")


@pytest.mark.parametrize(
    ("field", "name"), [(b"\xffv", r"\xffv"), (b"\xc0\xaf", r"\xc0\xaf"), (b"\xf4\x90\x80\x80", r"\xf4\x90\x80\x80")]
)
def test_codec_field_whose_name_is_not_utf8_is_corrupt(field: bytes, name: str) -> None:
    with pytest.raises(CorruptSession) as caught:
        CODEC.decode({b"a": b"\x01", field: b"\x01"}, key="the key")
    assert (caught.value.key, caught.value.field) == ("the key", name)
