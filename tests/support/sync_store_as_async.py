"""The synchronous store behind the asynchronous interface, so that it can be run through the contract.

Each call runs in a thread: concurrent calls become concurrent threads.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any

from redis_botsession import KEEP, BotSession, BotSessionStore, sync
from redis_botsession._session.changes import Write
from redis_botsession._session.record import Id, Keep, Loaded
from redis_botsession._session.times import TTL


class ThreadedStore(BotSessionStore):
    """An asynchronous store on top of a ``sync.SessionStore``, which ``aclose`` closes."""

    def __init__(self, store: sync.SessionStore, max_bytes: int) -> None:
        self.sync = store
        self.codec = store.codec
        self.max_bytes = max_bytes

    def key(self, user_id: Id, channel_id: Id) -> str:
        return self.sync.key(user_id, channel_id)

    async def load(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> Loaded | None:
        return await asyncio.to_thread(self.sync.load, user_id, channel_id, touch=touch)

    async def write(self, user_id: Id, channel_id: Id, write: Write) -> int:
        return await asyncio.to_thread(self.sync.write, user_id, channel_id, write)

    async def ping(self) -> None:
        await asyncio.to_thread(self.sync.ping)

    async def get(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> BotSession | None:
        return await asyncio.to_thread(self.sync.get, user_id, channel_id, touch=touch)

    async def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> int:
        return await asyncio.to_thread(self.sync.set, user_id, channel_id, session, expected_version=expected_version)

    async def update(
        self,
        user_id: Id,
        channel_id: Id,
        changes: Mapping[str, Any],
        *,
        remove: Iterable[str] = (),
        expected_version: int | None = None,
        create: bool = True,
        expires_at: datetime | Keep | None = KEEP,
        since_version: int | None = None,
    ) -> int:
        return await asyncio.to_thread(
            self.sync.update,
            user_id,
            channel_id,
            changes,
            remove=remove,
            expected_version=expected_version,
            create=create,
            expires_at=expires_at,
            since_version=since_version,
        )

    async def update_and_get(
        self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], *, remove: Iterable[str] = (), create: bool = True
    ) -> BotSession | None:
        return await asyncio.to_thread(self.sync.update_and_get, user_id, channel_id, changes, remove=remove, create=create)

    async def replace(
        self,
        user_id: Id,
        channel_id: Id,
        data: Mapping[str, Any],
        *,
        keep: Iterable[str] = (),
        create: bool = True,
        drop_empty: bool = False,
    ) -> int:
        return await asyncio.to_thread(
            self.sync.replace, user_id, channel_id, data, keep=keep, create=create, drop_empty=drop_empty
        )

    async def discard(self, user_id: Id, channel_id: Id, names: Iterable[str]) -> int:
        return await asyncio.to_thread(self.sync.discard, user_id, channel_id, names)

    async def modify(
        self,
        user_id: Id,
        channel_id: Id,
        fn: Callable[[BotSession], Awaitable[None] | None],
        *,
        attempts: int = 100,
    ) -> BotSession:
        loop = asyncio.get_running_loop()

        def in_thread(session: BotSession) -> None:
            result = fn(session)
            if inspect.iscoroutine(result):
                asyncio.run_coroutine_threadsafe(result, loop).result()

        return await asyncio.to_thread(self.sync.modify, user_id, channel_id, in_thread, attempts=attempts)

    async def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> bool:
        return await asyncio.to_thread(self.sync.touch, user_id, channel_id, ttl)

    async def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> bool:
        return await asyncio.to_thread(self.sync.delete, user_id, channel_id, expected_version=expected_version)

    async def clear(self, user_id: Id) -> int:
        return await asyncio.to_thread(self.sync.clear, user_id)

    async def channels(self, user_id: Id) -> list[str]:
        return await asyncio.to_thread(self.sync.channels, user_id)

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        for ids in await asyncio.to_thread(lambda: list(self.sync.scan())):
            yield ids

    async def size(self) -> int:
        return await asyncio.to_thread(self.sync.size)

    def session(self, user_id: Id, channel_id: Id) -> AbstractAsyncContextManager[Any]:
        return self._session(user_id, channel_id)

    @asynccontextmanager
    async def _session(self, user_id: Id, channel_id: Id) -> AsyncIterator[Any]:
        with self.sync.session(user_id, channel_id) as helper:
            yield _AwaitableSession(helper)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.sync.close)


class _AwaitableSession:
    """A synchronous live session with methods to await."""

    def __init__(self, helper: sync.BotSessionHelper) -> None:
        object.__setattr__(self, "_helper", helper)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._helper, name)
        if not callable(value):
            return value

        async def call(*args: Any) -> Any:
            return await asyncio.to_thread(value, *args)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._helper, name, value)
