"""A Redis Cluster of real nodes: sessions on all of them, slots that move, primaries that die; while it is used."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
from redis.exceptions import TryAgainError

from redis_botsession import SessionStore
from redis_botsession._protocol.layout import slot_of
from redis_botsession.testing.harness import eventually, load

from ..faults.history import Kind, Target
from ..faults.workload import SESSIONS, Workload
from ..support.proxy import Proxy
from ..support.redis_servers import SERVERS, Server, locate_or_skip
from ..support.topologies import ClusterServers, Node

#: The oldest, the newest, and one of the other family.
VERSIONS = [server for server in SERVERS if server.id in {"redis-6.2", "redis-8.2", "valkey-9.1"}]
NEWEST = [server for server in SERVERS if server.id == "redis-8.2"]


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda server: server.id)
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterServers]:
    with ClusterServers(*locate_or_skip(request.param)) as servers:
        yield servers


@pytest.fixture(scope="module", params=NEWEST, ids=lambda server: server.id)
def newest(request: pytest.FixtureRequest) -> Iterator[ClusterServers]:
    with ClusterServers(*locate_or_skip(request.param)) as servers:
        yield servers


@pytest.fixture(params=VERSIONS, ids=lambda server: server.id)
def mortal(request: pytest.FixtureRequest) -> Iterator[ClusterServers]:
    """A cluster for one test, which may do away with its nodes."""
    with ClusterServers(*locate_or_skip(request.param)) as servers:
        yield servers


@pytest.fixture
async def cluster_store(cluster: ClusterServers, prefix: str) -> AsyncIterator[SessionStore]:
    async with SessionStore.from_url(cluster.url, prefix=prefix) as store:
        yield store


def slots_of(workload_prefix: str) -> set[int]:
    """The slots of a workload's users."""
    return {slot_of(f"{workload_prefix}{kind}-{number}") for kind in Kind for number in range(SESSIONS)}


def others(cluster: ClusterServers, node: Node) -> list[Node]:
    return [primary for primary in cluster.primaries() if primary is not node]


async def some_calls() -> None:
    """Lets others run for a while. (To wait for their calls would be in vain: some wait for the slot to have moved.)"""
    for _ in range(50):
        await asyncio.sleep(0)


async def assert_clean(workload: Workload, url: str, prefix: str) -> None:
    """Nothing was lost or applied twice, no call failed, and none hung."""
    async with SessionStore.from_url(url, prefix=prefix) as fresh:
        assert await workload.check(fresh) == []
    assert not workload.errors
    assert workload.hanging == []
    assert workload.history.counts()["acknowledged"] > 0


# --- all nodes are one store


async def test_cluster_store_uses_all_nodes(cluster: ClusterServers, cluster_store: SessionStore, prefix: str) -> None:
    users = [str(number) for number in range(200)]
    await asyncio.gather(*(cluster_store.update(user, channel, {"of": user}) for user in users for channel in ("a", "b")))
    for node in cluster.primaries():
        async with node.client() as client:
            assert [key async for key in client.scan_iter(f"{prefix}*", _type="hash")]
    found = [ids async for ids in cluster_store.scan()]
    assert sorted(found) == sorted((user, channel) for user in users for channel in ("a", "b"))
    assert await cluster_store.size() == 400
    sessions = await asyncio.gather(*(cluster_store.get(user, "a", touch=True) for user in users))
    assert [session and session.data["of"] for session in sessions] == users
    assert sorted(await cluster_store.channels("7")) == ["a", "b"]
    assert await asyncio.gather(*(cluster_store.clear(user) for user in users)) == [2] * 200
    assert await cluster_store.size() == 0


async def test_cluster_client_settings_are_taken_over(cluster: ClusterServers, prefix: str) -> None:
    async with redis.asyncio.RedisCluster("127.0.0.1", cluster.primaries()[0].port) as client:
        async with SessionStore(client, prefix=prefix) as store:
            await asyncio.gather(*(store.update(user, "c", {"n": user}) for user in range(50)))
            assert await store.size() == 50
        # It is still the caller's.
        assert await client.ping()


@pytest.mark.parametrize("kind", ["from_url", "client"])
async def test_address_remap_translates_hosts_and_ports(kind: str, newest: ClusterServers, prefix: str) -> None:
    async with AsyncExitStack() as stack:
        proxies = {node.port: await stack.enter_async_context(Proxy(node.url)) for node in newest.nodes}

        def remap(address: tuple[str, int]) -> tuple[str, int]:
            return "127.0.0.1", urlsplit(proxies[address[1]].url).port or 0

        host, port = remap(("", newest.nodes[0].port))
        if kind == "from_url":
            store = SessionStore.from_url(f"redis+cluster://{host}:{port}/", prefix=prefix, address_remap=remap)
        else:
            client = redis.asyncio.RedisCluster(host, port, address_remap=remap)
            store = SessionStore(await stack.enter_async_context(client), prefix=prefix)
        async with store:
            await asyncio.gather(*(store.update(user, "c", {"n": 1}) for user in range(50)))
            slot = slot_of("7")
            source = newest.primary_of(slot)
            await newest.move_slot(slot, source, others(newest, source)[0])
            await store.update("7", "c", {"n": 2})
            assert await store.size() == 50
            # Only one of them was named.
            assert all(proxies[node.port].connections for node in newest.primaries())


