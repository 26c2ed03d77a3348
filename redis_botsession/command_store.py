"""A store that runs commands on an executor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any

from ._protocol.commands import Commands
from ._session.changes import Changes
from ._session.record import KEEP, BotSession, Id, Keep, Loaded
from ._session.times import TTL
from ._transport.executor import Executor, run_flow
from .base import BotSessionStore


class CommandStore(BotSessionStore):
    """All of a store but where its sessions are: that is the executor's.

    Args:
        commands: Makes the commands.
        executor: Runs them.
    """

    def __init__(self, commands: Commands, executor: Executor) -> None:
        self._commands = commands
        self._executor = executor
        self.codec = commands.codec
        self.max_bytes = commands.max_bytes

    @property
    def commands(self) -> Commands:
        """Makes the store's commands; with ``executor``, for what builds upon a store, like leases."""
        return self._commands

    @property
    def executor(self) -> Executor:
        """Runs the store's commands."""
        return self._executor

    def __repr__(self) -> str:
        return f"<{type(self).__name__} prefix={self.prefix!r}>"

    @property
    def prefix(self) -> str:
        """What all keys begin with."""
        return self._commands.keys.prefix

    def key(self, user_id: Id, channel_id: Id) -> str:
        """The key of a session, as ``redis-cli`` takes it."""
        return self._commands.address(user_id, channel_id).name

    async def get(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> BotSession | None:
        load = self._commands.get(user_id, channel_id)
        if not touch:
            return await self._executor.run(load)
        session: BotSession | None
        _, session = await self._executor.run_many((self._commands.touch(user_id, channel_id), load))
        return session

    async def load_packed(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> Loaded | None:
        load = self._commands.load(user_id, channel_id)
        if not touch:
            return await self._executor.run(load)
        loaded: Loaded | None
        _, loaded = await self._executor.run_many((self._commands.touch(user_id, channel_id), load))
        return loaded

    async def save_packed(
        self,
        user_id: Id,
        channel_id: Id,
        changes: Changes,
        *,
        expected_version: int | None = None,
        since_version: int | None = None,
    ) -> int:
        command = self._commands.save(
            user_id, channel_id, changes, expected_version=expected_version, since_version=since_version
        )
        return await self._executor.run(command)

    async def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> int:
        command = self._commands.set(user_id, channel_id, session, expected_version=expected_version)
        return await self._executor.run(command)

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
        command = self._commands.update(
            user_id,
            channel_id,
            changes,
            remove=remove,
            expected_version=expected_version,
            create=create,
            expires_at=expires_at,
            since_version=since_version,
        )
        return await self._executor.run(command)

    async def update_and_get(
        self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], *, remove: Iterable[str] = (), create: bool = True
    ) -> BotSession | None:
        command = self._commands.update_and_get(user_id, channel_id, changes, remove=remove, create=create)
        return await self._executor.run(command)

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
        command = self._commands.replace(user_id, channel_id, data, keep=keep, create=create, drop_empty=drop_empty)
        return await self._executor.run(command)

    async def discard(self, user_id: Id, channel_id: Id, names: Iterable[str]) -> int:
        return await self._executor.run(self._commands.discard(user_id, channel_id, names))

    async def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> bool:
        return await self._executor.run(self._commands.touch(user_id, channel_id, ttl))

    async def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> bool:
        return await self._executor.run(self._commands.delete(user_id, channel_id, expected_version=expected_version))

    async def clear(self, user_id: Id) -> int:
        return await run_flow(self._executor, self._commands.clear(user_id))

    async def channels(self, user_id: Id) -> list[str]:
        return await run_flow(self._executor, self._commands.channels(user_id))

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        """As in every store, by SCAN: never KEYS. Remembers what it gave (some 200 bytes a session): SCAN repeats itself."""
        seen: set[tuple[str, str]] = set()
        for server in await self._executor.primaries():
            cursor = 0
            while True:
                cursor, found = await server.run(self._commands.scan(cursor))
                for ids in found:
                    if ids not in seen:
                        seen.add(ids)
                        yield ids
                if cursor == 0:
                    break

    async def size(self) -> int:
        count = 0
        async for _ in self.scan():
            count += 1
        return count

    async def aclose(self) -> None:
        """Finishes what is in flight and refuses what comes after."""
        await self._executor.aclose()
