"""What goes wrong with clusters and sentinels themselves, not only with their nodes; against scripted servers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from redis.exceptions import ReadOnlyError, ResponseError

from redis_botsession import SessionStore
from redis_botsession._protocol.layout import slot_of
from redis_botsession.testing.harness import PATIENCE, eventually

from ..support.scripted_server import (
    Answer,
    ErrorReply,
    Request,
    ScriptedServer,
    all_slots,
    cluster_store,
    empty_server,
    never_replies,
    sentinel_reply,
)


def maps(primary: ScriptedServer, otherwise: Answer = empty_server) -> Answer:
    """The answers of a node that knows this primary of all slots."""

    async def answer(request: Request) -> Any:
        return all_slots(primary) if request[0] == b"CLUSTER" else await otherwise(request)

    return answer


async def moved_to(node: ScriptedServer, request: Request) -> Any:
    return ErrorReply(f"MOVED {slot_of('u')} {node.address}")


# --- clusters


async def test_cluster_move_right_after_a_slot_map_is_noticed(first: ScriptedServer, second: ScriptedServer) -> None:
    looks = 0

    async def answer(request: Request) -> Any:
        nonlocal looks
        if request[0] == b"CLUSTER":
            looks += 1
            return all_slots(first if looks == 1 else second)
        return await moved_to(second, request)

    first.answer, second.answer = answer, maps(second)
    async with cluster_store(first) as store:
        assert await store.get("u", "c") is None

        async def was_looked_at() -> bool:
            return looks + second.count(b"CLUSTER") > 1

        await eventually(was_looked_at)


async def test_address_remap_failure_ends_the_call(first: ScriptedServer, second: ScriptedServer) -> None:
    first.answer = maps(first, lambda request: moved_to(second, request))

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return {first.port: ("127.0.0.1", first.port)}[address[1]]

    async with cluster_store(first, address_remap=remap) as store, asyncio.timeout(PATIENCE):
        for call in await asyncio.gather(*(store.get("u", channel) for channel in range(3)), return_exceptions=True):
            assert isinstance(call, KeyError)
    with pytest.raises(TypeError, match="address_remap must be a function"):
        SessionStore.from_url(f"redis+cluster://{first.address}/?address_remap=x")


async def test_cluster_ignores_a_seed_outside_of_it(first: ScriptedServer, second: ScriptedServer) -> None:
    async def alone(request: Request) -> Any:
        return ErrorReply("ERR This instance has cluster support disabled")

    first.answer, second.answer = alone, maps(second)
    for _ in range(10):
        async with SessionStore.from_url(f"redis+cluster://{first.address},{second.address}/", timeout=PATIENCE) as store:
            assert await store.get("u", "c") is None
    assert first.count(b"HGETALL") == 0
    # If there are no other nodes, the error is raised at once.
    async with cluster_store(first, timeout=3600) as store, asyncio.timeout(PATIENCE):
        with pytest.raises(ResponseError, match="cluster support disabled"):
            await store.get("u", "c")
        with pytest.raises(ResponseError, match="cluster support disabled"):
            await store.size()


async def test_cluster_silent_nodes_fail_at_the_timeout(first: ScriptedServer, second: ScriptedServer) -> None:
    first.answer = second.answer = never_replies
    url = f"redis+cluster://{first.address},{second.address}/"
    async with SessionStore.from_url(url, timeout=0.3, socket_timeout=None) as store, asyncio.timeout(PATIENCE):
        with pytest.raises(redis.TimeoutError, match="slot map"):
            await store.get("u", "c")
        with pytest.raises(redis.TimeoutError, match="slot map"):
            await store.size()


async def test_cluster_size_reports_an_unserved_slot(first: ScriptedServer) -> None:
    async def half(request: Request) -> Any:
        return [[0, 100, [b"127.0.0.1", first.port, b"0" * 40]]]

    first.answer = half
    async with cluster_store(first, timeout=0.3) as store:
        with pytest.raises(redis.exceptions.ClusterDownError, match="no node serves slot 101"):
            await store.size()


async def test_cluster_replica_without_wait_redirects_writes(first: ScriptedServer, second: ScriptedServer) -> None:
    async def replica(request: Request) -> Any:
        if request[0] == b"WAIT":
            return ErrorReply("ERR WAIT cannot be used with replica instances.")
        return await moved_to(second, request)

    async def primary(request: Request) -> Any:
        return 1 if request[0] == b"WAIT" else [1, 5]

    first.answer, second.answer = maps(first, replica), maps(second, primary)
    async with cluster_store(first, replicas=1) as store:
        assert await store.update("u", "c", {"n": 1}) == 5
    assert first.count(b"EVALSHA") == 1


async def test_cluster_cancelled_aclose_ends(first: ScriptedServer) -> None:
    first.answer = maps(first, never_replies)
    store = cluster_store(first, timeout=3600, socket_timeout=3600)
    calls = [asyncio.ensure_future(store.get(user, "c")) for user in range(5)]

    async def is_sent() -> bool:
        return first.count(b"HGETALL") > 0

    await eventually(is_sent)
    closing = asyncio.ensure_future(store.aclose())
    for _ in range(5):
        await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await closing
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, redis.ConnectionError)


# --- sentinels


async def test_sentinel_disagreement_in_one_epoch_changes_nothing(
    first: ScriptedServer, second: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def one(request: Request) -> Any:
        return sentinel_reply(first, 1)

    async def other(request: Request) -> Any:
        return sentinel_reply(second, 1)

    async with ScriptedServer(one) as left, ScriptedServer(other) as right:
        url = f"redis+sentinel://{left.address},{right.address}/bots"
        async with SessionStore.from_url(url, timeout=PATIENCE) as store:
            for user in range(50):
                assert await store.get(user, "c") is None

            async def were_heard() -> bool:
                return min(left.count(b"SENTINEL"), right.count(b"SENTINEL")) > 5

            await eventually(were_heard)
            for user in range(50):
                assert await store.get(user, "c") is None
    assert sorted([first.count(b"HGETALL"), second.count(b"HGETALL")]) == [0, 100]
    assert "is now" not in caplog.text


async def test_sentinel_majority_with_a_lower_epoch_is_believed(first: ScriptedServer, second: ScriptedServer) -> None:
    is_new = False

    async def knows(request: Request) -> Any:
        return sentinel_reply(second, 0) if is_new else sentinel_reply(first, 5)

    async def demoted(request: Request) -> Any:
        return ErrorReply("READONLY You can't write against a read only replica.") if is_new else []

    first.answer = demoted
    async with (
        ScriptedServer(knows) as knowing,
        SessionStore.from_url(f"redis+sentinel://{knowing.address}/bots", timeout=PATIENCE) as store,
    ):
        assert await store.get("u", "c") is None
        is_new, first.role = True, b"slave"
        assert await store.get("u", "c") is None
    assert second.count(b"HGETALL") == 1


async def test_sentinel_primary_that_refuses_is_asked_with_pauses(first: ScriptedServer) -> None:
    async def knows(request: Request) -> Any:
        return sentinel_reply(first, 1)

    async def refuses(request: Request) -> Any:
        return ErrorReply("READONLY You can't write against a read only replica.")

    first.answer = refuses
    async with (
        ScriptedServer(knows) as knowing,
        SessionStore.from_url(f"redis+sentinel://{knowing.address}/bots", timeout=1) as store,
    ):
        with pytest.raises(ReadOnlyError):
            await store.get("u", "c")
    # Without pauses there would be hundreds.
    assert 1 < first.roles < 50
