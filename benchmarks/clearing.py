"""Measures how long ``clear(user)`` takes beside many keys of other users, and how long other clients wait meanwhile.

A part of ``python -m benchmarks.compare``.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Coroutine
from multiprocessing.connection import Connection
from time import perf_counter, sleep
from typing import Any, Final

import redis
import redis.asyncio

from redis_botsession import BotSession, SessionStore

from .json_store import JsonSessionStore
from .processes import Background, run
from .workload import session_data

#: Number of sessions of the user who is cleared.
_SESSIONS: Final = 10
#: Number of keys that one call of the script sets.
_BATCH: Final = 10_000
#: Seconds between two PINGs; with less the pinging client would slow the server down.
_PING_EVERY: Final = 0.0002
_USER: Final = "4711"
_CHANNELS: Final = tuple(map(str, range(_SESSIONS)))

# Sessions of other users of the same bot, with keys as ``json_store.py`` names them.
_POPULATE: Final = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  redis.call('SET', 'bot:session:other' .. n .. ':c', '{}')
end
"""

#: The contenders that are compared.
NAMES: Final = ("store", "json")


def ping(connection: Connection, url: str) -> None:
    """Pings until it receives a message, then sends the longest wait for a reply in milliseconds."""
    longest = 0.0
    with connection, redis.Redis.from_url(url) as client:
        client.ping()
        connection.send("ready")
        while not connection.poll(_PING_EVERY):
            began = perf_counter()
            client.ping()
            longest = max(longest, perf_counter() - began)
        connection.recv()
        connection.send(1000 * longest)


def measure_clear(connection: Connection, url: str, loop: str, others: int, rounds: int) -> None:
    """The work of one process: sends, for each of ``NAMES``, the median duration and the longest wait of another client."""
    with connection:
        with redis.Redis.from_url(url) as admin:
            admin.flushall()
            for first in range(0, others, _BATCH):
                admin.eval(_POPULATE, 0, first, min(first + _BATCH, others) - 1)
        connection.send({name: _measure(work, url, loop, rounds) for name, work in _WORK.items()})


def _measure(
    work: Callable[[str, int], Coroutine[Any, Any, list[float]]], url: str, loop: str, rounds: int
) -> dict[str, float]:
    with Background(ping, url) as pinging:
        # A busy machine makes PINGs wait without any clear. This time lets the longest such wait show.
        sleep(0.05)
        times = run(work(url, rounds), loop)
    return {"median_ms": 1000 * statistics.median(times), "longest_ping_ms": pinging.result}


async def _clear_store(url: str, rounds: int) -> list[float]:
    async with SessionStore.from_url(url) as store:

        async def save(channel: str) -> None:
            await store.set(_USER, channel, BotSession(_USER, channel, session_data("small")))

        async def clear() -> None:
            await store.clear(_USER)

        return await _repeat(save, clear, rounds)


async def _clear_json_store(url: str, rounds: int) -> list[float]:
    async with redis.asyncio.Redis.from_url(url) as client:
        store = JsonSessionStore(client)

        async def save(channel: str) -> None:
            session: dict[str, Any] = {"data": session_data("small")}
            await store.set(_USER, channel, session)

        async def clear() -> None:
            await store.clear(_USER)

        return await _repeat(save, clear, rounds)


async def _repeat(save: Callable[[str], Awaitable[None]], clear: Callable[[], Awaitable[None]], rounds: int) -> list[float]:
    times: list[float] = []
    for _ in range(rounds):
        for channel in _CHANNELS:
            await save(channel)
        began = perf_counter()
        await clear()
        times.append(perf_counter() - began)
    return times


_WORK: Final = dict(zip(NAMES, (_clear_store, _clear_json_store), strict=True))
