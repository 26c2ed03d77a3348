"""What every store does, and what follows from that."""

from __future__ import annotations

import asyncio
import inspect
import random
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, runtime_checkable
from weakref import WeakValueDictionary

from ._codec.codec import DEFAULT_MAX_BYTES, Codec
from ._session.changes import Changes, Snapshot
from ._session.live import BotSessionHelper, Handling
from ._session.record import KEEP, BotSession, Id, Keep, Loaded, normal_id
from ._session.times import TTL, from_micros
from .errors import SessionGone, VersionConflict

T = TypeVar("T")

#: How often ``modify`` tries. Tasks of one process take turns, so only other processes are in its way.
DEFAULT_ATTEMPTS = 100
_LONGEST_PAUSE = 0.05

# One turn at a time for each session and store; a lock lives as long as somebody holds or awaits it.
_turns: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
_modifying: ContextVar[frozenset[tuple[int, str]]] = ContextVar("_modifying", default=frozenset())


@runtime_checkable
class BotSessionStore(Protocol):
    """A store of sessions: one for each (user, channel).

    ``SessionStore`` (Redis) and ``MemorySessionStore`` are such stores. For one of your own, subclass this and write the
    abstract methods; ``modify``, ``session`` and ``async with`` come with it, and ``redis_botsession.testing`` checks it.

    Ids are ``str | int``; 42 and "42" are one. Versions are microseconds since 1970 by the store's clock, or one more than
    the last where that is later: they grow with each write and never repeat for a session, not after it was deleted either.

    Every method raises ``TypeError`` or ``ValueError`` for bad arguments (an empty id, a naive datetime), before anything is
    read or written.

    Attributes:
        codec: Packs the values; also tells what has changed.
        max_bytes: Limit on the bytes of a session: all top-level keys and their packed values.
    """

    codec: Codec = Codec()
    max_bytes: int = DEFAULT_MAX_BYTES

    @abstractmethod
    async def get(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> BotSession | None:
        """Loads a session; None if there is none.

        Args:
            user_id: The user.
            channel_id: The channel.
            touch: Also renew the rolling TTL, in the same round trip.

        Raises:
            CorruptSession: what is stored does not decode, or is another's.
            SessionTooLarge: what is stored takes more than ``max_bytes``.
        """

    @abstractmethod
    async def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> int:
        """Replaces the session as a whole, or creates it, and renews the rolling TTL.

        Args:
            user_id: The user; the one of ``session``.
            channel_id: The channel; the one of ``session``.
            session: Its data, created_at and expires_at are stored; updated_at and version are the store's.
            expected_version: The version there must be now; 0: there must be none. None: whatever there is.

        Returns:
            The new version. 0 if ``session.expires_at`` has passed: the session is removed.

        Raises:
            VersionConflict: there is another version.
            SerializationError, SessionTooLarge: the data cannot be stored.
            OutcomeUnknown: the connection was lost before the reply.
        """

    @abstractmethod
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
        """Merges top-level keys into the session, atomically, and renews the rolling TTL.

        Args:
            user_id: The user.
            channel_id: The channel.
            changes: The keys to set. Other keys stay as they are.
            remove: The keys to remove; those that are not there do no harm.
            expected_version: As for ``set``.
            create: Whether to create the session if there is none.
            expires_at: A deadline of the session's own, which no write or touch moves; None takes it away.
            since_version: The session must have existed without a break since this version: one that was deleted and
                created again is another. Implies ``create=False``.

        Returns:
            The new version. 0 if its ``expires_at`` has passed: the session is removed.

        Raises:
            SessionGone: there is no such session, and it is not to be created.
            VersionConflict, SerializationError, SessionTooLarge, CorruptSession, OutcomeUnknown: as for ``set``.
        """

    @abstractmethod
    async def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> bool:
        """Renews the rolling TTL; a session with its own ``expires_at`` keeps that.

        Args:
            user_id: The user.
            channel_id: The channel.
            ttl: Seconds or a timedelta, until the next write or touch; None: the store's.

        Returns:
            Whether there is such a session.
        """

    @abstractmethod
    async def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> bool:
        """Removes a session.

        Returns:
            Whether there was one. (After a lost connection the command is sent again, and finds none any more.)

        Raises:
            VersionConflict: there is another version than ``expected_version``.
            OutcomeUnknown: with ``expected_version``, the connection was lost before the reply.
        """

    @abstractmethod
    async def clear(self, user_id: Id) -> int:
        """Removes all sessions that the user has at the start; returns how many. Nobody else's, whatever the id looks like."""

    @abstractmethod
    async def channels(self, user_id: Id) -> list[str]:
        """The channels in which the user has a live session, in no particular order."""

    @abstractmethod
    def scan(self) -> AsyncIterator[tuple[str, str]]:
        """Every (user_id, channel_id), each once; what is created or removed meanwhile may or may not be among them."""

    @abstractmethod
    async def size(self) -> int:
        """How many live sessions there are; counts by ``scan``, so it is for operators, not for every message."""

    def key(self, user_id: Id, channel_id: Id) -> str:
        """What a session is called in messages."""
        return f"{normal_id(user_id, 'user_id')}:{normal_id(channel_id, 'channel_id')}"

    async def load_packed(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> Loaded | None:
        """As ``get``, with the packed values where the store has them at hand: then a save need not pack them to compare.

        A store need not have it: this one gives none.
        """
        session = await self.get(user_id, channel_id, touch=touch)
        return None if session is None else (session, None)

    async def save_packed(
        self,
        user_id: Id,
        channel_id: Id,
        changes: Changes,
        *,
        expected_version: int | None = None,
        since_version: int | None = None,
    ) -> int:
        """``update`` with ``changes``, that have their values both as they are and packed: a store takes what it needs.

        A store need not have it: this one calls ``update``.
        """
        return await self.update(
            user_id,
            channel_id,
            changes.changed,
            remove=changes.removed,
            expires_at=changes.expires_at,
            expected_version=expected_version,
            since_version=since_version,
        )

    async def update_and_get(
        self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], *, remove: Iterable[str] = (), create: bool = True
    ) -> BotSession | None:
        """``update``, and the session as it is then, which ``SessionStore`` gives in the same round trip.

        A store need not have it: this one loads the session after the update, with what others may have written in between.

        Args:
            user_id: The user.
            channel_id: The channel.
            changes: As for ``update``.
            remove: As for ``update``.
            create: As for ``update``.

        Returns:
            The session; None if its ``expires_at`` has passed.

        Raises:
            What ``update`` raises. CorruptSession also where another key does not decode, SessionTooLarge also where the
            session was too large before and still is: then the changes are written.
        """
        if not await self.update(user_id, channel_id, changes, remove=remove, create=create):
            return None
        return await self.get(user_id, channel_id)

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
        """Replaces all top-level keys but some, atomically, and renews the rolling TTL.

        Unlike ``set`` it leaves ``created_at``, ``expires_at`` and the keys to keep as they are in the store, whoever writes
        them meanwhile.

        Args:
            user_id: The user.
            channel_id: The channel.
            data: The keys to set.
            keep: Other keys that stay, where they are there.
            create: Whether to create the session if there is none.
            drop_empty: Whether to remove the session if no key is left, rather than keep an empty one.

        Returns:
            The new version. 0 if the session is removed, or was none and is left without keys.

        Raises:
            SessionGone: there is no session, and it is not to be created.
            ValueError: a key is both in ``data`` and to be kept.
            SerializationError, SessionTooLarge, CorruptSession, OutcomeUnknown: as for ``set``.
        """
        kept = [*keep]
        if both := [name for name in kept if name in data]:
            raise ValueError(f"session {self.key(user_id, channel_id)}: {both[0]!r} is both changed and kept")
        ids = normal_id(user_id, "user_id"), normal_id(channel_id, "channel_id")

        async def write() -> int:
            session = await self.get(*ids)
            if session is None:
                if not create:
                    key = self.key(*ids)
                    raise SessionGone(f"session {key} does not exist; nothing was written", key=key)
                session = BotSession(*ids)
            stays = {name: session.data[name] for name in kept if name in session.data}
            session.data = {**data, **stays}
            if session.data or not drop_empty:
                return await self.set(*ids, session, expected_version=session.version)
            await self.delete(*ids, expected_version=session.version)
            return 0

        return await self._unless_changed(write)

    async def discard(self, user_id: Id, channel_id: Id, names: Iterable[str]) -> int:
        """Removes top-level keys, and the session with the last of them; atomically. Renews the rolling TTL of what is left.

        Args:
            user_id: The user.
            channel_id: The channel.
            names: The keys; those that are not there do no harm.

        Returns:
            The new version; 0: there is no session, whether this has removed it or there was none.

        Raises:
            CorruptSession, OutcomeUnknown: as for ``update``.
        """
        gone = {*names}

        async def write() -> int:
            session = await self.get(user_id, channel_id)
            if session is None:
                return 0
            if not gone.issuperset(session.data):
                return await self.update(user_id, channel_id, {}, remove=gone, expected_version=session.version)
            await self.delete(user_id, channel_id, expected_version=session.version)
            return 0

        return await self._unless_changed(write)

    async def modify(
        self,
        user_id: Id,
        channel_id: Id,
        fn: Callable[[BotSession], Awaitable[None] | None],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
    ) -> BotSession:
        """Loads the session, lets ``fn`` change it, saves it if it is unchanged since; again on conflict.

        For what depends on what is there, like a counter. Tasks of this process take turns at one session.

        Args:
            user_id: The user.
            channel_id: The channel.
            fn: Changes ``session.data`` (and ``expires_at``) in place; a function or a coroutine function. It may be called
                several times, each time with a fresh session, so it should do nothing else.
            attempts: How often to try before the conflict is raised.

        Returns:
            The session as saved.

        Raises:
            VersionConflict: others were faster, ``attempts`` times.
            RuntimeError: called by ``fn`` for the session it is changing.
            Also what ``get``, ``update`` and ``fn`` raise; then nothing was written.
        """
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts}")
        turn = id(self), self.key(user_id, channel_id)
        if turn in _modifying.get():
            raise RuntimeError(f"modify() of session {turn[1]} inside of its own modify() could never succeed")
        async with self._turn(turn):
            before = _modifying.get()
            try:
                _modifying.set(before | {turn})
                return await self._unless_changed(lambda: self._modify_once(user_id, channel_id, fn), attempts)
            finally:
                _modifying.set(before)

    async def _unless_changed(self, write: Callable[[], Awaitable[T]], attempts: int = DEFAULT_ATTEMPTS) -> T:
        """What ``write`` gives; after a conflict, again."""
        for attempt in range(1, attempts):
            try:
                return await write()
            except VersionConflict:
                await self._pause(random.uniform(0, min(_LONGEST_PAUSE, 0.001 * attempt)))  # noqa: S311 - jitter
        return await write()

    def _turn(self, turn: tuple[int, str]) -> AbstractAsyncContextManager[Any]:
        return _turns.setdefault(turn, asyncio.Lock())

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _modify_once(self, user_id: Id, channel_id: Id, fn: Callable[[BotSession], Awaitable[None] | None]) -> BotSession:
        loaded = await self.load_packed(user_id, channel_id)
        if loaded is None:
            session, stored = BotSession(normal_id(user_id, "user_id"), normal_id(channel_id, "channel_id")), None
        else:
            session, stored = loaded
        key = self.key(user_id, channel_id)
        before = Snapshot(session, self.codec, max_bytes=self.max_bytes, key=key, stored=stored)
        result = fn(session)
        if inspect.isawaitable(result):
            await result
        changes = before.until(session)
        if changes:
            is_new = session.version == 0
            session.version = await self.save_packed(user_id, channel_id, changes, expected_version=session.version)
            if session.version:
                session.updated_at = from_micros(session.version)
                session.created_at = session.updated_at if is_new else session.created_at
        return session

    def session(self, user_id: Id, channel_id: Id) -> AbstractAsyncContextManager[BotSessionHelper]:
        """The live session for the length of an ``async with``: loads it, and saves what has changed at the end.

        After an exception nothing is saved. Raises what ``get`` and ``BotSessionHelper.save`` raise.
        """
        return Handling(self, user_id, channel_id)

    async def aclose(self) -> None:
        """Releases what the store holds."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
