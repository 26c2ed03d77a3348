"""Measures message cycles per second: handlers load a session, change one key and save, again and again, for some time.

A part of ``python -m benchmarks.compare``.
"""

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

#: Number of sessions stored at once while filling: fewer than any contender has connections.
_FILLERS: Final = 32
#: Longest wait in seconds until each handler has ended a cycle: in the warm-up, in the window, and after it.
_LAP_SECONDS: Final = 20.0
#: Seconds after which cycles that still run at the end, and are not counted, are cancelled.
_LAST_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process measures.

    Attributes:
        sizes: Names of session sizes.
        handlers: Numbers of concurrent handlers.
        seconds: Length of a time window.
        warmup: Seconds of work before the window.
        loop: Name of the event loop.
    """

    sizes: tuple[str, ...]
    handlers: tuple[int, ...]
    seconds: float
    warmup: float
    loop: str


@dataclass(frozen=True, slots=True)
class Cell:
    """The figures of one contender with one session size and one number of handlers, in one round.

    Attributes:
        contender: Name of the contender.
        size: Name of the session size.
        handlers: Number of concurrent handlers.
        cycles_per_second: Cycles completed without an error.
        p50_ms: Median latency of a cycle in milliseconds; None if no cycle was completed.
        p99_ms: 99th percentile of the latency.
        sockets: Connections in use at the end.
        errors: Number of failed cycles, by the name of the exception.
        seconds: Duration of the measurement.
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
    """The counts of one handler: cycles that began within the window, when the first of them began and the last one ended."""

    is_warm: bool = False
    completed: int = 0
    began: float | None = None
    ended: float | None = None


class Window:
    """The handlers of one cell, and the time window within which the cycles that they begin are counted.

    Handlers move in waves: a thousand of them load, then all of them save. A count between two instants would cut a wave in
    two. Each handler's rate is therefore taken over whole cycles, and all handlers work until the last counted cycle has ended.
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
        """Lets the handlers work; returns the cycles per second completed without an error, and the duration."""
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
        # Polls, because setting an event would cost the handlers time in each cycle.
        while not all(map(reached, self._handlers)) and perf_counter() < latest:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def _handle(self, handler: Handler, users: Sequence[int]) -> None:
        """Runs cycles, one user after the other, until ``stop``."""
        cycle, numbers, latencies = self._contender.cycle, self._numbers, self.latencies
        for user in itertools.cycle(users):
            counts = self._is_open
            began = perf_counter()
            if counts and handler.began is None:
                handler.began = began
            try:
                await cycle(user, CHANGED_KEY, next(numbers))
            except Exception as error:  # noqa: BLE001 - any error is counted and reported
                if counts:
                    self.errors[type(error).__name__] += 1
                # A cycle that failed at once has not let other tasks run yet.
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
    """The work of one process: sends each cell of one contender when it is measured. Empties the server before each size."""
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
    """Raises RuntimeError unless the cycles have changed the first user's session, and nothing but its one key."""
    await contender.open(url)
    data, before = await contender.load(1), session_data(size)
    await contender.close()
    if not data or data[CHANGED_KEY] == before[CHANGED_KEY] or data | {CHANGED_KEY: None} != before | {CHANGED_KEY: None}:
        raise RuntimeError(f"{contender.name}: a {size} session is not what its cycles should have made of it")


async def fill(contender: Contender, url: str, size: str, users: Sequence[int]) -> None:
    """Stores a session of that size for each user, over new connections."""
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
    # New connections for each cell: an old pool would still have those of the previous cell.
    await contender.open(url, users)
    gc.collect()
    window = Window(contender, users, handlers, numbers)
    per_second, seconds = await window.measure(plan.warmup, plan.seconds)
    # Without the connection of ``admin``. No other client uses this server.
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
    """Returns a percentile of durations in ascending order: seconds in, milliseconds out; None without durations."""
    if not ordered:
        return None
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]
