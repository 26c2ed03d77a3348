"""The faults of the matrix: how each one is made, which errors it may cause, and when it has happened."""

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

#: Seconds without a byte after which the store closes a connection, for faults that depend on this.
SILENCE = 0.3
#: Errors by name, for ``Fault.reads`` and ``Fault.writes``.
UNKNOWN = frozenset({"OutcomeUnknown"})

#: Makes a server of some version without starting it; takes the arguments of ``LocalServer``.
ServerFactory = Callable[..., LocalServer]


@dataclass
class Environment:
    """The server, the proxy and the workload that a fault acts on.

    Attributes:
        make: Makes servers of this version.
        server: The running server.
        data: The folder of its data, for faults that need one.
        proxy: The proxy in front of it, for faults that need one.
        workload: The workload that runs meanwhile.
        make_store: Makes another store for the same sessions, without the proxy.
    """

    make: ServerFactory
    server: LocalServer
    data: Path
    proxy: SteeredProxy | None = None
    workload: Workload = field(init=False)
    make_store: Callable[[], SessionStore] = field(init=False)

    @property
    def steered(self) -> SteeredProxy:
        """The proxy, for faults that have one."""
        assert self.proxy is not None
        return self.proxy

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Connects to the server without the proxy."""
        async with redis.asyncio.Redis.from_url(self.server.url) as client:
            yield client

    async def restart(self, options: list[str]) -> None:
        """Starts a server that has ended again, on the same port and with the same data."""
        url = self.server.url
        await asyncio.to_thread(self.server.stop)
        self.server = self.make(tcp=urlsplit(url).port, data=self.data, options=options)
        await asyncio.to_thread(self.server.start)


@dataclass(frozen=True)
class Fault:
    """A row of the matrix.

    Attributes:
        name: Its name in the table and in test ids.
        promise: The promise in a few words, besides those that ``history.check`` checks and that no call hangs.
        inject: Makes the fault once, and returns when it is over.
        times: How often to make it.
        reads: The errors that loads may raise.
        writes: The errors that writes may raise, besides conflicts.
        needs: The errors that must occur: without them the fault has had no effect, and is made again.
        cancels: The share of the calls that are cancelled.
        has_proxy: Whether the store is connected through a proxy.
        data: "aof" or "rdb" for a server of its own that keeps its data in an append-only file or in snapshots.
        options: Options of the store.
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
        """Makes the fault ``times`` times and until all ``needs`` have occurred. All workers make calls before each time."""
        done = 0
        while done < self.times or any(not environment.workload.errors[need] for need in self.needs):
            assert done < 20 * self.times, f"{self.name}: not all of {set(self.needs)} have occurred"
            await environment.workload.until_all_progress()
            await self.inject(environment)
            done += 1
        await environment.workload.until_all_progress()


#: Options of a server that keeps its data in snapshots only.
SNAPSHOTS = ["--appendonly", "no"]


# --- between the store and the server


async def lose_replies(environment: Environment) -> None:
    await environment.steered.until_gone(environment.steered.lose_replies())


async def disturb(kind: Literal["delay", "split"], environment: Environment) -> None:
    proxy = environment.steered
    setattr(proxy, kind, 0.3)
    await proxy.until_made(kind, proxy.made[kind] + 100)


async def mute(environment: Environment, *, replies: bool) -> None:
    proxy = environment.steered
    before = proxy.made["mute"]
    muted = proxy.mute(replies=replies)
    try:
        # Until the store has replaced a connection, and used the new one.
        await proxy.until_made("mute", before + 1)
    finally:
        proxy.unmute_new()
    # Only after unmuting, because all workers may be waiting for new connections, and then no call would find a muted one.
    await proxy.until_gone(muted)


async def refuse(environment: Environment) -> None:
    proxy = environment.steered
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
        # A pause below every timeout causes no event to wait for.
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
        # As a replica of a primary that does not exist, the server keeps its data.
        await admin.replicaof("127.0.0.1", "1")
        try:
            await until_writes_failed(environment)
        finally:
            await admin.replicaof("NO", "ONE")


