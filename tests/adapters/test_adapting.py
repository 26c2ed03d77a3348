"""What the adapters share: channels of several ids, and keys of any type."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_botsession import Codec, SerializationError
from redis_botsession.adapters._ids import STATE, Names, channel_of, parts_of

from ..support.strategies import hashables, ids, registered_codec, shape

CODEC = registered_codec()
NAMES = Names(CODEC)

parts = st.one_of(st.integers().map(str), ids, st.just(""), st.sampled_from([".", "t5", "~", "%2E", "a.b"]))
tagged = st.fixed_dictionaries({}, optional=dict.fromkeys("btd", parts))


def test_ids_channel_is_readable() -> None:
    assert channel_of(777, -1001, t=5, b=None, d="pizza") == "777.-1001.t5.dpizza"
    assert parts_of("777.-1001.t5.dpizza", 2) == (["777", "-1001"], {"t": "5", "d": "pizza"})
    assert channel_of("a.b~c") == "a%2Eb%7Ec"


@given(st.lists(parts, min_size=1, max_size=3), tagged)
def test_ids_channel_splits_in_one_way_only(ids: list[str], optional: dict[str, str]) -> None:
    assert parts_of(channel_of(*ids, **optional), len(ids)) == (ids, optional)


@pytest.mark.parametrize("channel", ["", "a", "a.b.", "a.b.t1.t2", "a.%62", "a.b~"])
def test_ids_what_is_no_channel_of_ours_is_refused(channel: str) -> None:
    with pytest.raises(ValueError, match="no channel of an adapter"):
        parts_of(channel, 2)


def test_ids_names_show_text_as_it_is() -> None:
    assert NAMES.pack({"cart": 1, ":cart": 2, 42: 3}) == {"cart": 1, "::cart": 2, ":i42": 3}


@given(hashables)
def test_ids_key_comes_back_as_what_it_was(key: Any) -> None:
    name = NAMES.name(key)
    assert name != STATE
    assert shape(NAMES.key(name)) == shape(key)


@given(st.dictionaries(hashables, st.integers(), max_size=5))
def test_ids_data_comes_back_without_the_state(data: dict[Any, int]) -> None:
    packed = NAMES.pack(data)
    assert len(packed) == len(data)
    back = NAMES.unpack({STATE: "x", **packed})
    assert [(shape(key), value) for key, value in back.items()] == [(shape(key), value) for key, value in data.items()]


def test_ids_key_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(SerializationError):
        Names(Codec()).pack({(1, object()): 1})


@pytest.mark.parametrize("name", [":", ":state", ":x", ":statex"])
def test_ids_names_that_are_not_keys_are_told(name: str) -> None:
    with pytest.raises(ValueError, match="no key of an adapter"):
        NAMES.key(name)
