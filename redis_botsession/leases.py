"""Leases: one holder at a time for each (user, channel), in all processes that share a Redis.

A lease is a key in Redis that holds the random token of its holder and expires by itself. It is renewed while it is held, and
released by its token only, so a holder that has lost it cannot release the lease of the next one. Waiters of one process queue
in order. The first of them waits for a message of the holder (Redis pub/sub), or until the lease expires.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from secrets import token_hex
from typing import Any, Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ._protocol.replies import text_of
from ._session.record import Id
from ._session.times import ttl_to_ms
from ._store.base import BotSessionStore
from ._store.command_store import CommandStore
from ._transport.pubsub import Listener, Watch
from .errors import OutcomeUnknown, SessionError

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds after which a lease that is not renewed expires.
DEFAULT_LEASE: Final = 30.0
#: The shortest lease in seconds: an ordinary pause of a process would lose a shorter one.
SHORTEST_LEASE: Final = 0.1
#: Seconds for which ``aclose`` waits for the holders.
CLOSING: Final = 5.0

# A waiter that cannot subscribe polls: seconds before its first and its later looks.
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0
# Seconds to wait beyond the expiry of a lease, since the server counts in milliseconds.
_SLACK: Final = 0.002
# Grace period in seconds after a release, so that waiters of other processes get their turn.
_HEAD_START: Final = 0.01


class Lease:
    """A lease that is held; ``Leases.hold`` yields it.

    Attributes:
        key: The key of the lease, as ``redis-cli`` takes it.
    """

    def __init__(self, key: str, loop: asyncio.AbstractEventLoop) -> None:
        self.key = key
        self._loop = loop
        self._until = -math.inf
        self._is_lost = False

    def __repr__(self) -> str:
        return f"<Lease {self.key}{' (lost)' if self.is_lost else ''}>"

    @property
    def is_lost(self) -> bool:
        """Whether another holder may have had the lease: it was not renewed in time, or the server has forgotten it."""
        return self._is_lost or self._loop.time() > self._until


class _Holding(Lease):
    """A lease with the state that ``Leases`` keeps of it."""

    def __init__(self, key: bytes, ids: tuple[Id, Id], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(text_of(key), loop)
        self.ids = ids
        self.channel = key
        self.token = token_hex(16).encode("ascii")
        self.owner = asyncio.current_task()
        self.asking: asyncio.Task[float | None] | None = None
        # Whether the key in Redis may hold this token.
        self.is_taken = False
        self.is_held = False
        self.timer: asyncio.TimerHandle | None = None
        self.renewing: asyncio.Task[None] | None = None
        self.has_complained = False

    def held_until(self, moment: float) -> None:
        self._until = moment

    def lose(self, when: str) -> None:
        self._is_lost, self.is_taken = True, False
        logger.warning(
            "lease %s was lost: when it was %s, it had expired, or the server had forgotten it. "
            "Another holder may have had it meanwhile",
            self.key,
            when,
        )

    def settle(self, is_lost: bool) -> None:
        """Freezes the verdict: from now on ``is_lost`` does not depend on the clock."""
        self._is_lost, self._until = is_lost, math.inf

    def end(self) -> None:
        self.is_held = False
        if self.timer is not None:
            self.timer.cancel()
        if self.renewing is not None:
            self.renewing.cancel()


class _Queue:
    """The waiters of this process for one lease, in order. One of them has the turn."""

    def __init__(self) -> None:
        self.owner: asyncio.Task[Any] | None = None
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether no task has the turn."""
        return not self._is_taken

    async def take(self) -> None:
        """Waits until it is this task's turn."""
        if self._is_taken:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif not turn.cancelled() and turn.exception() is None:
                    # Cancelled just after it had got the turn.
                    self.leave()
                raise
        self._is_taken = True
        self.owner = asyncio.current_task()

    def leave(self) -> None:
        """Passes the turn to the next waiter."""
        self.owner = None
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    def refuse(self) -> None:
        """Ends all waits with an error, since the leases are closed."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(_closed())
        self._waiting.clear()


class Leases:
    """Leases for the sessions of a store.

    A waiter costs the server two or three commands, and one each time the lease changes hands or should have expired. A process
    opens one more connection for pub/sub when one of its tasks first has to wait, and closes it when none has waited for some
    time. Without the permission to publish and subscribe, waiters poll, with pauses of up to a second.

    Leases are in the database of the store, and belong to its event loop.

    Args:
        store: A ``SessionStore`` or ``MemorySessionStore``. It stays yours: ``aclose`` does not close it.
        lease: Seconds (or a timedelta) after which the lease of a process that has died expires, at least 0.1. A held lease
            is renewed every third of that. A holder whose event loop is blocked for longer loses it.

    Raises:
        TypeError: another kind of store, or of time.
        ValueError: a time out of range.
    """

    def __init__(self, store: BotSessionStore, *, lease: float | timedelta = DEFAULT_LEASE) -> None:
        if not isinstance(store, CommandStore):
            raise TypeError(f"leases need a SessionStore or MemorySessionStore, not {type(store).__name__}")
        self._lease_ms = _milliseconds(lease)
        self._seconds = self._lease_ms / 1000
        self._commands = store.commands
        self._executor = store.executor
        self._listener = Listener(store.executor, store.commands.keys.prefix)
        self._queues: dict[bytes, _Queue] = {}
        # Leases that were released a moment ago, and that other processes wait for.
        self._awaited: set[bytes] = set()
        # Leases that are held, or are being acquired or released.
        self._inside: set[_Holding] = set()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    @asynccontextmanager
    async def hold(self, user_id: Id, channel_id: Id) -> AsyncIterator[Lease]:
        """Holds the lease of a session for the length of an ``async with``; waits until no one else holds it.

        Waiters of one process get it in the order in which they came. If the lease is lost while it is held, that is logged,
        and its ``is_lost`` is true; nothing is raised, and the next holder keeps the lease. If a lease cannot be released,
        that is logged, and it expires.

        Raises:
            TypeError, ValueError: not ids.
            RuntimeError: this task holds the lease already, and would wait for itself.
            SessionError: these leases, or the store, are closed.
            redis.exceptions.RedisError: the server cannot be reached, or refuses. The lease is not held then.
        """
        address = self._commands.locate(user_id, channel_id)
        key = self._commands.keys.lease(address.user, address.channel)
        if self._is_closed:
            raise _closed()
        queue = self._queues.setdefault(key, _Queue())
        if queue.owner is not None and queue.owner is asyncio.current_task():
            raise RuntimeError(f"lease {text_of(key)} is held by this task already: it would wait for itself")
        try:
            await queue.take()
            try:
                lease = _Holding(key, (address.user, address.channel), asyncio.get_running_loop())
                self._inside.add(lease)
                try:
                    await self._win(lease)
                    yield lease
                finally:
                    await self._give_back(lease)
            finally:
                queue.leave()
        finally:
            # Another task may have put a new queue there meanwhile.
            if queue.is_empty and self._queues.get(key) is queue:
                del self._queues[key]

    async def aclose(self) -> None:
        """Closes the leases: refuses new and waiting tasks, and leaves no task and no connection. The store stays open.

        Waits for the holders, 5 seconds at most, except for the task that calls this. A lease that is still held then is not
        renewed any more, and expires.
        """
        self._is_closed = True
        for queue in self._queues.values():
            queue.refuse()
        await self._listener.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                while any(lease.owner is not asyncio.current_task() for lease in self._inside):
                    self._ended.clear()
                    await self._ended.wait()
        for lease in [lease for lease in self._inside if lease.is_held]:
            logger.warning("lease %s was held when leases were closed; it expires in %g s at most", lease.key, self._seconds)
            lease.end()
            self._inside.discard(lease)
        # Tasks that are acquiring a lease are refused when its reply comes.
        while self._inside:
            self._ended.clear()
            await self._ended.wait()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- Acquiring

    async def _win(self, lease: _Holding) -> None:
        """Acquires the lease, and waits until it can be had."""
        if lease.channel in self._awaited:
            # Otherwise a process with a long way to the server would never be the first to ask.
            await asyncio.sleep(_HEAD_START)
        if await self._try(lease) is None:
            return
        with self._listener.watch(lease.channel) as watch:
            looks = 0
            while True:
                # Subscribed first, asked then: a release in between wakes this task.
                watch.wake.clear()
                left = await self._try(lease)
                if left is None:
                    return
                await self._wait(watch, left, looks)
                looks += 1

    async def _wait(self, watch: Watch, left: float, looks: int) -> None:
        patience = left + _SLACK
        if not watch.is_hearing:
            # Jitter: the waiters of several processes should not ask at the same moment.
            patience = min(patience, _FIRST_LOOK * 2 ** min(looks, 10), _LONGEST_LOOK) * random.uniform(0.5, 1)  # noqa: S311
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await watch.wake.wait()

    async def _try(self, lease: _Holding) -> float | None:
        """Tries to acquire the lease; returns None, or the seconds until another holder's lease expires."""
        if self._is_closed:
            raise _closed()
        asked = lease._loop.time()
        # A task of its own: if this one is cancelled, the reply must still arrive, to know whether there is a lease to release.
        lease.asking = self._start(self._ask(lease))
        left = await asyncio.shield(lease.asking)
        if left is not None:
            # Negative: the key has no TTL, which only another program can have removed.
            return left if left >= 0 else self._seconds
        if self._is_closed:
            raise _closed()
        lease.is_held = True
        lease.held_until(asked + self._seconds)
        self._renew_in(lease, self._seconds / 3)
        return None

    async def _ask(self, lease: _Holding) -> float | None:
        try:
            left = await self._executor.run(self._commands.acquire(*lease.ids, lease.token, self._lease_ms))
        except (RedisConnectionError, RedisTimeoutError, OSError):
            lease.is_taken = True
            raise
        lease.is_taken = left is None
        return left

    # --- Renewing

    def _renew_in(self, lease: _Holding, delay: float) -> None:
        lease.timer = lease._loop.call_later(delay, self._begin_renewal, lease)

    def _begin_renewal(self, lease: _Holding) -> None:
        lease.renewing = self._start(self._renew(lease))

    async def _renew(self, lease: _Holding) -> None:
        asked = lease._loop.time()
        try:
            is_ours = await self._executor.run(self._commands.renew(*lease.ids, lease.token, self._lease_ms))
        except Exception as error:  # noqa: BLE001 - any error: the next attempt may succeed, and the holder goes on
            if not lease.has_complained:
                lease.has_complained = True
                why = str(error) or type(error).__name__
                logger.warning("lease %s cannot be renewed, trying again: %s", lease.key, why)
            if lease.is_held:
                self._renew_in(lease, min(1.0, self._seconds / 10))
            return
        if not lease.is_held:
            return
        if is_ours:
            lease.has_complained = False
            lease.held_until(asked + self._seconds)
            self._renew_in(lease, self._seconds / 3)
        else:
            lease.lose("renewed")

    # --- Releasing

    async def _give_back(self, lease: _Holding) -> None:
        was_held = lease.is_held
        lease.end()
        self._inside.discard(lease)
        self._ended.set()
        if lease.is_taken or (lease.asking is not None and not lease.asking.done()):
            # In a task of its own, so that it is released also if this task is cancelled.
            releasing = self._start(self._release(lease, was_held))
            if was_held:
                await asyncio.shield(releasing)

    async def _release(self, lease: _Holding, was_held: bool) -> None:
        if lease.asking is not None and not lease.asking.done():
            await asyncio.wait([lease.asking])
        if not lease.is_taken:
            return
        command = self._commands.release(*lease.ids, lease.token)
        try:
            try:
                is_awaited = await self._executor.run(command)
            except OutcomeUnknown:
                # Safe to repeat, since it is by token. If the key is gone then, the first attempt may have removed it.
                is_awaited, was_held = await self._executor.run(command), False
        except Exception as error:  # noqa: BLE001 - any error: the work under the lease is done, and the lease expires by itself
            why = str(error) or type(error).__name__
            logger.warning("lease %s cannot be released, it expires in %g s at most: %s", lease.key, self._seconds, why)
            lease.settle(lease.is_lost)
            return
        if is_awaited is not None:
            lease.settle(False)
        elif was_held:
            lease.lose("released")
        else:
            lease.settle(lease.is_lost)
        if is_awaited:
            self._awaited.add(lease.channel)
            lease._loop.call_later(_HEAD_START, self._awaited.discard, lease.channel)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _milliseconds(lease: float | timedelta) -> int:
    try:
        ms = ttl_to_ms(lease)
    except ValueError:
        ms = None
    if ms is None or ms < SHORTEST_LEASE * 1000:
        raise ValueError(f"lease must be at least {SHORTEST_LEASE:g} s, and finite, not {lease!r}")
    return ms


def _closed() -> SessionError:
    return SessionError("these leases are closed; make new ones")
