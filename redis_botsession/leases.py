"""Leases: one holder at a time for each (user, channel), in all processes that share a Redis.

A lease is a key at the server with the holder's random token in it, that runs out by itself. While it is held it is renewed;
it is given back by the token only, so one who has lost it takes it from nobody. Who waits, waits in two places: in the queue of
this process, in order; and, at the head of that, for a call from the holder (Redis pub/sub) or until the lease runs out.
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
from ._transport.command_store import CommandStore
from ._transport.pubsub import Listener, Watch
from .errors import OutcomeUnknown, SessionError

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds until a lease runs out that is not renewed.
DEFAULT_LEASE: Final = 30.0
#: Seconds; a shorter lease would be lost to an ordinary pause.
SHORTEST_LEASE: Final = 0.1
#: Seconds that ``aclose`` gives to those who hold a lease.
CLOSING: Final = 5.0

# Seconds between two looks of one who cannot be called: the first, and the longest.
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0
# Seconds after the time at which a lease runs out: the server counts in milliseconds.
_SLACK = 0.002
# Seconds for which a process that has given a lease back lets others go first who wait for it.
_HEAD_START = 0.01


class Lease:
    """What ``Leases.hold`` gives.

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
        """Whether another may have had it while it was held: it was not renewed in time, or the server has forgotten it."""
        return self._is_lost or self._loop.time() > self._until


class _Holding(Lease):
    """The inside of a lease."""

    def __init__(self, key: bytes, ids: tuple[Id, Id], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(text_of(key), loop)
        self.ids = ids
        self.channel = key
        self.token = token_hex(16).encode("ascii")
        self.owner = asyncio.current_task()
        self.asking: asyncio.Task[float | None] | None = None
        # Whether the server may have it as the token's.
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
            "lease %s was lost: when it was %s, it had run out, or the server had forgotten it. "
            "Another may have had it while it was held",
            self.key,
            when,
        )

    def settle(self, is_lost: bool) -> None:
        """That stays so."""
        self._is_lost, self._until = is_lost, math.inf

    def end(self) -> None:
        self.is_held = False
        if self.timer is not None:
            self.timer.cancel()
        if self.renewing is not None:
            self.renewing.cancel()


class _Queue:
    """Those in this process who want one lease, in order. One has the turn."""

    def __init__(self) -> None:
        self.owner: asyncio.Task[Any] | None = None
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether nobody has the turn."""
        return not self._is_taken

    async def take(self) -> None:
        """Waits for the turn."""
        if self._is_taken:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif not turn.cancelled() and turn.exception() is None:
                    # Cancelled when it had just got the turn.
                    self.leave()
                raise
        self._is_taken = True
        self.owner = asyncio.current_task()

    def leave(self) -> None:
        """Hands the turn on."""
        self.owner = None
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    def refuse(self) -> None:
        """Tells all who wait that it will never be their turn."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(_closed())
        self._waiting.clear()