async def fill_disk(environment: Environment) -> None:
    # A folder with the name of the snapshot file makes snapshots fail without a full disk, and for root, too.
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
    """Waits until writes have failed and every worker has made further calls; then a new store makes some, too."""
    workload = environment.workload
    before = workload.failures("write")
    await workload.until(lambda: workload.failures("write") >= before + 30)
    await workload.until_all_progress()
    async with environment.make_store() as store:
        await workload.visit(store)


UNKNOWN_WRITE_AND_LATE_READ = frozenset({("read", "TimeoutError"), ("write", "OutcomeUnknown")})
UNKNOWN_WRITE = frozenset({("write", "OutcomeUnknown")})
SHORT_SILENCE = {"socket_timeout": SILENCE}

FAULTS = (
    Fault(
        "reply lost",
        "writes may raise OutcomeUnknown, reads succeed",
        lose_replies,
        times=5,
        writes=UNKNOWN,
        needs=UNKNOWN_WRITE,
        cancels=0.05,
        has_proxy=True,
    ),
    Fault("delay", "no call fails", partial(disturb, "delay"), times=2, cancels=0.05, has_proxy=True),
    Fault("split", "no call fails", partial(disturb, "split"), times=2, cancels=0.05, has_proxy=True),
    Fault(
        "replies cut off",
        "writes may raise OutcomeUnknown, reads succeed",
        partial(mute, replies=True),
        times=2,
        writes=UNKNOWN,
        needs=UNKNOWN_WRITE,
        has_proxy=True,
        options=SHORT_SILENCE,
    ),
    Fault(
        "requests cut off",
        "writes may raise OutcomeUnknown, reads succeed",
        partial(mute, replies=False),
        times=2,
        writes=UNKNOWN,
        needs=UNKNOWN_WRITE,
        has_proxy=True,
        options=SHORT_SILENCE,
    ),
    Fault(
        "connections refused",
        "unsent calls wait, sent writes may raise OutcomeUnknown",
        refuse,
        writes=UNKNOWN,
        needs=UNKNOWN_WRITE,
        cancels=0.05,
        has_proxy=True,
    ),
    Fault("clients killed", "writes may raise OutcomeUnknown, reads succeed", kill_clients, times=5, writes=UNKNOWN),
    Fault("pause", "no call fails", pause, cancels=0.05),
    Fault(
        "pause > socket_timeout",
        "writes may raise OutcomeUnknown, reads succeed",
        partial(pause_until, UNKNOWN_WRITE),
        times=2,
        writes=UNKNOWN,
        needs=UNKNOWN_WRITE,
        options=SHORT_SILENCE,
    ),
    Fault(
        "pause > timeout",
        "writes may raise OutcomeUnknown, reads TimeoutError",
        partial(pause_until, UNKNOWN_WRITE_AND_LATE_READ),
        times=2,
        reads=frozenset({"TimeoutError"}),
        writes=UNKNOWN,
        needs=UNKNOWN_WRITE_AND_LATE_READ,
        options={"timeout": SILENCE},
    ),
    Fault("kill -9", "writes may raise OutcomeUnknown, reads succeed", kill, times=2, writes=UNKNOWN, data="aof"),
    Fault("restart", "writes may raise OutcomeUnknown, reads succeed", shut_down, times=2, writes=UNKNOWN, data="rdb"),
    Fault("scripts flushed", "no call fails", flush_scripts, times=10, cancels=0.05),
    Fault(
        "out of memory",
        "writes may raise OOM, reads succeed",
        fill_memory,
        times=2,
        writes=frozenset({"OOM"}),
        needs=frozenset({("write", "OOM")}),
    ),
    Fault(
        "demoted to replica",
        "writes may raise READONLY, reads succeed",
        demote,
        times=2,
        writes=frozenset({"READONLY"}),
        needs=frozenset({("write", "READONLY")}),
    ),
    Fault(
        "disk full",
        "writes may raise MISCONF, reads succeed",
        fill_disk,
        times=2,
        writes=frozenset({"MISCONF"}),
        needs=frozenset({("write", "MISCONF")}),
        data="rdb",
    ),
)
