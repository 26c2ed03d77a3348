"""How many of 100 concurrent updates of one session, each of a key of its own, are kept: ``python -m benchmarks.lost_updates``.

Once all from one process, once from four, as when many processes serve one bot. Each contender is used as its documentation
says, on one embedded Redis. Those that are not installed are left out: ``pip install aiogram pyTelegramBotAPI``.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.synchronize import Barrier
from typing import Any, Protocol

import redis.asyncio

from redis_botsession import SessionStore
from redis_botsession.embedded import LocalServer

UPDATES = 100


class Contender(Protocol):
    """One way to keep a session; ``title`` and the ``package`` it is from."""

    title: str
    package: str

    async def update(self, url: str, names: Sequence[str]) -> None:
        """Sets each key, all at once."""

    async def count(self, url: str) -> int:
        """How many keys there are."""


async def at_once(update: Callable[[str], Awaitable[object]], names: Sequence[str]) -> None:
    await asyncio.gather(*map(update, names))


class ThisStore:
    title, package = "SessionStore.update", "redis-botsession"

    async def update(self, url: str, names: Sequence[str]) -> None:
        async with SessionStore.from_url(url) as store:
            await at_once(lambda name: store.update("u", "c", {name: 1}), names)

    async def count(self, url: str) -> int:
        async with SessionStore.from_url(url) as store:
            session = await store.get("u", "c")
            return len(session.data) if session else 0


class SeedExample:
    """The bot library's Redis example: JSON in one string, merged in the bot."""

    title, package = "the bot library's Redis example", "redis"

    async def _load(self, client: redis.asyncio.Redis) -> dict[str, Any]:
        raw = await client.get("seed:u:c")
        return json.loads(raw) if raw else {}

    async def update(self, url: str, names: Sequence[str]) -> None:
        async with redis.asyncio.Redis.from_url(url) as client:

            async def merge(name: str) -> None:
                data = await self._load(client)
                data[name] = 1
                await client.set("seed:u:c", json.dumps(data), ex=timedelta(days=1))

            await at_once(merge, names)

    async def count(self, url: str) -> int:
        async with redis.asyncio.Redis.from_url(url) as client:
            return len(await self._load(client))


class Aiogram:
    title, package = "RedisStorage.update_data", "aiogram"

    async def update(self, url: str, names: Sequence[str]) -> None:
        from aiogram.fsm.storage.base import StorageKey
        from aiogram.fsm.storage.redis import RedisStorage

        storage = RedisStorage.from_url(url)
        await at_once(lambda name: storage.update_data(StorageKey(1, 1, 1), {name: 1}), names)
        await storage.close()

    async def count(self, url: str) -> int:
        from aiogram.fsm.storage.base import StorageKey
        from aiogram.fsm.storage.redis import RedisStorage

        storage = RedisStorage.from_url(url)
        data = await storage.get_data(StorageKey(1, 1, 1))
        await storage.close()
        return len(data)


class Telebot:
    title, package = "StateRedisStorage.set_data", "pyTelegramBotAPI"

    async def update(self, url: str, names: Sequence[str]) -> None:
        from telebot.asyncio_storage import StateRedisStorage

        storage = StateRedisStorage(redis_url=url)
        await storage.set_state(1, 1, "state")
        await at_once(lambda name: storage.set_data(1, 1, name, 1), names)
        await storage.redis.aclose()

    async def count(self, url: str) -> int:
        from telebot.asyncio_storage import StateRedisStorage

        storage = StateRedisStorage(redis_url=url)
        data = await storage.get_data(1, 1)
        await storage.redis.aclose()
        return len(data or {})


CONTENDERS: tuple[Contender, ...] = (ThisStore(), SeedExample(), Aiogram(), Telebot())


def work(contender: Contender, url: str, names: Sequence[str], start: Barrier) -> None:
    start.wait()
    asyncio.run(contender.update(url, names))


def kept(contender: Contender, processes: int) -> int:
    """Runs the updates from so many processes on an empty server; gives how many keys are there afterwards."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    names = [f"k{n}" for n in range(UPDATES)]
    with LocalServer(tcp=True) as server:
        workers = [
            context.Process(target=work, args=(contender, server.url, names[n::processes], start)) for n in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            if worker.exitcode:
                raise RuntimeError(f"{contender.title}: a process ended with status {worker.exitcode}")
        return asyncio.run(contender.count(server.url))


def main() -> None:
    for contender in CONTENDERS:
        try:
            installed = version(contender.package)
        except PackageNotFoundError:
            continue
        one, four = kept(contender, 1), kept(contender, 4)
        sys.stdout.write(
            f"{contender.title} ({contender.package} {installed}): of {UPDATES} kept {one} from 1 process, {four} from 4\n"
        )


if __name__ == "__main__":
    main()