async def test_cluster_url_of_one_server_is_refused(newest_url: str) -> None:
    address = newest_url.removeprefix("redis://").partition("/")[0]
    async with SessionStore.from_url(f"redis+cluster://{address}/") as store:
        with pytest.raises(redis.ResponseError, match="cluster support disabled"):
            await store.update("u", "c", {"n": 1})


async def test_cluster_that_is_down_fails_at_the_timeout() -> None:
    async with SessionStore.from_url("redis+cluster://127.0.0.1:1,127.0.0.1:2/", timeout=0.3) as store:
        with pytest.raises(redis.ConnectionError, match=r"127\.0\.0\.1:[12]"):
            await store.update("u", "c", {"n": 1})
        with pytest.raises(redis.ConnectionError, match=r"127\.0\.0\.1:[12]"):
            await store.size()


async def test_cluster_aclose_leaves_no_task(cluster: ClusterServers, prefix: str) -> None:
    before = asyncio.all_tasks()
    store = SessionStore.from_url(cluster.url, prefix=prefix)
    calls = [asyncio.ensure_future(store.update(user, "c", {"n": 1})) for user in range(50)]
    await asyncio.sleep(0)
    await store.aclose()
    assert all(call.done() and not call.exception() for call in calls)
    with pytest.raises(Exception, match="closed"):
        await store.get("u", "c")
    assert asyncio.all_tasks() == before


# --- slots move


async def test_cluster_store_follows_moving_slots(cluster: ClusterServers, prefix: str) -> None:
    slots = slots_of("w-")

    async with (
        SessionStore.from_url(cluster.url, prefix=prefix) as one,
        SessionStore.from_url(cluster.url, prefix=prefix) as two,
    ):
        workload = Workload("moves", [one, two], prefix="w-")

        async def move_all() -> None:
            await workload.until_all_progress()
            for turn in range(6):
                for slot in slots:
                    source = cluster.primary_of(slot)
                    target = others(cluster, source)[turn % 2]
                    await cluster.move_slot(slot, source, target, between=some_calls)
            await workload.until_all_progress()

        await workload.run(move_all)
        await assert_clean(workload, cluster.url, prefix)


