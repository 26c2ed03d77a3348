"""Compares event isolations for aiogram: ``BotSessionIsolation`` and aiogram's own ``RedisEventIsolation``.

Run ``python -m benchmarks.isolation`` in an environment with aiogram. It takes about a minute, and prints the medians for each:
events per second, commands while events wait, and how fast a waiting event gets its turn. Two clients in one process, on one
embedded Redis, stand for two processes of a bot; handlers are empty.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.asyncio

from redis_botsession.embedded import LocalServer

ROUNDS: Final = 3
WAITING: Final = 100
#: Duration in seconds of the count of commands.
WATCHED: Final = 1.0
#: Seconds after which all waiting events have tried to begin and found that they must wait.
SETTLED: Final = 0.5
HANDOVERS: Final = 20


def _this(url: str) -> Any:
    from redis_botsession.adapters.aiogram import BotSessionIsolation

    return BotSessionIsolation.from_url(url)


def _aiogram(url: str) -> Any:
    from aiogram.fsm.storage.redis import RedisEventIsolation

    return RedisEventIsolation.from_url(url)


@asynccontextmanager
async def _two(make: Callable[[str], Any], url: str) -> AsyncIterator[tuple[Any, Any]]:
    isolations = make(url), make(url)
    try:
        yield isolations
    finally:
        for isolation in isolations:
            await isolation.close()
            if hasattr(isolation, "redis"):
                # aiogram's isolation does not close its client; its storage does.
                await isolation.redis.aclose()


def _key(user: int) -> Any:
    from aiogram.fsm.storage.base import StorageKey

    return StorageKey(bot_id=1, chat_id=user, user_id=user)


async def _events(isolation: Any, user: int, count: int) -> None:
    for _ in range(count):
        async with isolation.lock(_key(user)):
            pass


async def _rate(isolation: Any, users: int, each: int) -> float:
    """Returns events per second."""
    begun = time.perf_counter()
    await asyncio.gather(*(_events(isolation, user, each) for user in range(users)))
    return users * each / (time.perf_counter() - begun)


async def _commands(client: redis.asyncio.Redis) -> int:
    stats: dict[str, dict[str, int]] = await client.info("commandstats")
    return sum(command["calls"] for command in stats.values())


async def _waiting(one: Any, other: Any, client: redis.asyncio.Redis) -> tuple[float, float]:
    """Returns commands per second while many events wait, and seconds until all of them were handled."""
    async with one.lock(_key(0)):
        waiting = [asyncio.create_task(_events(isolation, 0, 1)) for isolation in (one, other) for _ in range(WAITING // 2)]
        await asyncio.sleep(SETTLED)
        before = await _commands(client)
        await asyncio.sleep(WATCHED)
        # Without the first INFO, which is counted, too.
        rate = (await _commands(client) - before - 1) / WATCHED
        begun = time.perf_counter()
    await asyncio.gather(*waiting)
    return rate, time.perf_counter() - begun


async def _handover(one: Any, other: Any) -> float:
    """Returns the median milliseconds from the end of a handler to the start of the next one, on the other client."""
    waits: list[float] = []
    for n in range(HANDOVERS):
        async with one.lock(_key(0)):
            entered = asyncio.get_running_loop().create_future()

            async def enter(entered: asyncio.Future[float] = entered) -> None:
                async with other.lock(_key(0)):
                    entered.set_result(time.perf_counter())

            task = asyncio.create_task(enter())
            # At varying times, because an isolation may poll at fixed intervals.
            await asyncio.sleep(0.1 + n / HANDOVERS / 10)
            ended = time.perf_counter()
        waits.append((await entered - ended) * 1000)
        await task
    return statistics.median(waits)


async def measure(make: Callable[[str], Any], url: str) -> dict[str, float]:
    """Measures one round; returns its figures by their names."""
    async with redis.asyncio.Redis.from_url(url) as client, _two(make, url) as (one, other):
        results = {
            "events per second of 1 user": await _rate(one, 1, 1000),
            "events per second of 64 users": await _rate(one, 64, 30),
        }
        waiting = await _waiting(one, other, client)
        results[f"commands per second while {WAITING} events of one user wait"] = waiting[0]
        results[f"seconds until {WAITING} waiting events were handled"] = waiting[1]
        results["milliseconds from one client's handler to the other's, median"] = await _handover(one, other)
        return results


def main() -> None:
    """Prints the medians over the rounds, for both isolations."""
    with LocalServer(tcp=True) as server:
        for title, make in (("BotSessionIsolation", _this), ("aiogram's RedisEventIsolation", _aiogram)):
            rounds = [asyncio.run(measure(make, server.url)) for _ in range(ROUNDS)]
            sys.stdout.write(f"{title}, medians of {ROUNDS} rounds:\n")
            for name in rounds[0]:
                sys.stdout.write(f"  {name}: {statistics.median(results[name] for results in rounds):,.2f}\n")


if __name__ == "__main__":
    main()
