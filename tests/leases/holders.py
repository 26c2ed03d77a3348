"""Holders of leases for tests: stores in this process, and other processes; and a view of a lease on the server."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import redis.asyncio

from redis_botsession import SessionStore
from redis_botsession._protocol.layout import Keys
from redis_botsession.leases import Leases
from redis_botsession.testing.harness import PATIENCE, eventually

#: Duration in seconds of a lease that does not expire during a test.
LONG = 600.0

_HOLDER = """
import asyncio, logging, sys
from redis_botsession import SessionStore
from redis_botsession.leases import Leases

url, prefix, lease = sys.argv[1], sys.argv[2], float(sys.argv[3])
logging.basicConfig(stream=sys.stdout, format="log: %(message)s")

async def main():
    async with SessionStore.from_url(url, prefix=prefix) as store:
        leases = Leases(store, lease=lease)
        async with leases.hold("u", "c") as held:
            print("held", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        print("over", held.is_lost, flush=True)
        await leases.aclose()

asyncio.run(main())
"""


class HolderProcess:
    """A process that holds the lease of ("u", "c") until ``end``.

    Attributes:
        process: The process.
    """

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    @asynccontextmanager
    async def holding(cls, url: str, prefix: str, lease: float = LONG) -> AsyncIterator[Self]:
        """Starts the process, and yields when it has the lease."""
        line = (sys.executable, "-c", _HOLDER, url, prefix, str(lease))
        process = await asyncio.create_subprocess_exec(*line, stdin=PIPE, stdout=PIPE)
        holder = cls(process)
        try:
            assert await holder.next_line() == "held"
            yield holder
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def next_line(self) -> str:
        """Returns the next line that the process prints."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().strip()

    def end(self) -> None:
        """Makes the process release the lease and end."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")


class LeaseUser:
    """A store with leases, as one process of a bot has them.

    Attributes:
        store: The store.
        leases: Its leases.
    """

    def __init__(self, store: SessionStore, lease: float) -> None:
        self.store = store
        self.leases = Leases(store, lease=lease)
        self._tasks: list[asyncio.Task[Any]] = []

    def wants(self, note: Callable[[], object] = lambda: None, user: str = "u") -> asyncio.Task[None]:
        """Starts a task that holds the lease of (``user``, "c") while it calls ``note`` and awaits its result, if need be."""

        async def want() -> None:
            async with self.leases.hold(user, "c"):
                result = note()
                if isinstance(result, Awaitable):
                    await result

        task = asyncio.get_running_loop().create_task(want())
        self._tasks.append(task)
        return task

    async def aclose(self) -> None:
        """Cancels the tasks of ``wants``, and closes the leases."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.leases.aclose()


@asynccontextmanager
async def lease_user(url: str, prefix: str, lease: float = LONG, **options: Any) -> AsyncIterator[LeaseUser]:
    """Opens a store with leases, and closes both after the block."""
    async with SessionStore.from_url(url, prefix=prefix, **options) as store:
        here = LeaseUser(store, lease)
        try:
            yield here
        finally:
            await here.aclose()


class LeaseOnServer:
    """The lease of ("u", "c") as the server has it."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        self.client = client
        self.key = Keys(prefix).lease("u", "c")

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str, prefix: str) -> AsyncIterator[Self]:
        """Connects to the server at ``url``."""
        async with redis.asyncio.Redis.from_url(url) as client:
            yield cls(client, prefix)

    async def token(self) -> bytes:
        """Returns the token of the holder; b"" if the lease is free."""
        return (await self._stored()).rstrip(b"+")

    async def is_awaited(self) -> bool:
        """Returns whether a waiter in another process has marked the lease, so that the holder publishes its release."""
        return (await self._stored()).endswith(b"+")

    async def has_listeners(self, count: int = 1) -> bool:
        """Returns whether exactly so many processes subscribe to the release."""
        ((_, listeners),) = await self.client.pubsub_numsub(self.key)
        return int(listeners) == count

    async def is_waited_for(self) -> None:
        """Waits until a waiter has marked the lease and subscribed to its release."""
        await eventually(self.is_awaited)
        await eventually(self.has_listeners)

    async def time_ms(self) -> int:
        """Returns the server's time in milliseconds."""
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def _stored(self) -> bytes:
        stored = await self.client.get(self.key)
        return stored if isinstance(stored, bytes) else b""

    async def scripts_run(self) -> int:
        """Returns how many scripts the server has run since it started."""
        return await self.count("evalsha", "eval")

    async def count(self, *commands: str) -> int:
        """Returns how often the server has run these commands."""
        stats = await self.client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in commands)


async def has_keys(client: redis.asyncio.Redis, pattern: str, count: int) -> bool:
    """Returns whether the server has exactly ``count`` keys that match ``pattern``."""
    return len([key async for key in client.scan_iter(pattern)]) == count
