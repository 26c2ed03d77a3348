"""Writes that replicas and disks have confirmed survive the loss of the primary; unconfirmed ones raise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio

from redis_botsession import BotSession, DurabilityUnproven, SessionError, SessionStore, VersionConflict
from redis_botsession._transport.cluster import ClusterExecutor
from redis_botsession.embedded import LocalServer
from redis_botsession.testing.harness import eventually, load

from ..support.processes import kill
from ..support.proxy_steered import SteeredProxy
from ..support.redis_servers import SERVERS, Server, locate_or_skip

NEWEST = next(server for server in SERVERS if server.id == "redis-8.2")
#: Those that know WAITAOF.
SYNCING = [server for server in SERVERS if server.id not in {"redis-6.2"}]


@dataclass
class Pair:
    """A primary, and a replica that follows it through a proxy."""

    primary: LocalServer
    replica: LocalServer
    link: SteeredProxy

    @property
    def url(self) -> str:
        return self.primary.url

    def cut(self) -> None:
        """Cuts the replica off: writes of the primary no longer reach it, without an error."""
        self.link.mute(replies=True)


async def make_pair(server: Server, stack: AsyncExitStack) -> Pair:
    binary, env = locate_or_skip(server)
    primary, replica = (
        stack.enter_context(LocalServer(binary, env=env, tcp=True, options=["--repl-diskless-sync", "no"])) for _ in range(2)
    )
    link = await stack.enter_async_context(SteeredProxy(primary.url, "link"))
    async with redis.asyncio.Redis.from_url(replica.url) as client:
        await client.replicaof("127.0.0.1", urlsplit(link.url).port)

        async def follows() -> bool:
            return bool((await client.info("replication"))["master_link_status"] == "up")

        await eventually(follows)
    return Pair(primary, replica, link)


@pytest.fixture(params=SERVERS, ids=lambda server: server.id)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        yield await make_pair(request.param, stack)


@pytest.fixture
async def newest_pair() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        yield await make_pair(NEWEST, stack)


async def promoted(pair: Pair) -> None:
    """The primary is killed, the replica takes its place."""
    kill(pair.primary)
    async with redis.asyncio.Redis.from_url(pair.replica.url) as client:
        await client.replicaof("NO", "ONE")


async def lost_in_a_failover(pair: Pair, prefix: str, **options: Any) -> tuple[set[str], set[str]]:
    """Writes while the link is cut and the primary killed; gives the keys that were acknowledged, and of these the lost."""
    told: set[str] = set()
    unproven: set[str] = set()
    async with SessionStore.from_url(pair.url, prefix=prefix, timeout=5, wait_timeout=0.05, **options) as store:

        async def work(worker: int, enough: Callable[[], bool]) -> None:
            number = 0
            while not enough():
                number += 1
                key = f"{worker}-{number}"
                try:
                    await store.update(worker % 4, "c", {key: number})
                except DurabilityUnproven:
                    unproven.add(key)
                else:
                    told.add(key)

        await asyncio.gather(*(work(worker, lambda: len(told) >= 200) for worker in range(8)))
        before = len(told)
        pair.cut()
        await asyncio.gather(*(work(8 + worker, lambda: len(told) + len(unproven) >= before + 40) for worker in range(8)))
    await promoted(pair)
    async with SessionStore.from_url(pair.replica.url, prefix=prefix) as store:
        sessions = [await load(store, str(user), "c") for user in range(4)]
    kept = {key for session in sessions for key in session.data}
    return told, told - kept


async def test_durability_off_loses_writes_in_a_failover(pair: Pair, prefix: str) -> None:
    told, lost = await lost_in_a_failover(pair, prefix)
    assert told
    assert lost


async def test_durability_on_loses_no_write_in_a_failover(pair: Pair, prefix: str) -> None:
    told, lost = await lost_in_a_failover(pair, prefix, replicas=1)
    assert told
    assert not lost


@pytest.fixture(params=["from_url", "client"])
async def guarded(request: pytest.FixtureRequest, newest_pair: Pair, prefix: str) -> AsyncIterator[SessionStore]:
    """A store that waits for one replica."""
    async with AsyncExitStack() as stack:
        if request.param == "from_url":
            store = SessionStore.from_url(f"{newest_pair.url}?replicas=1&wait_timeout=0.05", prefix=prefix)
        else:
            client = await stack.enter_async_context(redis.asyncio.Redis.from_url(newest_pair.url))
            store = SessionStore(client, prefix=prefix, replicas=1, wait_timeout=0.05)
        yield await stack.enter_async_context(store)


async def test_durability_unproven_says_what_is_missing(guarded: SessionStore, newest_pair: Pair) -> None:
    version = await guarded.set("u", "c", BotSession("u", "c", {"n": 1}))
    newest_pair.cut()
    with pytest.raises(
        DurabilityUnproven, match=r"applied, durability unproven: 0 of 1 replicas have it after 0\.05 s"
    ) as caught:
        await guarded.update("u", "c", {"n": 2})
    assert caught.value.key == guarded.key("u", "c")
    session = await load(guarded)
    assert (session.data, session.version) == ({"n": 2}, caught.value.result)
    assert session.version > version
    # A refused write raises its own error as before.
    with pytest.raises(VersionConflict):
        await guarded.update("u", "c", {"n": 3}, expected_version=version)
    # Renewing a TTL is not waited for.
    assert await guarded.touch("u", "c")
    with pytest.raises(DurabilityUnproven) as caught:
        await guarded.delete("u", "c")
    assert caught.value.result is True
    # There is nothing left that could be lost.
    assert await guarded.delete("u", "c") is False
    assert await guarded.clear("u") == 0


async def test_durable_writes_share_one_wait(newest_pair: Pair, prefix: str) -> None:
    options: dict[str, Any] = {"replicas": 1, "wait_timeout": 4.0, "max_connections": 1}
    async with (
        SessionStore.from_url(newest_pair.url, prefix=prefix, **options) as store,
        redis.asyncio.Redis.from_url(newest_pair.url) as client,
    ):
        await store.update("u", "c", {"n": 1})
        await client.config_resetstat()
        await asyncio.gather(*(store.update(user, "c", {"n": 1}) for user in range(100)))
        assert (await client.info("commandstats"))["cmdstat_wait"]["calls"] <= 2
        newest_pair.cut()
        writing = asyncio.ensure_future(store.update("u", "c", {"n": 2}))

        async def is_applied() -> bool:
            return (await load(store)).data == {"n": 2}

        await eventually(is_applied)
        assert not writing.done()
        newest_pair.link.cut_all()
        newest_pair.link.unmute_new()
        assert await writing


@pytest.mark.parametrize("server", SYNCING, ids=lambda server: server.id)
async def test_fsync_writes_outlive_the_server(server: Server, prefix: str, tmp_path: Path) -> None:
    binary, env = locate_or_skip(server)
    # With "always" there would be nothing to wait for.
    local = LocalServer(binary, env=env, data=tmp_path, tcp=True, options=["--appendfsync", "everysec"])
    with local:
        async with SessionStore.from_url(local.url, prefix=prefix, fsync=True, wait_timeout=4) as store:
            version = await store.update("u", "c", {"n": 1})
            async with redis.asyncio.Redis.from_url(local.url) as client:
                assert (await client.info("commandstats"))["cmdstat_waitaof"]["calls"] >= 1
        kill(local)
    with local:
        async with SessionStore.from_url(local.url, prefix=prefix) as store:
            session = await load(store)
            assert (session.data, session.version) == ({"n": 1}, version)


async def test_durability_without_server_support_writes_nothing(url: str, prefix: str) -> None:
    # None of these has an append-only file; 6.2 does not know the command.
    async with SessionStore.from_url(url, prefix=prefix, fsync=True) as store:
        with pytest.raises(SessionError, match=r"cannot confirm writes, so none was sent: .*appendonly"):
            await store.update("u", "c", {"n": 1})
        assert await store.get("u", "c") is None


def test_durability_settings_are_checked(newest_url: str) -> None:
    for wrong in (-1, True, "two", 1.5):
        with pytest.raises((TypeError, ValueError), match="replicas"):
            SessionStore.from_url(newest_url, replicas=wrong)  # type: ignore[arg-type] # on purpose
        with pytest.raises((TypeError, ValueError), match="replicas"):
            SessionStore(redis.asyncio.Redis(), replicas=wrong)  # type: ignore[arg-type] # on purpose
    with pytest.raises(ValueError, match="wait_timeout must be less than socket_timeout"):
        SessionStore(redis.asyncio.Redis(socket_timeout=1), replicas=1)
    with pytest.raises(TypeError, match="the executor's own"):
        SessionStore(ClusterExecutor.__new__(ClusterExecutor), replicas=1)
    with pytest.raises(ValueError, match="wait_timeout must be less than socket_timeout"):
        SessionStore.from_url(newest_url, replicas=1, wait_timeout=5)
    with pytest.raises(ValueError, match="wait_timeout"):
        SessionStore.from_url(newest_url, replicas=1, wait_timeout=0)
    with pytest.raises(ValueError, match="replicas"):
        SessionStore.from_url(f"{newest_url}?replicas=many")
