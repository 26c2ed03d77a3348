"""Clusters and sentinels that say what a script has them say, at moments that those of real processes seldom have."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Any

import pytest
import redis
from redis.asyncio.connection import Connection
from redis.backoff import ConstantBackoff

from redis_botsession import SessionStore
from redis_botsession._protocol.commands import Command
from redis_botsession._protocol.layout import slot_of
from redis_botsession._transport import cluster, connection
from redis_botsession._transport.connection import PipelinedConnection
from redis_botsession._transport.options import Options
from redis_botsession.testing.harness import PATIENCE, eventually

from ..support.scripted_server import (
    ErrorReply,
    Request,
    ScriptedServer,
    all_slots,
    cluster_store,
    empty_server,
    never_replies,
    sentinel_reply,
)

# --- clusters


async def test_cluster_moved_is_used_before_the_slot_map_arrives(first: ScriptedServer, second: ScriptedServer) -> None:
    looks = 0

    async def moved(request: Request) -> Any:
        nonlocal looks
        if request[0] == b"CLUSTER":
            looks += 1
            return all_slots(first) if looks == 1 else await never_replies(request)
        return ErrorReply(f"MOVED {slot_of('u')} {second.address}")

    first.answer = moved
    second.answer = lambda request: never_replies(request) if request[0] == b"CLUSTER" else empty_server(request)
    async with cluster_store(first) as store:
        for _ in range(3):
            assert await store.get("u", "c") is None
    assert (first.count(b"HGETALL"), second.count(b"HGETALL")) == (1, 3)


async def test_cluster_call_does_not_ask_again_after_a_refusal(first: ScriptedServer, second: ScriptedServer) -> None:
    async def importing(request: Request) -> Any:
        return ErrorReply("TRYAGAIN later") if request[0] == b"HGETALL" else "OK"

    async def migrating(request: Request) -> Any:
        if request[0] == b"CLUSTER":
            return all_slots(first)
        return ErrorReply(f"ASK {slot_of('u')} {second.address}") if first.count(b"HGETALL") == 1 else []

    first.answer, second.answer = migrating, importing
    async with cluster_store(first) as store:
        assert await store.get("u", "c") is None
    assert [request[0] for request in second.asked] == [b"ASKING", b"HGETALL"]
    assert first.count(b"ASKING") == 0
    assert first.count(b"HGETALL") == 2


@pytest.mark.parametrize("is_silent", [False, True])
async def test_cluster_left_node_ends_its_calls(
    is_silent: bool, first: ScriptedServer, second: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From when on it counts as silent is not for a test to wait for.
    monkeypatch.setattr(connection, "SUSPICIOUS_SILENCE", -math.inf if is_silent else math.inf)
    held, others = next_to_each_other()
    is_held, may_answer = asyncio.Event(), asyncio.Event()
    has_told = False

    async def leaving(request: Request) -> Any:
        nonlocal has_told
        if request[0] == b"CLUSTER":
            has_told = is_held.is_set()
            return all_slots(second if has_told else first)
        if request[1] == held_key:
            is_held.set()
            await may_answer.wait()
            return []
        return ErrorReply(f"MOVED {slot_by_key[request[1]]} {second.address}")

    async def taking_over(request: Request) -> Any:
        return all_slots(second) if request[0] == b"CLUSTER" else await empty_server(request)

    first.answer, second.answer = leaving, taking_over
    async with cluster_store(first, max_connections=2, max_in_flight=1) as store:
        held_key = store.key(held, "c").encode()
        slot_by_key = {store.key(user, "c").encode(): slot_of(user) for user in others}
        in_flight = asyncio.ensure_future(store.get(held, "c"))
        await is_held.wait()
        in_line = asyncio.ensure_future(store.get(held, "in line"))
        others_left = iter(others)

        async def has_looked() -> bool:
            # On the other connection, each with a slot of its own.
            assert await store.get(next(others_left), "c") is None
            return has_told

        await eventually(has_looked)
        async with asyncio.timeout(PATIENCE / 2):
            assert await in_line is None
            if is_silent:
                assert await in_flight is None
        if not is_silent:
            assert not in_flight.done()
            may_answer.set()
            assert await in_flight is None


def next_to_each_other() -> tuple[str, list[str]]:
    """A user, and others who have another connection where there are two."""
    users = [str(number) for number in range(5000)]
    return next(user for user in users if slot_of(user) % 2), [user for user in users if not slot_of(user) % 2]


async def test_cluster_new_slot_map_wakes_waiting_calls(first: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "REROUTE_DELAYS", ConstantBackoff(2 * PATIENCE))

    async def answer(request: Request) -> Any:
        return all_slots(first) if request[0] == b"CLUSTER" else []

    first.answer = answer
    async with cluster_store(first) as store:
        assert await store.get("u", "c") is None


async def test_connection_left_while_connecting_is_not_used(first: ScriptedServer, second: ScriptedServer) -> None:
    servers, is_made = [first, second], asyncio.Event()

    async def connect() -> Connection:
        made = Connection(host="127.0.0.1", port=servers.pop(0).port)
        await made.connect()  # type: ignore[no-untyped-call] # redis-py has no types here
        if servers:
            is_made.set()
            # As redis-py may on Python 3.11.
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return made

    options = Options.parse("redis://somewhere", {"timeout": PATIENCE, "socket_timeout": None, "max_in_flight": 8})
    pipelined = PipelinedConnection(connect, "somewhere", options)
    promise = pipelined.call(Command("get", b"k", 0, (b"GET", b"k"), list, resend=True))
    await is_made.wait()
    pipelined.leave(redis.ConnectionError("left"), at_once=True)
    assert await promise == []
    assert first.asked == []
    await pipelined.aclose()


# --- sentinels


@pytest.mark.parametrize(
    ("epoch", "flags"),
    [(1, []), (2, [b"failover_in_progress"]), (2, [b"s_down"]), (2, [b"s_down", b"o_down"])],
    ids=["stale", "in progress", "down for one", "down for all"],
)
async def test_sentinel_reports_of_the_old_primary_are_ignored(
    epoch: int, flags: list[bytes], first: ScriptedServer, second: ScriptedServer
) -> None:
    async def knows(request: Request) -> Any:
        return sentinel_reply(second, 2)

    async def is_behind(request: Request) -> Any:
        async def is_last() -> bool:
            # Its watcher and the one who connects have asked the other.
            return knowing.count(b"SENTINEL") >= 2

        await eventually(is_last)
        return sentinel_reply(first, epoch, *flags)

    async with ScriptedServer(knows) as knowing, ScriptedServer(is_behind) as behind:
        url = f"redis+sentinel://{knowing.address},{behind.address}/bots"
        async with SessionStore.from_url(url, timeout=PATIENCE) as store:
            for user in range(3):
                assert await store.get(user, "c") is None

            async def was_heard() -> bool:
                return behind.count(b"SENTINEL") >= 3

            await eventually(was_heard)
            for user in range(3):
                assert await store.get(user, "c") is None
    assert first.asked == []
    assert second.count(b"HGETALL") == 6


async def test_sentinel_replica_gets_no_calls(first: ScriptedServer, second: ScriptedServer) -> None:
    first.role = b"slave"

    async def knows(request: Request) -> Any:
        return sentinel_reply(first, 1) if first.roles < 2 else sentinel_reply(second, 2)

    async with (
        ScriptedServer(knows) as knowing,
        SessionStore.from_url(f"redis+sentinel://{knowing.address}/bots", timeout=PATIENCE) as store,
    ):
        assert await store.get("u", "c") is None
    assert first.asked == []