async def test_cluster_store_survives_resharding(newest: ClusterServers, prefix: str) -> None:
    cli, env = NEWEST[0].cli()
    source, target = newest.primaries()[:2]

    async with SessionStore.from_url(newest.url, prefix=prefix) as store:
        await asyncio.gather(*(store.update(user, "c", {"n": user}) for user in range(2000)))
        workload = Workload("reshard", [store])

        async def reshard() -> None:
            process = await asyncio.create_subprocess_exec(
                *(
                    cli,
                    "--cluster",
                    "reshard",
                    f"127.0.0.1:{source.port}",
                    "--cluster-from",
                    source.id,
                    "--cluster-to",
                    target.id,
                ),
                *("--cluster-slots", "1000", "--cluster-yes", "--cluster-pipeline", "1"),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            said, _ = await process.communicate()
            assert process.returncode == 0, said.decode()

        await workload.run(reshard)
        await assert_clean(workload, newest.url, prefix)
        sessions = await asyncio.gather(*(store.get(user, "c") for user in range(2000)))
        assert [session and session.data["n"] for session in sessions] == list(range(2000))
        assert await store.size() >= 2000


async def test_cluster_store_follows_ask(cluster: ClusterServers, cluster_store: SessionStore, prefix: str) -> None:
    slot = slot_of("u")
    source = cluster.primary_of(slot)
    target = others(cluster, source)[0]
    async with asyncio.TaskGroup() as group:
        for channel in range(10):
            group.create_task(cluster_store.update("u", channel, {"n": 0}))
    await cluster.begin_move(slot, source, target)
    try:
        await cluster.move_keys(slot, source, target)
        # ASKING and its command arrive together, whatever is sent besides.
        for turn in range(1, 21):
            writes = [cluster_store.update("u", channel, {f"n{turn}": turn}) for channel in range(10)]
            reads = [cluster_store.get("u", channel, touch=True) for channel in range(10)]
            elsewhere = [cluster_store.update(f"other-{number}", "c", {"n": turn}) for number in range(40)]
            await asyncio.gather(*writes, *reads, *elsewhere)
    finally:
        await cluster.end_move(slot, source, target)
    for channel in range(10):
        session = await load(cluster_store, "u", str(channel))
        assert session.data == {"n": 0} | {f"n{turn}": turn for turn in range(1, 21)}
    assert await cluster_store.clear("u") == 10


async def test_cluster_store_retries_tryagain(cluster: ClusterServers, cluster_store: SessionStore, prefix: str) -> None:
    slot = slot_of("u")
    source = cluster.primary_of(slot)
    target = others(cluster, source)[0]
    await cluster_store.update("u", "c", {"n": 0})
    await cluster.begin_move(slot, source, target)
    try:
        # A session and its index are two keys.
        assert await cluster.move_keys(slot, source, target, count=1) == 1
        async with SessionStore.from_url(cluster.url, prefix=prefix, timeout=0.3) as impatient:
            with pytest.raises(TryAgainError):
                await impatient.update("u", "c", {"impatient": True})
        writing = asyncio.ensure_future(cluster_store.update("u", "c", {"n": 1}))
        session = await load(cluster_store)
        assert session.data == {"n": 0}
        assert not writing.done()
        await cluster.move_keys(slot, source, target)
        await writing
    finally:
        await cluster.end_move(slot, source, target)
    assert (await load(cluster_store)).data == {"n": 1}


# --- primaries go


async def test_cluster_failover_loses_only_unreplicated_writes(
    mortal: ClusterServers, prefix: str, record_property: Any
) -> None:
    slots = slots_of("w-")
    async with SessionStore.from_url(mortal.url, prefix=prefix) as one, SessionStore.from_url(mortal.url, prefix=prefix) as two:
        workload = Workload("kill", [one, two], prefix="w-")
        victim = mortal.primary_of(min(slots))
        lost_slots = {slot for slot in slots if mortal.primary_of(slot) is victim}

        async def kill() -> None:
            await workload.until_all_progress()
            mortal.kill(victim)
            await workload.until_all_progress()

        await workload.run(kill)
        # It recovers by itself: every worker has been served since. Only writes that were on their way are in doubt.
        assert set(workload.errors) <= {("write", "OutcomeUnknown")}
        assert workload.hanging == []
        violations = await workload.check(one)

    def slot(target: Target) -> int:
        return slot_of(target.user)

    assert {slot(violation.target) for violation in violations} <= lost_slots
    record_property("lost", len(violations))


async def test_cluster_store_survives_a_manual_failover(newest: ClusterServers, prefix: str) -> None:
    async with SessionStore.from_url(newest.url, prefix=prefix) as store:
        workload = Workload("takeover", [store], prefix="w-")

        async def take_over() -> None:
            await workload.until_all_progress()
            for primary in newest.primaries():
                replica = newest.replica_of(primary)
                await asyncio.to_thread(replica.ask, "CLUSTER", "FAILOVER")

                async def is_primary(node: Node = replica) -> bool:
                    return node in await asyncio.to_thread(newest.primaries)

                await eventually(is_primary)
                await workload.until_all_progress()

        await workload.run(take_over)
        await assert_clean(workload, newest.url, prefix)
    await asyncio.to_thread(newest.settle)


@pytest.mark.parametrize("server", NEWEST, ids=lambda server: server.id)
async def test_cluster_store_leaves_a_hanging_primary(server: Server, prefix: str) -> None:
    with ClusterServers(*locate_or_skip(server)) as cluster:
        options: dict[str, Any] = {"prefix": prefix, "timeout": 30, "socket_timeout": 1}
        async with SessionStore.from_url(cluster.url, **options) as store:
            await asyncio.gather(*(store.update(user, "c", {"n": 0}) for user in range(100)))
            victim = cluster.primary_of(0)
            async with victim.client() as client, cluster.replica_of(victim).client() as replica:
                offset = (await client.info("replication"))["master_repl_offset"]

                async def has_followed() -> bool:
                    return bool((await replica.info("replication"))["slave_repl_offset"] >= offset)

                await eventually(has_followed)
            cluster.pause(victim)
            written = await asyncio.gather(*(store.update(user, "c", {"n": 1}) for user in range(100)), return_exceptions=True)
            told = [user for user, result in enumerate(written) if isinstance(result, int)]
            # Every acknowledged write is there, whatever the old primary replies when it goes on.
            cluster.resume(victim)
            await asyncio.to_thread(cluster.settle)
            sessions = await asyncio.gather(*(store.get(user, "c") for user in range(100)))
            assert told
            assert [user for user in told if (session := sessions[user]) is None or session.data != {"n": 1}] == []
            assert None not in sessions
