"""Message cycles per second: handlers that load a session, change one key and save, over and over, for a time window."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Final

import redis

from .contender import Contender
from .contenders import CONTENDERS
from .processes import run
from .workload import CHANGED_KEY, session_data, users_for

#: Sessions stored at once while filling: fewer than any pool has connections.
_FILLERS: Final = 32
#: Seconds at most until each handler has been through a cycle: of the warm-up, of the window, and of those that count.
_LAP_SECONDS: Final = 20.0
#: Seconds that the last cycles, which do not count, get to end before they are cancelled.
_LAST_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process measures.

    Attributes:
        sizes: Names of session sizes.
        handlers: Numbers of concurrent handlers.
        seconds: Length of a window.
        warmup: Seconds before it.
        loop: Name of the event loop.
    """

    sizes: tuple[str, ...]
    handlers: tuple[int, ...]
    seconds: float
    warmup: float
    loop: str


@dataclass(frozen=True, slots=True)
class Cell:
    """What one contender did with sessions of one size and so many handlers, in one round.

    Attributes:
        contender: Its name.
        size: Of the sessions.
        handlers: Concurrent ones.
        cycles_per_second: Completed without an error.
        p50_ms: Median latency of a cycle in milliseconds; None where none was completed.
        p99_ms: Its 99th percentile.
        sockets: Connections that it had at the end.
        errors: Of failed cycles, how many by the name of the exception.
        seconds: How long it was measured.
    """

    contender: str
    size: str
    handlers: int
    cycles_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    sockets: int
    errors: dict[str, int]
    seconds: float


@dataclass(slots=True)
class Handler:
    """What one handler counts: its cycles that began within the window, the first one's begin and the last one's end."""

    is_warm: bool = False
    completed: int = 0
    began: float | None = None
    ended: float | None = None


class Window:
    """The handlers of one cell, and the time in which the cycles that they begin count.

    Handlers move in waves: a thousand of them load, then all save. A count from one instant to another would hold a part of a
    wave, so each handler's rate is taken over whole cycles of its own, and all keep working until the last of these has ended.
    """

    def __init__(self, contender: Contender, users: Sequence[int], count: int, numbers: itertools.count[int]) -> None:
        self._contender = contender
        self._numbers = numbers
        self._is_open = False
        self._is_over = False
        self._handlers = [Handler() for _ in range(count)]
        self._tasks = [
            asyncio.create_task(self._handle(handler, users[n % len(users) :: count]))
            for n, handler in enumerate(self._handlers)
        ]
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()

    async def measure(self, warmup: float, seconds: float) -> tuple[float, float]:
        """Lets the handlers work; gives how many cycles a second were completed without an error, and how long that took."""
        await asyncio.sleep(warmup)
        await self._until(lambda handler: handler.is_warm)
        began = perf_counter()
        self._is_open = True
        await asyncio.sleep(seconds)
        await self._until(lambda handler: handler.began is not None)
        self._is_open = False
        await self._until(lambda handler: handler.ended is not None)
        now = perf_counter()
        per_second = sum(
            handler.completed / ((handler.ended or now) - handler.began)
            for handler in self._handlers
            if handler.began is not None
        )
        return per_second, now - began

    async def stop(self) -> None:
        """Ends the handlers."""
        self._is_over = True
        _, late = await asyncio.wait(self._tasks, timeout=_LAST_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _until(self, reached: Callable[[Handler], bool]) -> None:
        latest = perf_counter() + _LAP_SECONDS
        # Looks for itself: an event would be one more thing for the handlers to do in each cycle.
        while not all(map(reached, self._handlers)) and perf_counter() < latest:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def _handle(self, handler: Handler, users: Sequence[int]) -> None:
        """A cycle for each user in turn, until all is over."""
        cycle, numbers, latencies = self._contender.cycle, self._numbers, self.latencies
        for user in itertools.cycle(users):
            counts = self._is_open
            began = perf_counter()
            if counts and handler.began is None:
                handler.began = began
            try:
                await cycle(user, CHANGED_KEY, next(numbers))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and reported
                if counts:
                    self.errors[type(error).__name__] += 1
                # A failure that has waited for nothing must not keep the others from running.
                await asyncio.sleep(0)
            else:
                if counts:
                    latencies.append(perf_counter() - began)
                    handler.completed += 1
            handler.is_warm = True
            if counts and not self._is_open:
                handler.ended = perf_counter()
            if self._is_over:
                return


def measure_all(connection: Connection, name: str, url: str, plan: Plan) -> None:
    """The work of one process: all cells of one contender, each sent as it is done. Empties the server before each size."""
    with connection, redis.Redis.from_url(url) as admin:
        run(_measure_all(connection, CONTENDERS[name](), url, plan, admin), plan.loop)


async def _measure_all(connection: Connection, contender: Contender, url: str, plan: Plan, admin: redis.Redis) -> None:
    numbers = itertools.count(100_000)
    for size in plan.sizes:
        admin.flushall()
        await fill(contender, url, size, users_for(size, max(plan.handlers)))
        for handlers in plan.handlers:
            connection.send(await _cell(contender, url, size, handlers, plan, numbers, admin))
        await _check(contender, url, size)


async def _check(contender: Contender, url: str, size: str) -> None:
    """Makes sure that the cycles have done what they were for: the first user's session is there, with another value."""
    await contender.open(url)
    data, before = await contender.load(1), session_data(size)
    await contender.close()
    if not data or data[CHANGED_KEY] == before[CHANGED_KEY] or data | {CHANGED_KEY: None} != before | {CHANGED_KEY: None}:
        raise RuntimeError(f"{contender.name}: a {size} session is not what its cycles should have made of it")


async def fill(contender: Contender, url: str, size: str, users: Sequence[int]) -> None:
    """Stores a session of that size for each user, over connections of its own."""
    data = session_data(size)
    await contender.open(url)
    left = iter(users)

    async def save() -> None:
        for user in left:
            await contender.save(user, data)

    await asyncio.gather(*(save() for _ in range(_FILLERS)))
    await contender.close()


async def _cell(
    contender: Contender,
    url: str,
    size: str,
    handlers: int,
    plan: Plan,
    numbers: itertools.count[int],
    admin: redis.Redis,
) -> Cell:
    users = users_for(size, handlers)
    # With its own connections in each cell: a pool would show those of the cell before.
    await contender.open(url, users)
    gc.collect()
    window = Window(contender, users, handlers, numbers)
    per_second, seconds = await window.measure(plan.warmup, plan.seconds)
    # All but the one that asks: nobody else uses this server.
    sockets = len(admin.client_list()) - 1
    await window.stop()
    await contender.close()
    ordered = sorted(window.latencies)
    return Cell(
        contender=contender.name,
        size=size,
        handlers=handlers,
        cycles_per_second=per_second,
        p50_ms=percentile(ordered, 0.5),
        p99_ms=percentile(ordered, 0.99),
        sockets=sockets,
        errors=dict(window.errors),
        seconds=seconds,
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which that share of the ordered seconds lies, in milliseconds; None if there are none."""
    if not ordered:
        return None
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]
