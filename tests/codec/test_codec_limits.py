"""Depth and size are limited, on the way in and out, before memory or the stack is at its end."""

from __future__ import annotations

import functools
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_botsession import Codec, CorruptSession, SerializationError, SessionTooLarge
from redis_botsession._codec.walk import MAX_DEPTH

from ..support.packed_values import (
    CODEC,
    WRAP,
    WRAP_PACKED,
    Loud,
    Zone,
    is_hashable,
    little_memory,
    loaded,
    nested,
    nested_packed,
    refused,
    stored,
)
from ..support.strategies import datas, shape

# --- depth

STEP = {"list": "[0]", "tuple": "[0]", "dict": ".k", "set": "{*}", "frozenset": "{*}"}


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
def test_codec_limits_as_many_containers_as_allowed_and_no_more(kinds: list[str]) -> None:
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
def test_codec_limits_empty_container_counts(kind: str, bottom: Any) -> None:
    fits = nested([kind] * (MAX_DEPTH - 1), bottom)
    assert shape(loaded(stored(fits))) == shape(fits)
    with pytest.raises(SerializationError, match="deeper"):
        stored(WRAP[kind](fits))
    with pytest.raises(CorruptSession, match="deeper"):
        loaded(WRAP_PACKED[kind](stored(fits)))


def test_codec_limits_breadth_is_not_depth() -> None:
    wide = [nested(["list"] * (MAX_DEPTH - 1), number) for number in range(1000)]
    assert loaded(stored(wide)) == wide


def survives(script: str) -> None:
    """Runs ``script`` in a Python of its own, since what goes wrong there may end the process."""
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("kind", WRAP_PACKED)
def test_codec_limits_reading_far_too_deep_values_is_an_error(kind: str) -> None:
    survives(f"""
import pytest
from redis_botsession import CorruptSession
from tests.support.packed_values import loaded, nested_packed

for depth in (100, 1000, 20_000):
    with pytest.raises(CorruptSession):
        loaded(nested_packed([{kind!r}] * depth, b"\\x01"))
""")


def test_codec_limits_long_chains_of_registered_types_can_be_read() -> None:
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
@example({"a": [0] * 50})
@example({"a": [-1, 127, 128, 255, 256, 65_535, 65_536, 2**32, 2**63, 2**64] * 5})
@example({"a": ["", "x", "xy"] * 20})
@example({"a": [b"x", None, True, [], {}, ()] * 10})
@example({"a": {str(number): number for number in range(10)}})
@example({"a": dict.fromkeys(range(10))})
def test_codec_limits_limit_on_the_size_is_exact(data: dict[str, Any]) -> None:
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
def test_codec_limits_cycles_and_repeated_values_are_refused(value: Any) -> None:
    with little_memory(), pytest.raises((SerializationError, SessionTooLarge)) as caught:
        CODEC.encode({"a": value}, max_bytes=10_000, key="the key")
    assert caught.value.key == "the key"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "result", [doubled(25, 1), doubled(60, 1), circle(), ["x" * 9000] * 4000], ids=["shared", "deep", "circle", "long text"]
)
def test_codec_limits_hooks_that_repeat_a_value_are_refused(result: Any) -> None:
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
def test_codec_limits_large_registered_types_are_refused(value: Any) -> None:
    codec = Codec()
    codec.register(Node, encode=lambda node: node.below, decode=lambda below: Node(*below))
    with little_memory(), pytest.raises((SerializationError, SessionTooLarge)):
        codec.encode({"a": value}, max_bytes=10_000)


def test_codec_limits_registered_type_that_holds_itself_is_refused() -> None:
    codec = Codec()
    codec.register(Loud, encode=lambda loud: [loud, loud], decode=lambda _: Loud())
    with refused("a"):
        codec.encode({"a": Loud()}, key="the key")
