"""Counts how many of 100 concurrent updates of one session, each of a different key, are kept.

Run ``python -m benchmarks.lost_updates`` in an environment with ``redis-botsession[bench]``; packages that are not installed
are left out. It takes about a minute, and prints a line for each contender: keys kept when all updates come from one process,
and from four, as when several processes serve one bot. Each contender is used as its documentation shows, on one embedded
Redis; frameworks are measured with their own storages and with this package's adapters.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, Final

from redis_botsession.embedded import LocalServer

from .adapters import ALL, PAIRS
from .contender import Contender
from .contenders import installed
from .processes import in_child, to_stderr

UPDATES: Final = 100
#: Numbers of processes that the updates come from.
PROCESSES: Final = (1, 4)
#: Contenders of ``benchmarks.compare`` that are measured; the others write in the same way as one of these.
NAMES: Final = ("store", "live", "json", "aiogram", "telebot", "glide", "coredis")
_USER: Final = 1


async def _update(contender: Contender, url: str, keys: Sequence[str], start: Barrier) -> None:
    await contender.open(url)
    await asyncio.to_thread(start.wait)
    await asyncio.gather(*(contender.update(_USER, key, 1) for key in keys))
    await contender.close()


async def _prepare(contender: Contender, url: str) -> None:
    await contender.open(url)
    await contender.save(_USER, {"step": "start"})
    await contender.close()


async def _load(contender: Contender, url: str) -> dict[str, Any]:
    await contender.open(url)
    data = await contender.load(_USER)
    await contender.close()
    return data or {}


def _work(name: str, url: str, keys: Sequence[str], start: Barrier, is_first: bool) -> None:
    contender = ALL[name]()
    if is_first:
        asyncio.run(_prepare(contender, url))
    start.wait()
    asyncio.run(_update(contender, url, keys, start))


def _send_data(connection: Connection, name: str, url: str) -> None:
    with connection:
        connection.send(asyncio.run(_load(ALL[name](), url)))


def kept(name: str, processes: int) -> int:
    """Runs the updates from so many processes, on a server of their own, and returns how many keys were kept."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    keys = [f"k{n}" for n in range(UPDATES)]
    with LocalServer(tcp=True) as server:
        workers = [
            context.Process(target=to_stderr, args=(_work, name, server.url, keys[n::processes], start, n == 0))
            for n in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            if worker.exitcode:
                raise RuntimeError(f"{name}: a process ended with status {worker.exitcode}")
        (data,) = in_child(_send_data, name, server.url)
        return sum(key in data for key in keys)


def main() -> None:
    """Prints how many updates each contender keeps."""
    for name in dict.fromkeys((*NAMES, *PAIRS)):
        contender = ALL[name]
        version = installed(contender.package)
        if version is not None:
            one, four = (kept(name, processes) for processes in PROCESSES)
            sys.stdout.write(
                f"{contender.title} ({contender.package} {version}): of {UPDATES} kept {one} from 1 process, {four} from 4\n"
            )


if __name__ == "__main__":
    main()
