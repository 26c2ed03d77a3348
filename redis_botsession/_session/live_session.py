"""The live session of one handler: what a bot has as ``ctx.session``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from .._codec.codec import Codec
from .changes import Snapshot, Write
from .record import BotSession, Id, Loaded, normal_id
from .times import from_micros


class LiveStore(Protocol):
    """What a live session needs of its store. ``BotSessionStore`` has it."""

    codec: Codec
    max_bytes: int

    def key(self, user_id: Id, channel_id: Id) -> str: ...

    async def load(self, user_id: Id, channel_id: Id, *, touch: bool = ...) -> Loaded | None: ...

    async def write(self, user_id: Id, channel_id: Id, write: Write) -> int: ...

    async def delete(self, user_id: Id, channel_id: Id) -> bool: ...


class LiveSession(BotSession):
    """A session that knows its store: what the live sessions for asyncio and for threads have in common."""

    __slots__ = ("_key", "_saving", "_snapshot", "_store")

    def __init__(self, store: LiveStore, loaded: Loaded) -> None:
        session = loaded.session
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
        self._snapshot = self._take_snapshot(loaded.packed)
        self._saving = asyncio.Lock()

    @classmethod
    async def _load(cls, store: LiveStore, user_id: Id, channel_id: Id) -> Self:
        loaded = await store.load(user_id, channel_id, touch=True)
        if loaded is None:
            loaded = Loaded(BotSession(normal_id(user_id, "user_id"), normal_id(channel_id, "channel_id")))
        return cls(store, loaded)

    async def _update(self, changes: Mapping[str, Any]) -> None:
        # A value that cannot be stored is refused before it gets into data.
        self._store.codec.encode(changes, max_bytes=self._store.max_bytes, key=self._key)
        self.data.update(changes)
        await self._save()

    async def _save(self) -> None:
        async with self._saving:
            changes = self._snapshot.changes_in(self)
            if not changes:
                return
            version = await self._store.write(self.user_id, self.channel_id, changes.as_write(since=self.version))
            if version == 0:
                # expires_at had passed, so the store has removed the session. The next save creates a new one.
                self._forget()
                return
            self._snapshot.apply(changes)
            if self.version == 0:
                self.created_at = from_micros(version)
            self.version = version
            self.updated_at = from_micros(version)

    async def _delete(self) -> None:
        async with self._saving:
            await self._store.delete(self.user_id, self.channel_id)
            self._forget()

    def _forget(self) -> None:
        # Not emptied in place: the handler may still use the old dict.
        self.data = {}
        self.expires_at = None
        self.version = 0
        self._snapshot = self._take_snapshot()

    def _take_snapshot(self, packed: dict[bytes, bytes] | None = None) -> Snapshot:
        return Snapshot(self, self._store.codec, max_bytes=self._store.max_bytes, key=self._key, packed=packed)


class BotSessionHelper(LiveSession):
    """The live session: a ``BotSession`` that knows its store and what has changed since it was loaded.

    Change ``data`` (in place, nested values too) and ``expires_at``, then ``save``. ``store.session(...)`` and
    ``SessionMiddleware`` save by themselves at the end; what is changed after that is saved by another ``save`` only.
    A session that is not stored yet has version 0 and empty data.
    """

    __slots__ = ()

    @classmethod
    async def load(cls, store: LiveStore, user_id: Id, channel_id: Id) -> Self:
        """Loads the session and renews its rolling TTL, in one round trip. If there is none, returns an empty one."""
        return await cls._load(store, user_id, channel_id)

    async def update(self, changes: Mapping[str, Any]) -> None:
        """Merges ``changes`` into ``data`` and saves.

        Raises:
            What ``save`` raises; where a value cannot be stored, ``data`` stays as it was.
        """
        await self._update(changes)

    async def save(self) -> None:
        """Writes the top-level keys that have changed since the load or the last save, and removes those that are gone.

        Sends nothing if nothing has changed. What other handlers have written to other keys meanwhile stays.

        Raises:
            SessionGone: the session was deleted or has expired since it was loaded; nothing was written.
            SerializationError, SessionTooLarge, TypeError: the data cannot be stored; nothing was written.
            OutcomeUnknown: the connection was lost before the reply.
        """
        await self._save()

    async def delete(self) -> None:
        """Removes the session from the store. Data set afterwards is saved as a new session."""
        await self._delete()


class Handling:
    """What ``store.session`` returns: loads a session, and saves what has changed unless the block raised."""

    __slots__ = ("_helper", "_ids", "_store")

    def __init__(self, store: LiveStore, user_id: Id, channel_id: Id) -> None:
        self._store = store
        self._ids = user_id, channel_id
        self._helper: BotSessionHelper | None = None

    async def __aenter__(self) -> BotSessionHelper:
        self._helper = await BotSessionHelper.load(self._store, *self._ids)
        return self._helper

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if kind is None and self._helper is not None:
            await self._helper.save()

    if not TYPE_CHECKING:  # a type checker shall still refuse the plain "with"

        def __enter__(self):
            raise TypeError("store.session(...) needs 'async with'; for plain 'with' use redis_botsession.sync.SessionStore")

        def __exit__(self, *_):
            """Is never called, since ``__enter__`` raises; the ``with`` statement looks it up."""
