"""Measures the costs of a contender besides time: bytes on the wire, the server's memory and its processor.

Each ``measure_...`` is the work of one process and sends one dict. A part of ``python -m benchmarks.compare``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any, Final

import redis

from .contender import Contender
from .contenders import CONTENDERS
from .cycles import fill
from .processes import run
from .workload import CHANGED_KEY

#: Number of updates over which bytes are counted.
_UPDATES: Final = 100
_HANDLERS: Final = 16


def measure_wire(connection: Connection, name: str, url: str, loop: str) -> None:
    """Sends bytes per update of one key of a large session, and per message cycle, to the server and from it."""
    with connection, redis.Redis.from_url(url) as admin:
        connection.send(run(_wire(CONTENDERS[name](), url, admin), loop))


async def _wire(contender: Contender, url: str, admin: redis.Redis) -> dict[str, float]:
    admin.flushall()
    await fill(contender, url, "large", (1,))
    await contender.open(url, (1,))
    numbers = itertools.count(100_000)
    counts: dict[str, float] = {}
    for name, change in (("update", contender.update), ("cycle", contender.cycle)):
        to_server, from_server = await _bytes(change, numbers, admin)
        counts |= {f"{name}_to_server": to_server, f"{name}_from_server": from_server}
    await contender.close()
    return counts


async def _bytes(
    change: Callable[[int, str, object], Awaitable[None]], numbers: itertools.count[int], admin: redis.Redis
) -> tuple[float, float]:
    # The first call connects and loads the script, which happens only once.
    await change(1, CHANGED_KEY, next(numbers))
    first, second = _traffic(admin), _traffic(admin)
    for _ in range(_UPDATES):
        await change(1, CHANGED_KEY, next(numbers))
    third = _traffic(admin)
    # Without the bytes of one INFO, which lie between any two readings.
    to_server, from_server = ((c - b - (b - a)) / _UPDATES for a, b, c in zip(first, second, third, strict=True))
    return to_server, from_server


def _traffic(admin: redis.Redis) -> tuple[int, int]:
    stats: dict[str, Any] = admin.info("stats")
    return stats["total_net_input_bytes"], stats["total_net_output_bytes"]


def measure_memory(connection: Connection, name: str, url: str, loop: str, counts: dict[str, int]) -> None:
    """Sends, for each size, bytes of the server's memory per session; each user has one session."""
    with connection, redis.Redis.from_url(url) as admin:
        connection.send({size: _memory(CONTENDERS[name](), url, loop, size, count, admin) for size, count in counts.items()})


def _memory(contender: Contender, url: str, loop: str, size: str, count: int, admin: redis.Redis) -> float:
    admin.flushall()
    # Stores one session first, so that scripts and buffers that stay are not counted.
    run(fill(contender, url, size, (1,)), loop)
    before = _used(admin)
    run(fill(contender, url, size, range(2, 2 + count)), loop)
    return (_used(admin) - before) / count


def _used(admin: redis.Redis) -> int:
    memory: dict[str, Any] = admin.info("memory")
    clients: int = memory["mem_clients_normal"]
    used: int = memory["used_memory"]
    return used - clients


def measure_server(connection: Connection, name: str, url: str, loop: str, cycles: int) -> None:
    """Sends the server's microseconds per message cycle of a small session: in commands, and of its process as a whole."""
    with connection, redis.Redis.from_url(url) as admin:
        connection.send(run(_server(CONTENDERS[name](), url, cycles, admin), loop))


async def _server(contender: Contender, url: str, cycles: int, admin: redis.Redis) -> dict[str, float]:
    users = range(1, 1001)
    admin.flushall()
    await fill(contender, url, "small", users)
    await contender.open(url, users)
    await contender.cycle(1, CHANGED_KEY, 0)
    numbers = iter(range(100_000, 100_000 + cycles))

    async def handle() -> None:
        for number in numbers:
            await contender.cycle(users[number % len(users)], CHANGED_KEY, number)

    admin.config_resetstat()
    before = _cpu_seconds(admin)
    await asyncio.gather(*(handle() for _ in range(_HANDLERS)))
    process = _cpu_seconds(admin) - before
    stats: dict[str, Any] = admin.info("commandstats")
    await contender.close()
    missing = [command for command in contender.commands if f"cmdstat_{command}" not in stats]
    if missing:
        raise RuntimeError(f"{contender.name} should send {missing}, but did not")
    commands = sum(stats[f"cmdstat_{command}"]["usec"] for command in contender.commands)
    return {"commands_us": commands / cycles, "process_us": 1e6 * process / cycles}


def _cpu_seconds(admin: redis.Redis) -> float:
    cpu: dict[str, Any] = admin.info("cpu")
    seconds: float = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
    return seconds
