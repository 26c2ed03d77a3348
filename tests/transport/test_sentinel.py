"""A primary behind sentinels, all real processes: it dies, hangs, or is replaced, while it is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel

from redis_botsession import OutcomeUnknown, SessionStore
from redis_botsession.testing.harness import eventually, load

from ..faults.history import Kind, Outcome, State, Write
from ..faults.workload import Workload
from ..support.redis_servers import SERVERS, locate_or_skip
from ..support.topologies import SERVICE, Node, SentinelServers

#: The oldest, where scripts hide what they are refused for, the newest, and one of the other family.
VERSIONS = [server for server in SERVERS if server.id in {"redis-6.2", "redis-8.2", "valkey-9.1"}]

NEWEST = next(server for server in VERSIONS if server.id == "redis-8.2")

Event = Callable[[SentinelServers, Node], Awaitable[None]]


@pytest.fixture(params=VERSIONS, ids=lambda server: server.id)
def servers(request: pytest.FixtureRequest) -> Iterator[SentinelServers]:
    with SentinelServers(*locate_or_skip(request.param)) as group:
        yield group


@pytest.fixture(scope="module")
def shared() -> Iterator[SentinelServers]:
    """For what does no harm to them."""
    with SentinelServers(*locate_or_skip(NEWEST)) as group:
        yield group


@pytest.fixture
async def watched(servers: SentinelServers, prefix: str) -> AsyncIterator[SessionStore]:
    async with SessionStore.from_url(servers.url, prefix=prefix, timeout=30) as store:
        yield store


async def is_replaced(servers: SentinelServers, old: Node) -> None:
    async def has_another() -> bool:
        return await asyncio.to_thread(servers.primary) is not old

    await eventually(has_another)


async def kill(servers: SentinelServers, primary: Node) -> None:
    servers.kill(primary)
    await is_replaced(servers, primary)


async def hang(servers: SentinelServers, primary: Node) -> None:
    servers.pause(primary)
    await is_replaced(servers, primary)
    servers.resume(primary)


async def fail_over(servers: SentinelServers, primary: Node) -> None:
    await servers.failover()


@dataclass
class Toll:
    """What a failover has cost, by the ids of the writes."""

    lost: list[int]
    phantoms: list[int]
    doubles: list[str]

    @classmethod
    async def of(cls, workload: Workload, fresh: SessionStore) -> Toll:
        final = {target: State.of(await fresh.get(target.user, target.channel)) for target in workload.history.targets}
        present = {target: state.chain if target.kind is Kind.CHAIN else list(state.data) for target, state in final.items()}

        def is_there(write: Write) -> bool:
            return (write.id if write.target.kind is Kind.CHAIN else write.key) in present[write.target]

        writes = workload.history.writes
        return cls(
            [write.id for write in writes if write.is_acknowledged and not is_there(write)],
            [write.id for write in writes if write.outcome is Outcome.REFUSED and is_there(write)],
            [target.user for target, items in present.items() if len(items) != len(set(items))],
        )


@pytest.mark.parametrize(
    ("servers", "event", "replicas"),
    [
        *((server, kill, 0) for server in VERSIONS),
        *(
            (NEWEST, event, replicas)
            for event in (kill, hang, fail_over)
            for replicas in (0, 2)
            if (event, replicas) != (kill, 0)
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None) or getattr(value, "id", None) or f"replicas={value}",
    indirect=["servers"],
)
async def test_sentinel_store_finds_the_next_primary(
    event: Event, replicas: int, servers: SentinelServers, prefix: str, record_property: Callable[[str, object], None]
) -> None:
    options: dict[str, Any] = {"prefix": prefix, "timeout": 30, "replicas": replicas, "wait_timeout": 0.05}
    async with SessionStore.from_url(servers.url, **options) as store:
        workload = Workload("failover", [store])
        old = servers.primary()

        async def happen() -> None:
            await workload.until_all_progress()
            await event(servers, old)
            # Those who wait are served by the new one, ...
            await workload.until_all_progress()
            await workload.until_all_progress()

        await workload.run(happen, operations=300)
    # ... only writes that were on their way are in doubt.
    assert set(workload.errors) <= {("write", "OutcomeUnknown"), ("write", "DurabilityUnproven")}
    assert workload.hanging == []
    assert workload.history.counts()["acknowledged"] > 0
    async with servers.primary().client() as client, SessionStore(client, prefix=prefix) as fresh:
        toll = await Toll.of(workload, fresh)
    assert not toll.phantoms
    assert not toll.doubles
    if replicas:
        assert not toll.lost
    # What the old one has acknowledged and not passed on is gone, as Redis says.
    record_property("lost", len(toll.lost))


async def test_sentinel_late_replies_of_an_old_primary_do_not_count(
    servers: SentinelServers, watched: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.gather(*(watched.update(user, "c", {"n": 0}) for user in range(100)))
    old = servers.primary()
    async with old.client() as client:
        # Both replicas have all that was written so far.
        await client.set("marker", 1)
        assert await client.wait(2, 5000) == 2
    servers.pause(old)
    # They are under way when it stops; the sentinels tell of the new one before it goes on.
    writing = [asyncio.ensure_future(watched.update(user, "c", {"n": 1})) for user in range(100)]

    async def has_heard() -> bool:
        return "the primary of bots is now" in caplog.text

    await eventually(has_heard)
    servers.resume(old)
    versions = await asyncio.gather(*(watched.update(user, "c", {"later": 1}) for user in range(100)))
    assert all(versions)
    # Its replies to what it had not read yet were not waited for.
    assert [type(result) for result in await asyncio.gather(*writing, return_exceptions=True)] == [OutcomeUnknown] * 100
    for user in range(100):
        assert (await load(watched, str(user), "c")).data == {"n": 0, "later": 1}


async def test_sentinel_store_leaves_a_demoted_primary(servers: SentinelServers, watched: SessionStore) -> None:
    await watched.update("u", "c", {"n": 1})
    primary = servers.primary()
    async with primary.client() as client:
        # As the sentinels do it: the connections stay open, and writes are refused.
        other = servers.replicas()[0]
        await client.replicaof("127.0.0.1", other.port)
        writing = asyncio.ensure_future(watched.update("u", "c", {"n": 2}))

        async def was_refused() -> bool:
            stats = await client.info("commandstats")
            return any("evalsha" in name and entry["calls"] > 1 for name, entry in stats.items())

        await eventually(was_refused)
        await client.replicaof("NO", "ONE")
    await writing
    assert (await load(watched)).data == {"n": 2}


async def test_sentinel_client_leaves_a_demoted_primary(servers: SentinelServers, prefix: str) -> None:
    sentinel = Sentinel([("127.0.0.1", node.port) for node in servers.sentinels])  # type: ignore[no-untyped-call] # redis-py has no types here
    try:
        async with sentinel.master_for(SERVICE) as client, SessionStore(client, prefix=prefix) as store:
            await store.update("u", "c", {"n": 1})
            primary = servers.primary()
            async with primary.client() as direct:
                before = (await direct.info("stats"))["total_connections_received"]
                await direct.replicaof("127.0.0.1", servers.replicas()[0].port)
                # redis-py makes a lost connection of it where it notices, so the store cannot know the outcome.
                with pytest.raises((redis.exceptions.ReadOnlyError, OutcomeUnknown)):
                    await store.update("u", "c", {"n": 2})
                await direct.replicaof("NO", "ONE")
                # The connection was given up: the next one asks the sentinels again.
                await store.update("u", "c", {"n": 3})
                assert (await direct.info("stats"))["total_connections_received"] > before
            assert (await load(store)).data == {"n": 3}
    finally:
        for client in sentinel.sentinels:
            await client.aclose()


async def test_sentinel_errors_name_the_cause(shared: SentinelServers) -> None:
    hosts = shared.url.removeprefix("redis+sentinel://").partition("/")[0]
    async with SessionStore.from_url(f"redis+sentinel://{hosts}/nobody", timeout=0.5) as store:
        with pytest.raises(redis.ConnectionError, match=r"no sentinel names the primary of nobody: .*No such master"):
            await store.update("u", "c", {"n": 1})
    async with SessionStore.from_url("redis+sentinel://127.0.0.1:1/bots", timeout=0.5) as store:
        with pytest.raises(redis.ConnectionError, match=r"no sentinel names the primary of bots: .*127\.0\.0\.1:1"):
            await store.update("u", "c", {"n": 1})


@pytest.mark.parametrize("servers", [NEWEST], ids=lambda server: server.id, indirect=True)
async def test_sentinel_store_needs_one_sentinel_to_connect(servers: SentinelServers, watched: SessionStore) -> None:
    for sentinel in servers.sentinels[1:]:
        servers.kill(sentinel)
    await asyncio.gather(*(watched.update(user, "c", {"n": 1}) for user in range(20)))
    servers.kill(servers.sentinels[0])
    await asyncio.gather(*(watched.update(user, "c", {"n": 2}) for user in range(20)))
    assert await watched.size() == 20


async def test_sentinel_aclose_leaves_no_task(shared: SentinelServers, prefix: str) -> None:
    before = asyncio.all_tasks()
    store = SessionStore.from_url(shared.url, prefix=prefix)
    calls: list[Any] = [asyncio.ensure_future(store.update(user, "c", {"n": 1})) for user in range(20)]
    await asyncio.sleep(0)
    await store.aclose()
    assert all(call.done() and not call.exception() for call in calls)
    assert asyncio.all_tasks() == before