class Leases:
    """Leases of the sessions of a store.

    One who waits costs the server two or three commands, and one each time the lease changes hands or should have run out. A
    process has one more connection, for calls (pub/sub), made when somebody first has to wait and closed when nobody has for
    some time. A user who may not subscribe or publish there looks again and again, up to once a second.

    Leases are in the database of the store and belong to its event loop.

    Args:
        store: A ``SessionStore`` or ``MemorySessionStore``. It stays yours: ``aclose`` does not close it.
        lease: Seconds (or a timedelta) after which the lease of a process that has died runs out, 0.1 at least. It is
            renewed every third of that. A holder whose event loop is blocked for so long loses it.

    Raises:
        TypeError: another kind of store, or of time.
        ValueError: a time out of range.
    """

    def __init__(self, store: CommandStore, *, lease: float | timedelta = DEFAULT_LEASE) -> None:
        if not isinstance(store, CommandStore):
            raise TypeError(f"leases need a SessionStore or MemorySessionStore, not {type(store).__name__}")
        self._lease_ms = _milliseconds(lease)
        self._seconds = self._lease_ms / 1000
        self._commands = store.commands
        self._executor = store.executor
        self._listener = Listener(store.executor, store.commands.keys.prefix)
        self._queues: dict[bytes, _Queue] = {}
        # Leases that were given back a moment ago, and for which others wait.
        self._awaited: set[bytes] = set()
        # Those who have a turn: who hold it, ask for it, or give it back.
        self._inside: set[_Holding] = set()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    @asynccontextmanager
    async def hold(self, user_id: Id, channel_id: Id) -> AsyncIterator[Lease]:
        """Holds the lease of a session for the length of an ``async with``; waits until nobody else has it.

        Those of one process get it in the order in which they came. If the lease is lost while it is held, that is logged,
        and ``is_lost`` of what this gives says so; nothing is raised, and nothing is taken from the next holder. Nothing is
        raised either where a lease cannot be given back: that is logged, and it runs out.

        Raises:
            TypeError, ValueError: not ids.
            RuntimeError: this task holds it already, and would wait for itself.
            SessionError: these leases, or the store, are closed.
            redis.exceptions.RedisError: the server cannot be reached, or refuses; nothing is held then.
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
            # Somebody else may have made another one meanwhile.
            if queue.is_empty and self._queues.get(key) is queue:
                del self._queues[key]

    async def aclose(self) -> None:
        """Refuses what comes, and those who wait; leaves no task and no connection. The store stays open.

        Waits for those who hold a lease, 5 seconds at most (for the task that calls this, not at all). What they have then
        is not renewed any more, and runs out.
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
            logger.warning("lease %s was held when leases were closed; it runs out in %g s at most", lease.key, self._seconds)
            lease.end()
            self._inside.discard(lease)
        # Those who have asked for it are refused when they have their answer.
        while self._inside:
            self._ended.clear()
            await self._ended.wait()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- to get it

    async def _win(self, lease: _Holding) -> None:
        """Waits until it is ours."""
        if lease.channel in self._awaited:
            # Another process may be far from the server, and would never be the first to hear of it.
            await asyncio.sleep(_HEAD_START)
        if await self._try(lease) is None:
            return
        with self._listener.watch(lease.channel) as watch:
            looks = 0
            while True:
                # It is watched first and asked for then: what is published in between wakes.
                watch.wake.clear()
                left = await self._try(lease)
                if left is None:
                    return
                await self._wait(watch, left, looks)
                looks += 1

    async def _wait(self, watch: Watch, left: float, looks: int) -> None:
        patience = left + _SLACK
        if not watch.is_hearing:
            # A different time for each process, or all would come at once.
            patience = min(patience, _FIRST_LOOK * 2 ** min(looks, 10), _LONGEST_LOOK) * random.uniform(0.5, 1)  # noqa: S311
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await watch.wake.wait()

    async def _try(self, lease: _Holding) -> float | None:
        """Asks for it; gives the seconds after which another's runs out, None if it is ours."""
        if self._is_closed:
            raise _closed()
        asked = lease._loop.time()
        # A task of its own: whoever is cancelled here learns what the server has said before it gives back what it may have.
        lease.asking = self._start(self._ask(lease))
        left = await asyncio.shield(lease.asking)
        if left is not None:
            # Without an end, if somebody has taken that away.
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

    # --- to keep it

    def _renew_in(self, lease: _Holding, delay: float) -> None:
        lease.timer = lease._loop.call_later(delay, self._begin_renewal, lease)

    def _begin_renewal(self, lease: _Holding) -> None:
        lease.renewing = self._start(self._renew(lease))

    async def _renew(self, lease: _Holding) -> None:
        asked = lease._loop.time()
        try:
            is_ours = await self._executor.run(self._commands.renew(*lease.ids, lease.token, self._lease_ms))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed, and the holder goes on
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

    # --- to give it back

    async def _give_back(self, lease: _Holding) -> None:
        was_held = lease.is_held
        lease.end()
        self._inside.discard(lease)
        self._ended.set()
        if lease.is_taken or (lease.asking is not None and not lease.asking.done()):
            # Whoever is cancelled here gives it back nonetheless.
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
                # By its token, once more does no harm; and that it is gone then means nothing.
                is_awaited, was_held = await self._executor.run(command), False
        except Exception as error:  # noqa: BLE001 - what was done under it is done, and it runs out by itself
            why = str(error) or type(error).__name__
            logger.warning("lease %s cannot be given back, it runs out in %g s at most: %s", lease.key, self._seconds, why)
            lease.settle(lease.is_lost)
            return
        if is_awaited is not None:
            lease.settle(False)
        elif was_held:
            lease.lose("given back")
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
