"""What servers say, read: the map of slots of a cluster, and errors that hide in the text of others."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import DefaultParser
from redis.exceptions import MovedError, NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from redis_botsession._protocol.replies import error_of
from redis_botsession._transport.slot_map import SLOTS, parse_slots

SHA = "f_c1d2e3f4a5b6c7d8e9f00112233445566778899a"
REFUSAL = "You can't write against a read only replica."


def node(host: bytes | None, port: int, *metadata: Any) -> list[Any]:
    return [host, port, b"0" * 40, *metadata]


@pytest.mark.parametrize(
    "metadata",
    [[], [[]], [[b"hostname", b"one.example"]], [{b"hostname": b"one.example"}]],
    ids=["6.2", "none", "resp2", "resp3"],
)
def test_parse_slots_reads_primaries_and_replicas(metadata: list[Any]) -> None:
    reply = [
        [0, 5460, node(b"10.0.0.1", 7000, *metadata), node(b"10.0.0.2", 7001, *metadata), node(b"fe80::3", 7002, *metadata)],
        [5461, 10922, node(b"two.example", 7003, *metadata)],
        [10923, SLOTS - 1, node(b"10.0.0.1", 7000, *metadata)],
    ]
    assert parse_slots(reply, "asked.example") == [
        (0, 5460, ("10.0.0.1", 7000), (("10.0.0.2", 7001), ("fe80::3", 7002))),
        (5461, 10922, ("two.example", 7003), ()),
        (10923, SLOTS - 1, ("10.0.0.1", 7000), ()),
    ]


def test_parse_slots_needs_host_and_port_only() -> None:
    assert parse_slots([[0, 1, [b"10.0.0.1", 7000]]], "asked.example") == [(0, 1, ("10.0.0.1", 7000), ())]


@pytest.mark.parametrize("unknown", [None, b"", b"?"])
def test_parse_slots_unknown_host_is_the_asked_one(unknown: bytes | None) -> None:
    reply = [[0, 9, node(unknown, 7000, [b"ip", b"10.0.0.1"]), node(b"10.0.0.2", 7001)], [10, 19, node(b"10.0.0.2", 7001)]]
    reply[1].append(node(unknown, 7000))
    assert parse_slots(reply, "asked.example") == [
        (0, 9, ("asked.example", 7000), (("10.0.0.2", 7001),)),
        (10, 19, ("10.0.0.2", 7001), (("asked.example", 7000),)),
    ]


def test_parse_slots_leaves_unserved_slots_out() -> None:
    reply = [[20, 29, node(b"b", 2)], [5, 5, node(b"a", 1)]]
    assert parse_slots(reply, "asked.example") == [(20, 29, ("b", 2), ()), (5, 5, ("a", 1), ())]
    assert parse_slots([], "asked.example") == []


def test_parse_slots_remaps_each_host_and_port() -> None:
    reply = [[0, 9, node(b"10.0.0.1", 7000), node(None, 7001)]]
    remapped = parse_slots(reply, "asked.example", lambda address: (f"via-{address[0]}", address[1] + 1))
    assert remapped == [(0, 9, ("via-10.0.0.1", 7001), (("via-asked.example", 7002),))]


# --- errors


def said(line: str) -> Exception:
    """An error reply as redis-py reads it."""
    error: Exception = DefaultParser.parse_error(line)  # type: ignore[no-untyped-call] # redis-py has no types here
    return error


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        # Redis 6.2, of a command in a script; of the script itself.
        (
            f"ERR Error running script (call to {SHA}): @user_script:1: @user_script: 1: -READONLY {REFUSAL}",
            ReadOnlyError,
            REFUSAL,
        ),
        (f"ERR Error running script (call to {SHA}): @user_script:7: READONLY {REFUSAL}", ReadOnlyError, REFUSAL),
        (
            f"ERR Error running script (call to {SHA}): @user_script:57: @user_script: 57: -OOM command not allowed when used "
            "memory > 'maxmemory'.",
            OutOfMemoryError,
            "command not allowed when used memory > 'maxmemory'.",
        ),
    ],
)
def test_error_of_unwraps_an_error_in_a_script(line: str, kind: type[Exception], text: str) -> None:
    reply = said(line)
    assert type(reply) is ResponseError
    error = error_of(reply)
    assert type(error) is kind
    assert str(error) == text
    assert error.__cause__ is reply


@pytest.mark.parametrize(
    "line",
    [
        f"READONLY {REFUSAL} script: {SHA}, on @user_script:1.",
        "OOM command not allowed when used memory > 'maxmemory'. script: x, on @user_script:1.",
        "MOVED 12 10.0.0.1:7000",
        "NOPERM this user has no permissions to run the 'hset' command",
        f"ERR Error running script (call to {SHA}): @user_script:1: user_script:1: attempt to index a nil value",
        f"ERR Error running script (call to {SHA}): @user_script:1: -WRONGTYPE Operation against a key",
        # In the middle of what somebody has stored, say.
        f"ERR unknown command 'Error running script x: -READONLY {REFUSAL}'",
        f"WRONGTYPE -READONLY {REFUSAL}",
    ],
)
def test_error_of_keeps_other_errors(line: str) -> None:
    reply = said(line)
    assert error_of(reply) is reply


def test_error_of_gives_codes_their_class() -> None:
    moved = said("MOVED 12 10.0.0.1:7000")
    assert isinstance(moved, MovedError)
    assert (moved.slot_id, moved.host, moved.port) == (12, "10.0.0.1", 7000)
    assert isinstance(said("NOPERM no"), NoPermissionError)
    assert isinstance(said(f"READONLY {REFUSAL}"), ReadOnlyError)
