"""The faults: what is done, what it is promised to do to users at most, and how it is told that it has happened."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import redis
import redis.asyncio

from redis_botsession import SessionStore
from redis_botsession.embedded import LocalServer
from redis_botsession.testing.harness import eventually

from ..support.processes import paused
from ..support.proxy_steered import SteeredProxy
from .workload import Workload

#: Seconds without a byte after which a connection is given up, where that is what a fault is about.
SILENCE = 0.3
UNKNOWN = frozenset({"OutcomeUnknown"})

#: Makes a server of some version, not started yet; takes the arguments of ``LocalServer``.
ServerFactory = Callable[..., LocalServer]


@dataclass
class Environment:
    """Where a fault takes place.

    Attributes:
        make: Makes servers of this version.
        server: The one that runs.
        data: The folder of its data; for faults that need one.
        proxy: What is before it; for faults that need one.
        workload: What goes on meanwhile.
        make_store: Makes another store for the same sessions, right on the server.
    """

    make: ServerFactory
    server: LocalServer
    data: Path
    proxy: SteeredProxy | None = None
    workload: Workload = field(init=False)
    make_store: Callable[[], SessionStore] = field(init=False)

    @property
    def between(self) -> SteeredProxy:
        """The proxy."""
        assert self.proxy is not None
        return self.proxy

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[redis.asyncio.Redis]:
        """A client of the server itself."""
        async with redis.asyncio.Redis.from_url(self.server.url) as client:
            yield client

    async def restart(self, options: list[str]) -> None:
        """Starts the server again, which has ended, at the same address with the same data."""
        url = self.server.url
        await asyncio.to_thread(self.server.stop)
        self.server = self.make(tcp=urlsplit(url).port, data=self.data, options=options)
        await asyncio.to_thread(self.server.start)


@dataclass(frozen=True)
class Fault:
    """A row of the matrix.

    Attributes:
        name: What a test calls it.
        promise: What is promised, besides what ``history.check`` checks, and that nothing hangs.
        inject: Does it once, and returns when it has happened and is over.
        times: How often.
        reads: Which errors may reach who loads ...
        writes: ... and who writes, besides conflicts.
        needs: Which of them must, else it did not really happen: it is done again until they have.
        cancels: The share of the calls that their callers cancel.
        has_proxy: Whether there is a proxy.
        data: Whether the server is the cell's own, and keeps its data in an append-only file or in a snapshot.
        options: For the store.
    """

    name: str
    promise: str
    inject: Callable[[Environment], Awaitable[None]]
    times: int = 3
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    needs: frozenset[tuple[str, str]] = frozenset()
    cancels: float = 0.0
    has_proxy: bool = False
    data: Literal["aof", "rdb"] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    async def happen(self, environment: Environment) -> None:
        """Does it so often, and between two times lets everybody go on."""
        done = 0
        while done < self.times or any(not environment.workload.errors[need] for need in self.needs):
            assert done < 20 * self.times, f"{self.name}: it has not come to {set(self.needs)}"
            await environment.workload.until_all_progress()
            await self.inject(environment)
            done += 1
        await environment.workload.until_all_progress()


SNAPSHOTS = ["--appendonly", "no"]


# --- between the store and the server


async def lose_replies(environment: Environment) -> None:
    await environment.between.until_gone(environment.between.lose_replies())


async def disturb(kind: Literal["delay", "split"], environment: Environment) -> None:
    proxy = environment.between
    setattr(proxy, kind, 0.3)
    await proxy.until_made(kind, proxy.made[kind] + 100)


async def mute(environment: Environment, *, replies: bool) -> None:
    proxy = environment.between
    before = proxy.made["mute"]
    muted = proxy.mute(replies=replies)
    try:
        # Until one has been given up, and another tried in its place.
        await proxy.until_made("mute", before + 1)
    finally:
        proxy.unmute_new()
    # Only now: nobody may be left to use one, and to notice, while the others are all waiting for new ones.
    await proxy.until_gone(muted)


async def refuse(environment: Environment) -> None:
    proxy = environment.between
    proxy.is_refusing = True
    try:
        proxy.cut_all()
        await proxy.until_made("refuse", proxy.made["refuse"] + 5)
    finally:
        proxy.is_refusing = False


async def kill_clients(environment: Environment) -> None:
    async with environment.admin() as admin:
        assert await admin.client_kill_filter(_type="normal", skipme=True)


# --- the server


async def pause(environment: Environment) -> None:
    with paused(environment.server):
        # The fault itself: a pause that is shorter than any timeout, so nothing tells of it.
        await asyncio.sleep(0.05)


async def pause_until(errors: frozenset[tuple[str, str]], environment: Environment) -> None:
    workload = environment.workload
    before = workload.errors.copy()
    with paused(environment.server):
        await workload.until(lambda: any(workload.errors[error] > before[error] for error in errors))


async def kill(environment: Environment) -> None:
    os.kill(environment.server.pid, signal.SIGKILL)
    await environment.restart([])


async def shut_down(environment: Environment) -> None:
    def save_and_end() -> None:
        with redis.Redis.from_url(environment.server.url, retry=None) as client:
            client.shutdown(save=True)

    await asyncio.to_thread(save_and_end)
    await environment.restart(SNAPSHOTS)


async def flush_scripts(environment: Environment) -> None:
    async with environment.admin() as admin:

        async def missed() -> int:
            errors = await admin.info("errorstats")
            return int(errors.get("errorstat_NOSCRIPT", {}).get("count", 0))

        before = await missed()
        await admin.script_flush()

        async def was_missed() -> bool:
            return await missed() > before

        await eventually(was_missed)


async def fill_memory(environment: Environment) -> None:
    async with environment.admin() as admin:
        await admin.config_set("maxmemory-policy", "noeviction")
        await admin.config_set("maxmemory", 1)
        try:
            await until_writes_failed(environment)
        finally:
            await admin.config_set("maxmemory", 0)


async def demote(environment: Environment) -> None:
    async with environment.admin() as admin:
        # Of a master that is not there: it keeps its data.
        await admin.replicaof("127.0.0.1", "1")
        try:
            await until_writes_failed(environment)
        finally:
            await admin.replicaof("NO", "ONE")


async def fill_disk(environment: Environment) -> None:
    # No snapshot can take the place of a folder: that needs no full disk, and fails for root, too.
    blocker = environment.data / "dump.rdb"
    async with environment.admin() as admin:
        await admin.config_set("save", "3600 1000000")
        await admin.config_set("stop-writes-on-bgsave-error", "yes")
        blocker.unlink(missing_ok=True)
        blocker.mkdir()
        try:
            await take_snapshot(admin, "err")
            await until_writes_failed(environment)
        finally:
            blocker.rmdir()
            await take_snapshot(admin, "ok")


async def take_snapshot(admin: redis.asyncio.Redis, status: str) -> None:
    await admin.bgsave()

    async def is_done() -> bool:
        info = await admin.info("persistence")
        return not info["rdb_bgsave_in_progress"] and bool(info["rdb_last_bgsave_status"] == status)

    await eventually(is_done)


async def until_writes_failed(environment: Environment) -> None:
    """Until writes have failed, whatever they were told, everybody has seen how it is, and someone new, too."""
    workload = environment.workload
    before = workload.failures("write")
    await workload.until(lambda: workload.failures("write") >= before + 30)
    await workload.until_all_progress()
    async with environment.make_store() as store:
        await workload.visit(store)


BOTH = frozenset({("read", "TimeoutError"), ("write", "OutcomeUnknown")})
DOUBT = frozenset({("write", "OutcomeUnknown")})
IMPATIENT = {"socket_timeout": SILENCE}

FAULTS = (
    Fault(
        "reply lost",
        "a write says OutcomeUnknown, a read comes all the same",
        lose_replies,
        times=5,
        writes=UNKNOWN,
        needs=DOUBT,
        cancels=0.05,
        has_proxy=True,
    ),
    Fault("delay", "nobody notices", partial(disturb, "delay"), times=2, cancels=0.05, has_proxy=True),
    Fault("split", "nobody notices", partial(disturb, "split"), times=2, cancels=0.05, has_proxy=True),
    Fault(
        "replies cut off",
        "a write says OutcomeUnknown, a read comes all the same",
        partial(mute, replies=True),
        times=2,
        writes=UNKNOWN,
        needs=DOUBT,
        has_proxy=True,
        options=IMPATIENT,
    ),
    Fault(
        "requests cut off",
        "a write says OutcomeUnknown, a read comes all the same",
        partial(mute, replies=False),
        times=2,
        writes=UNKNOWN,
        needs=DOUBT,
        has_proxy=True,
        options=IMPATIENT,
    ),
    Fault(
        "connections refused",
        "what was not sent waits; else a write says OutcomeUnknown",
        refuse,
        writes=UNKNOWN,
        needs=DOUBT,
        cancels=0.05,
        has_proxy=True,
    ),
    Fault("clients killed", "a write says OutcomeUnknown, a read comes all the same", kill_clients, times=5, writes=UNKNOWN),
    Fault("pause", "nobody notices", pause, cancels=0.05),
    Fault(
        "pause > socket_timeout",
        "a write says OutcomeUnknown, a read comes all the same",
        partial(pause_until, DOUBT),
        times=2,
        writes=UNKNOWN,
        needs=DOUBT,
        options=IMPATIENT,
    ),
    Fault(
        "pause > timeout",
        "a write says OutcomeUnknown, a read TimeoutError",
        partial(pause_until, BOTH),
        times=2,
        reads=frozenset({"TimeoutError"}),
        writes=UNKNOWN,
        needs=BOTH,
        options={"timeout": SILENCE},
    ),
    Fault("kill -9", "a write says OutcomeUnknown, a read comes all the same", kill, times=2, writes=UNKNOWN, data="aof"),
    Fault("restart", "a write says OutcomeUnknown, a read comes all the same", shut_down, times=2, writes=UNKNOWN, data="rdb"),
    Fault("scripts flushed", "nobody notices", flush_scripts, times=10, cancels=0.05),
    Fault(
        "out of memory",
        "a write says OOM, a read comes as ever",
        fill_memory,
        times=2,
        writes=frozenset({"OOM"}),
        needs=frozenset({("write", "OOM")}),
    ),
    Fault(
        "demoted to replica",
        "a write says READONLY, a read comes as ever",
        demote,
        times=2,
        writes=frozenset({"READONLY"}),
        needs=frozenset({("write", "READONLY")}),
    ),
    Fault(
        "disk full",
        "a write says MISCONF, a read comes as ever",
        fill_disk,
        times=2,
        writes=frozenset({"MISCONF"}),
        needs=frozenset({("write", "MISCONF")}),
        data="rdb",
    ),
)
