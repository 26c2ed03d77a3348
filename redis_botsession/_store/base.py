"""What every store does: the interface of a store, and the methods that follow from its primitives."""

from __future__ import annotations

import asyncio
import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakValueDictionary

from .._codec.codec import DEFAULT_MAX_BYTES, Codec
from .._session.changes import Snapshot, Write
from .._session.live_session import BotSessionHelper, Handling
from .._session.record import KEEP, BotSession, Id, Keep, Loaded, normal_id
from .._session.times import TTL, from_micros
from ..errors import SessionGone, VersionConflict

#: How often ``modify`` tries. Tasks of one process take turns, so a conflict means that another process was faster.
DEFAULT_ATTEMPTS: Final = 100
_LONGEST_PAUSE: Final = 0.05

# The lock of each session that modify is changing, by store and key. An entry lives while a task holds or awaits the lock.
_turns: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
_modifying: ContextVar[frozenset[tuple[int, str]]] = ContextVar("_modifying", default=frozenset())


class BotSessionStore(ABC):
    """A store of sessions: one for each (user, channel).

    ``SessionStore`` (Redis) and ``MemorySessionStore`` are such stores. To keep sessions elsewhere, subclass this and write
    the abstract methods; everything else comes with it, and ``redis_botsession.testing`` checks the result.

    Ids are ``str | int``; 42 and "42" are the same id. Versions are microseconds since 1970 by the store's clock, or the last
    version plus one where that is greater: they grow with each write and never repeat for a session, not even after it was
    deleted.

    Every method raises ``TypeError`` or ``ValueError`` for bad arguments (an empty id, a naive datetime), before anything is
    read or written.

    Attributes:
        codec: Packs the values; also used to find what has changed. A subclass that sets none gets one for each store.
        max_bytes: Limit on the bytes of a session: all top-level keys and their packed values.
    """

    codec: Codec
    max_bytes: int = DEFAULT_MAX_BYTES

    def __new__(cls, *_: Any, **__: Any) -> Self:
        store = super().__new__(cls)
        if not hasattr(store, "codec"):
            store.codec = Codec()
        return store

    # --- What a store must do

    @abstractmethod
    async def load(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> Loaded | None:
        """Loads a session, with its packed values where the store has them at hand; None if there is no session.

        Args:
            user_id: The user.
            channel_id: The channel.
            touch: Also renew the rolling TTL, in the same round trip.

        Raises:
            CorruptSession: the stored data does not decode, or belongs to another session.
            SessionTooLarge: the stored data takes more than ``max_bytes``.
        """

    @abstractmethod
    async def write(self, user_id: Id, channel_id: Id, write: Write) -> int:
        """Applies a write to a session, atomically, and renews the rolling TTL. ``update`` and the like build on it.

        Returns:
            The new version. 0: the session was removed, since its ``expires_at`` has passed or, with ``drop_empty``, no key
            is left (also if there was no session and no key to set).

        Raises:
            SessionGone: there is no such session, and the write may not create one.
            VersionConflict: the session is not at ``write.expected_version``.
            SerializationError, SessionTooLarge: the values cannot be stored. A session that was too large before may be
                written to if that makes it no larger.
            CorruptSession: the stored session is damaged.
            OutcomeUnknown: the connection was lost before the reply.
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
    async def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> bool:
        """Renews the rolling TTL; a session with its own ``expires_at`` keeps that.

        Args:
            user_id: The user.
            channel_id: The channel.
            ttl: Seconds or a timedelta, until the next write or touch; None: the TTL of the store.

        Returns:
            Whether there is such a session.
        """

    @abstractmethod
    async def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> bool:
        """Removes a session.

        Returns:
            Whether there was one. False also if the connection was lost after the session was removed: then the command is
            sent again, and finds none.

        Raises:
            VersionConflict: there is another version than ``expected_version``.
            OutcomeUnknown: with ``expected_version``, the connection was lost before the reply.
        """

    @abstractmethod
    async def clear(self, user_id: Id) -> int:
        """Removes all sessions that the user has when this starts, and no other user's; returns how many."""

    @abstractmethod
    async def channels(self, user_id: Id) -> list[str]:
        """The channels in which the user has a session, in no particular order."""

    @abstractmethod
    def scan(self) -> AsyncIterator[tuple[str, str]]:
        """Yields every (user_id, channel_id) once. Sessions created or removed meanwhile may or may not be among them."""

    @abstractmethod
    async def size(self) -> int:
        """Counts the sessions by ``scan``. It is for operators, not for every message."""

    # --- What follows from that

    def key(self, user_id: Id, channel_id: Id) -> str:
        """The name of a session in messages."""
        return f"{normal_id(user_id, 'user_id')}:{normal_id(channel_id, 'channel_id')}"

    async def get(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> BotSession | None:
        """Loads a session; None if there is none.

        Args:
            user_id: The user.
            channel_id: The channel.
            touch: Also renew the rolling TTL, in the same round trip.

        Raises:
            CorruptSession, SessionTooLarge: as for ``load``.
        """
        loaded = await self.load(user_id, channel_id, touch=touch)
        return None if loaded is None else loaded.session

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
            remove: The keys to remove. Those that do not exist are ignored.
            expected_version: The version the session must have; 0: there must be no session. None: any.
            create: Whether to create the session if there is none.
            expires_at: A deadline of the session's own, which no write or touch moves; None removes it.
            since_version: The session must have existed without a break since this version: one that was deleted and
                created again is another. Implies ``create=False``.

        Returns:
            The new version. 0 if its ``expires_at`` has passed: the session is removed.

        Raises:
            SessionGone: there is no such session, and it may not be created.
            VersionConflict, SerializationError, SessionTooLarge, CorruptSession, OutcomeUnknown: as for ``write``.
        """
        write = Write(
            values=changes,
            remove=_sequence(remove),
            expected_version=expected_version,
            create=create,
            expires_at=expires_at,
            since_version=since_version,
        )
        return await self.write(user_id, channel_id, write)

    async def update_and_get(
        self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], *, remove: Iterable[str] = (), create: bool = True
    ) -> BotSession | None:
        """Does what ``update`` does, and returns the session as it is right after; ``SessionStore`` in one round trip.

        Args:
            user_id: The user.
            channel_id: The channel.
            changes: As for ``update``.
            remove: As for ``update``.
            create: As for ``update``.

        Returns:
            The session; None if its ``expires_at`` has passed.

        Raises:
            What ``update`` raises. CorruptSession and SessionTooLarge also *after* the write was applied, if the session
            cannot be loaded.
        """
        names = _sequence(remove)
        loaded = await self.write_and_load(user_id, channel_id, Write(values=changes, remove=names, create=create))
        return None if loaded is None else loaded.session

    async def write_and_load(self, user_id: Id, channel_id: Id, write: Write) -> Loaded | None:
        """Applies a write and loads the session; None if it was removed. ``SessionStore`` does it in one round trip.

        This default loads it after the write, with what others may have written in between.

        Raises:
            What ``write`` and ``load`` raise; what ``load`` raises means that the write was applied.
        """
        return await self.load(user_id, channel_id) if await self.write(user_id, channel_id, write) else None

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

        Unlike ``set`` it leaves ``created_at``, ``expires_at`` and the keys to keep as they are in the store, also if they
        are written meanwhile.

        Args:
            user_id: The user.
            channel_id: The channel.
            data: The keys to set.
            keep: Other keys that stay if they exist.
            create: Whether to create the session if there is none.
            drop_empty: Whether to remove the session if no key is left, rather than keep an empty one.

        Returns:
            The new version. 0 if no key is left and ``drop_empty`` is set: there is no session then.

        Raises:
            SessionGone: there is no session, and it may not be created.
            ValueError: a key is both in ``data`` and to be kept.
            SerializationError, SessionTooLarge, CorruptSession, OutcomeUnknown: as for ``write``.
        """
        names = _sequence(keep)
        write = Write(values=data, keep=names, create=create, drop_empty=drop_empty)
        return await self.write(user_id, channel_id, write)

    async def discard(self, user_id: Id, channel_id: Id, names: Iterable[str]) -> int:
        """Removes top-level keys, and the session with the last of them, atomically. Renews the rolling TTL otherwise.

        Args:
            user_id: The user.
            channel_id: The channel.
            names: The keys. Those that do not exist are ignored.

        Returns:
            The new version; 0: there is no session now, whether this removed it or there was none.

        Raises:
            CorruptSession, OutcomeUnknown: as for ``write``.
        """
        write = Write(remove=_sequence(names), create=False, drop_empty=True)
        try:
            return await self.write(user_id, channel_id, write)
        except SessionGone:
            return 0

    async def modify(
        self,
        user_id: Id,
        channel_id: Id,
        fn: Callable[[BotSession], Awaitable[None] | None],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
    ) -> BotSession:
        """Loads the session, lets ``fn`` change it, and saves it if it is unchanged since; tries again after a conflict.

        For changes that depend on the present data, like a counter. Tasks of this process take turns at one session.

        Args:
            user_id: The user.
            channel_id: The channel.
            fn: Changes ``session.data`` (and ``expires_at``) in place and returns None; a function or a coroutine function.
                It may be called several times, each time with a session just loaded, so it should do nothing else.
            attempts: How often to try before the conflict is raised.

        Returns:
            The session as saved.

        Raises:
            VersionConflict: other processes were faster, ``attempts`` times.
            RuntimeError: called by ``fn`` for the session it is changing.
            TypeError: ``fn`` returned a new dict and changed nothing: it must change ``session.data`` in place.
            Also what ``load``, ``write`` and ``fn`` raise. Nothing was written then.
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
                for attempt in range(1, attempts):
                    try:
                        return await self._modify_once(user_id, channel_id, fn)
                    except VersionConflict:
                        await self._pause(random.uniform(0, min(_LONGEST_PAUSE, 0.001 * attempt)))  # noqa: S311 - jitter
                return await self._modify_once(user_id, channel_id, fn)
            finally:
                _modifying.set(before)

    def session(self, user_id: Id, channel_id: Id) -> AbstractAsyncContextManager[BotSessionHelper]:
        """The live session for the length of an ``async with``: loads it, and saves what has changed at the end.

        If the block raises, nothing is saved. Raises what ``load`` and ``BotSessionHelper.save`` raise.
        """
        return Handling(self, user_id, channel_id)

    async def ping(self) -> None:
        """Checks that the store can be reached, in one round trip. A store without a server does nothing.

        Raises:
            redis.exceptions.RedisError, OSError: the server cannot be reached, or refuses.
        """
        return

    async def aclose(self) -> None:
        """Releases what the store holds."""
        return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _turn(self, turn: tuple[int, str]) -> AbstractAsyncContextManager[Any]:
        return _turns.setdefault(turn, asyncio.Lock())

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _modify_once(self, user_id: Id, channel_id: Id, fn: Callable[[BotSession], Awaitable[None] | None]) -> BotSession:
        loaded = await self.load(user_id, channel_id)
        if loaded is None:
            loaded = Loaded(BotSession(normal_id(user_id, "user_id"), normal_id(channel_id, "channel_id")))
        session, key = loaded.session, self.key(user_id, channel_id)
        before = Snapshot(session, self.codec, max_bytes=self.max_bytes, key=key, packed=loaded.packed)
        result: object = fn(session)
        if inspect.isawaitable(result):
            result = await result
        changes = before.changes_in(session)
        if not changes and isinstance(result, Mapping) and not any(result is value for value in session.data.values()):
            raise TypeError(
                f"modify() of session {key}: the function returned a new {type(result).__name__} and changed nothing; "
                "it must change session.data in place"
            )
        if changes:
            is_new = session.version == 0
            session.version = await self.write(user_id, channel_id, changes.as_write(expected=session.version))
            if session.version:
                session.updated_at = from_micros(session.version)
                session.created_at = session.updated_at if is_new else session.created_at
        return session


def _sequence(names: Iterable[str]) -> Sequence[str]:
    # One text is a sequence, too: Write refuses it.
    return names if isinstance(names, Sequence) else list(names)
