"""The live session of one handler: what a bot has as ``ctx.session``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol, Self

from .._codec.codec import Codec
from .changes import Changes, Snapshot
from .record import BotSession, Id, Loaded, normal_id
from .times import from_micros


class Backing(Protocol):
    """What a live session needs of its store."""

    codec: Codec
    max_bytes: int

    def key(self, user_id: Id, channel_id: Id) -> str: ...

    async def load_packed(self, user_id: Id, channel_id: Id, *, touch: bool = ...) -> Loaded | None: ...

    async def save_packed(self, user_id: Id, channel_id: Id, changes: Changes, *, since_version: int | None = ...) -> int: ...

    async def delete(self, user_id: Id, channel_id: Id) -> bool: ...


class LiveSession(BotSession):
    """A session that knows its store: all of a helper but its public methods, which await these or do not."""

    __slots__ = ("_key", "_saved", "_saving", "_store")

    def __init__(self, store: Backing, session: BotSession, stored: dict[bytes, bytes] | None = None) -> None:
        super().__init__(
            session.user_id,
            session.channel_id,
            session.data,
            session.created_at,
            session.updated_at,
            session.expires_at,
            session.version,
        )
        self._store = store
        self._key = store.key(session.user_id, session.channel_id)
        self._saved = self._snapshot(stored)
        self._saving = asyncio.Lock()

    @classmethod
    async def _load(cls, store: Backing, user_id: Id, channel_id: Id) -> Self:
        loaded = await store.load_packed(user_id, channel_id, touch=True)
        if loaded is None:
            return cls(store, BotSession(normal_id(user_id, "user_id"), normal_id(channel_id, "channel_id")))
        return cls(store, *loaded)

    async def _update(self, changes: Mapping[str, Any]) -> None:
        # Refuses what cannot be stored before data has it.
        self._store.codec.encode(changes, max_bytes=self._store.max_bytes, key=self._key)
        self.data.update(changes)
        await self._save()

    async def _save(self) -> None:
        async with self._saving:
            changes = self._saved.until(self)
            if not changes:
                return
            version = await self._store.save_packed(self.user_id, self.channel_id, changes, since_version=self.version or None)
            if version == 0:
                # Its expires_at had passed: it is removed, and whatever is saved next starts anew.
                self._forget()
                return
            self._saved.follow(changes)
            if self.version == 0:
                self.created_at = from_micros(version)
            self.version = version
            self.updated_at = from_micros(version)

    async def _delete(self) -> None:
        async with self._saving:
            await self._store.delete(self.user_id, self.channel_id)
            self._forget()

    def _forget(self) -> None:
        # A new dict: the handler may still hold the old one.
        self.data = {}
        self.expires_at = None
        self.version = 0
        self._saved = self._snapshot()

    def _snapshot(self, stored: dict[bytes, bytes] | None = None) -> Snapshot:
        return Snapshot(self, self._store.codec, max_bytes=self._store.max_bytes, key=self._key, stored=stored)


class BotSessionHelper(LiveSession):
    """A session that knows its store.

    Change ``data`` (in place, nested too) and ``expires_at`` as you like, then ``save``; ``store.session(...)`` and
    ``SessionMiddleware`` save at the end by themselves. A session that is not stored yet has version 0 and empty data.
    """

    __slots__ = ()

    @classmethod
    async def load(cls, store: Backing, user_id: Id, channel_id: Id) -> Self:
        """Loads the session and renews its rolling TTL, in one round trip; a new one if there is none."""
        return await cls._load(store, user_id, channel_id)

    async def update(self, changes: Mapping[str, Any]) -> None:
        """Merges ``changes`` into ``data`` and saves.

        Raises:
            What ``save`` raises; where a value cannot be stored, ``data`` stays as it was.
        """
        await self._update(changes)

    async def save(self) -> None:
        """Sends the top-level keys that have changed since the load or the last save, and those that went.

        Does nothing where nothing has changed. What other handlers have written to other keys meanwhile stays.

        Raises:
            SessionGone: the session was loaded, and has been deleted or has expired since.
            SerializationError, SessionTooLarge: nothing was written.
            OutcomeUnknown: the connection was lost before the reply.
        """
        await self._save()

    async def delete(self) -> None:
        """Removes the session from the store. What is put into ``data`` afterwards starts a new one when saved."""
        await self._delete()


class Handling:
    """``async with``: loads a session, and saves what has changed, unless there was an exception."""

    __slots__ = ("_helper", "_ids", "_store")

    def __init__(self, store: Backing, user_id: Id, channel_id: Id) -> None:
        self._store = store
        self._ids = user_id, channel_id
        self._helper: BotSessionHelper | None = None

    async def __aenter__(self) -> BotSessionHelper:
        self._helper = await BotSessionHelper.load(self._store, *self._ids)
        return self._helper

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if kind is None and self._helper is not None:
            await self._helper.save()
