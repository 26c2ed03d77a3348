"""A store on an executor: everything of a store but where its sessions are."""

from __future__ import annotations

from collections.abc import AsyncIterator

from .._protocol.commands import Commands
from .._session.changes import Write
from .._session.record import BotSession, Id, Loaded
from .._session.times import TTL
from .._transport.executor import Executor, run_flow
from .base import BotSessionStore


class CommandStore(BotSessionStore):
    """A store that runs Redis commands on an executor: what ``SessionStore`` and ``MemorySessionStore`` have in common.

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
        """Makes the store's commands; with ``executor``, for code that builds on a store, like leases."""
        return self._commands

    @property
    def executor(self) -> Executor:
        """Runs the store's commands."""
        return self._executor

    def __repr__(self) -> str:
        return f"<{type(self).__name__} prefix={self.prefix!r}>"

    @property
    def prefix(self) -> str:
        """The prefix of all keys."""
        return self._commands.keys.prefix

    def key(self, user_id: Id, channel_id: Id) -> str:
        """The Redis key of a session, as ``redis-cli`` takes it."""
        return self._commands.locate(user_id, channel_id).name

    async def load(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> Loaded | None:
        load = self._commands.load(user_id, channel_id)
        if not touch:
            return await self._executor.run(load)
        loaded: Loaded | None
        _, loaded = await self._executor.run_many((self._commands.touch(user_id, channel_id), load))
        return loaded

    async def write(self, user_id: Id, channel_id: Id, write: Write) -> int:
        return await self._executor.run(self._commands.write(user_id, channel_id, write))

    async def write_and_load(self, user_id: Id, channel_id: Id, write: Write) -> Loaded | None:
        return await self._executor.run(self._commands.write_and_load(user_id, channel_id, write))

    async def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> int:
        return await self._executor.run(self._commands.set(user_id, channel_id, session, expected_version=expected_version))

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

    async def ping(self) -> None:
        ping = self._commands.ping()
        for server in await self._executor.primaries():
            await server.run(ping)

    async def aclose(self) -> None:
        """Waits for the calls in flight and refuses later ones."""
        await self._executor.aclose()
