"""The contenders: ways to keep sessions in Redis, each used as its documentation shows, with its defaults.

Their packages are imported where they are used, because a contender whose package is not installed is left out of a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import redis.asyncio

from redis_botsession import BotSession, SessionStore

from .ceiling import Ceiling
from .contender import Contender
from .json_store import JsonSessionStore
from .workload import CHANNEL

_DAY: Final = 86_400


class ThisStore(Contender):
    """``SessionStore.from_url``, with ``get`` and ``update``."""

    name, title, package = "store", "redis-botsession: get, update", "redis-botsession"
    commands: ClassVar[Sequence[str]] = ("hgetall", "evalsha")

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        self._store = SessionStore.from_url(url)

    async def close(self) -> None:
        await self._store.aclose()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        await self._store.set(user, CHANNEL, BotSession(str(user), str(CHANNEL), data))

    async def load(self, user: int) -> dict[str, Any] | None:
        session = await self._store.get(user, CHANNEL)
        return session.data if session else None

    async def update(self, user: int, key: str, value: object) -> None:
        await self._store.update(user, CHANNEL, {key: value})

    async def cycle(self, user: int, key: str, value: object) -> None:
        await self._store.get(user, CHANNEL)
        await self._store.update(user, CHANNEL, {key: value})


class LiveSession(ThisStore):
    """``async with store.session(...)``, as the middleware uses it; renews the TTL, too."""

    name, title = "live", "redis-botsession: live session"

    async def update(self, user: int, key: str, value: object) -> None:
        async with self._store.session(user, CHANNEL) as session:
            session.data[key] = value

    async def cycle(self, user: int, key: str, value: object) -> None:
        await self.update(user, key, value)


class ClientStore(ThisStore):
    """``SessionStore(client)`` on a redis-py client with its defaults."""

    name, title = "client", "redis-botsession on a redis-py client"

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        self._client = redis.asyncio.Redis.from_url(url)
        self._store = SessionStore(self._client)

    async def close(self) -> None:
        await super().close()
        await self._client.aclose()


class JsonOnRedisPy(Contender):
    """The store of ``json_store.py``; an update merges in the bot and sets the whole session, as in that library."""

    name, title, package = "json", "JSON on redis-py (bot library's example)", "redis"
    commands: ClassVar[Sequence[str]] = ("get", "setex")

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        self._client = redis.asyncio.Redis.from_url(url)
        self._store = JsonSessionStore(self._client)

    async def close(self) -> None:
        await self._client.aclose()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        session = {"userId": str(user), "channelId": str(CHANNEL), "data": data, "createdAt": now, "updatedAt": now}
        await self._store.set(str(user), str(CHANNEL), session)

    async def load(self, user: int) -> dict[str, Any] | None:
        session = await self._store.get(str(user), str(CHANNEL))
        return session["data"] if session else None

    async def update(self, user: int, key: str, value: object) -> None:
        session = await self._store.get(str(user), str(CHANNEL))
        if session is None:
            raise LookupError(f"user {user} has no session")
        session["data"][key] = value
        await self._store.set(str(user), str(CHANNEL), session)

    async def cycle(self, user: int, key: str, value: object) -> None:
        await self.update(user, key, value)


class Aiogram(Contender):
    """``RedisStorage.from_url`` (docs.aiogram.dev, "Finite State Machine", "Storages").

    ``update`` uses ``update_data``, as the examples there do. That loads the data itself, so a cycle, which has loaded it
    already, saves by ``set_data``: this takes one round trip less.
    """

    name, title, package = "aiogram", "aiogram RedisStorage", "aiogram"
    commands: ClassVar[Sequence[str]] = ("get", "set")

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        from aiogram.fsm.storage.base import StorageKey
        from aiogram.fsm.storage.redis import RedisStorage

        self._key: Any = StorageKey
        self._storage: Any = RedisStorage.from_url(url)

    async def close(self) -> None:
        await self._storage.close()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        await self._storage.set_data(self._key(bot_id=1, chat_id=CHANNEL, user_id=user), data)

    async def load(self, user: int) -> dict[str, Any] | None:
        data: dict[str, Any] = await self._storage.get_data(self._key(bot_id=1, chat_id=CHANNEL, user_id=user))
        return data

    async def update(self, user: int, key: str, value: object) -> None:
        await self._storage.update_data(self._key(bot_id=1, chat_id=CHANNEL, user_id=user), {key: value})

    async def cycle(self, user: int, key: str, value: object) -> None:
        place = self._key(bot_id=1, chat_id=CHANNEL, user_id=user)
        data = await self._storage.get_data(place)
        data[key] = value
        await self._storage.set_data(place, data)


class Telebot(Contender):
    """``StateRedisStorage(redis_url=...)`` (the docstring of the class).

    ``update`` uses ``set_data``, which ``bot.add_data(...)`` calls: it merges under a lock of the process. A cycle does the
    same as ``async with bot.retrieve_data(...) as data``: one round trip less, and no lock between load and save.
    """

    name, title, package = "telebot", "pyTelegramBotAPI StateRedisStorage", "pyTelegramBotAPI"
    commands: ClassVar[Sequence[str]] = ("hget", "multi", "exec")

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        from telebot.asyncio_storage import StateRedisStorage

        self._storage: Any = StateRedisStorage(redis_url=url)

    async def close(self) -> None:
        await self._storage.redis.aclose()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        await self._storage.set_state(CHANNEL, user, "step")
        await self._storage.save(CHANNEL, user, data)

    async def load(self, user: int) -> dict[str, Any] | None:
        data: dict[str, Any] = await self._storage.get_data(CHANNEL, user)
        return data

    async def update(self, user: int, key: str, value: object) -> None:
        await self._storage.set_data(CHANNEL, user, key, value)

    async def cycle(self, user: int, key: str, value: object) -> None:
        async with self._storage.get_interactive_data(CHANNEL, user) as data:
            data[key] = value


class JsonBlob(Contender):
    """Base of contenders that keep a session as one JSON string: GET, and SET with a TTL."""

    commands: ClassVar[Sequence[str]] = ("get", "set")

    async def update(self, user: int, key: str, value: object) -> None:
        data = await self.load(user)
        if data is None:
            raise LookupError(f"user {user} has no session")
        data[key] = value
        await self.save(user, data)

    async def cycle(self, user: int, key: str, value: object) -> None:
        await self.update(user, key, value)


class Glide(JsonBlob):
    """One shared ``GlideClient``, with the options of its README ("Async Standalone Mode")."""

    name, title, package = "glide", "JSON on valkey-glide", "valkey-glide"

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        from glide import ExpirySet, ExpiryType, GlideClient, GlideClientConfiguration, NodeAddress

        address = urlsplit(url)
        config = GlideClientConfiguration([NodeAddress(address.hostname, address.port)], request_timeout=500)
        self._client: Any = await GlideClient.create(config)
        self._expiry = ExpirySet(ExpiryType.SEC, _DAY)

    async def close(self) -> None:
        await self._client.close()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        await self._client.set(f"bot:session:{user}:{CHANNEL}", json.dumps(data), expiry=self._expiry)

    async def load(self, user: int) -> dict[str, Any] | None:
        raw = await self._client.get(f"bot:session:{user}:{CHANNEL}")
        return json.loads(raw) if raw else None


class Coredis(JsonBlob):
    """``coredis.Redis.from_url``, entered with ``async with`` as in its README ("Quick start")."""

    name, title, package = "coredis", "JSON on coredis", "coredis"

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        import coredis

        self._stack = AsyncExitStack()
        self._client: Any = await self._stack.enter_async_context(coredis.Redis.from_url(url))

    async def close(self) -> None:
        await self._stack.aclose()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        await self._client.set(f"bot:session:{user}:{CHANNEL}", json.dumps(data), ex=_DAY)

    async def load(self, user: int) -> dict[str, Any] | None:
        raw = await self._client.get(f"bot:session:{user}:{CHANNEL}")
        return json.loads(raw) if raw else None


#: All contenders by name, in the order of the tables.
CONTENDERS: Final[Mapping[str, type[Contender]]] = {
    kind.name: kind for kind in (ThisStore, LiveSession, ClientStore, JsonOnRedisPy, Aiogram, Telebot, Glide, Coredis, Ceiling)
}


def installed(package: str) -> str | None:
    """Returns the version of a distribution; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
