"""A pipelined connection on asyncio, made anew when it is lost.

It hands bytes from the ``Pipeline`` to a ``Link`` and back: calls of one tick of the event loop leave in one write.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import hiredis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .._protocol.commands import Command
from .._protocol.durability import Durability
from .failures import hinted, is_final
from .link import Link
from .options import Options
from .pipeline import Call, OutOfStepError, Pipeline

logger = logging.getLogger("redis_botsession")

#: Seconds between attempts to connect: the first is made at once, the delays grow up to the cap, with jitter.
BACKOFF = ExponentialWithJitterBackoff(base=0.02, cap=1.0)
#: Seconds that a transport gets to close in good order.
CLOSING = 1.0

#: Seconds without a byte while replies are due, after which a server that is none of ours any more is not waited for.
_SUSPICIOUS = 0.2

#: Seconds between two looks at deadlines, at least.
_TICK = 0.005

#: Replies after which a connection is given up for another one.
RETIRE_ON: Final[tuple[type[Exception], ...]] = (BusyLoadingError,)

#: Gives a redis-py asyncio connection that is connected.
Connect = Callable[[], Awaitable[Any]]


class Dispatcher(Protocol):
    """Knows more servers than the one a connection leads to."""

    def stray(self, call: Call, error: Exception) -> None:
        """Takes a call that this server does not serve, or that it has not got when it was left."""
        ...

    def troubled(self, error: Exception) -> None:
        """A connection was lost, or cannot be made: whoever knows that the server is to be left, leaves it."""
        ...


class PipelinedConnection:
    """One connection at a time to one server, for many callers.

    It connects when there is something to send. Belongs to the event loop in which it is made.

    Args:
        connect: Gives a redis-py asyncio connection that is connected.
        address: Where it leads to, for messages.
        options: Those of the store: ``timeout``, ``silence`` and ``max_in_flight``.
        durability: What has to vouch for each write.
        dispatcher: Gets the calls that this server does not serve. None: they get its error.
        retire_on: Replies after which it is given up for another one.
    """

    def __init__(
        self,
        connect: Connect,
        address: str,
        options: Options,
        *,
        durability: Durability | None = None,
        dispatcher: Dispatcher | None = None,
        retire_on: tuple[type[Exception], ...] = RETIRE_ON,
    ) -> None:
        self._open = connect
        self._address = address
        self._timeout = timeout = options.timeout
        self._silence = silence = options.silence
        self._durability = durability
        self._dispatcher = dispatcher
        self._is_tls = options.target.is_tls
        self._loop = asyncio.get_running_loop()
        self._pipeline = Pipeline(
            max_in_flight=options.max_in_flight,
            durability=durability,
            retire_on=retire_on,
            stray=None if dispatcher is None else dispatcher.stray,
        )
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None
        self._failing_since: float | None = None
        # Since the last reply that was one.
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        # From any moment on, nothing falls due sooner than after so many seconds.
        self._soonest = timeout if silence is None else min(timeout, silence)
        self._is_flush_due = False
        self._is_closed = False
        # Which server is meant: how often one was left.
        self._epoch = 0
        # Of this tick of the event loop; and when a byte last came while replies were due.
        self._now = 0.0
        self._heard = 0.0

    @property
    def is_stuck(self) -> bool:
        """Whether calls wait for it to be made."""
        return self._link is None and self._pipeline.has_line

    def call(self, command: Command[Any]) -> asyncio.Future[Any]:
        """Sends a command at the end of this tick. The reply, or the error, is the future's; it may be cancelled."""
        promise = self._loop.create_future()
        if not self._is_flush_due:
            self._is_flush_due = True
            self._now = self._loop.time()
            self._loop.call_soon(self._flush)
        self._pipeline.submit(Call(command, promise, self._now + self._timeout))
        return promise

    def submit(self, call: Call) -> None:
        """Sends a call that was made elsewhere."""
        self._pipeline.submit(call)
        if self._is_closed:
            self._pipeline.refuse(RedisConnectionError(f"{self._address}: closed by aclose()"))
            return
        self._schedule_flush()
        # It is older than what comes here first.
        if self._timer is not None and call.deadline < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(call.deadline, self._on_time)

    def pending(self) -> list[asyncio.Future[Any]]:
        """Those that still wait for a reply."""
        return self._pipeline.pending()  # type: ignore[return-value] # the promises made by call() are futures

    def leave(self, error: Exception, *, at_once: bool) -> None:
        """The server is none of ours any more. What was not sent goes to another one.

        Args:
            error: Why.
            at_once: Whether to wait for no reply. If not, those that are due from a server that is not silent are waited for.
        """
        if self._connecting is not None and self._connecting is asyncio.current_task():
            # It is this one that has found out.
            return
        is_silent = self._loop.time() > self._heard + _SUSPICIOUS
        if self._link is not None and (at_once or is_silent or not self._pipeline.is_waiting):
            self._drop(error)
        self._epoch += 1
        if self._connecting is not None:
            self._connecting.cancel()
        if self._dispatcher is not None:
            self._pipeline.scatter(error)

    async def aclose(self, *, wait: bool = True) -> None:
        """Waits for what is in flight, at most until its deadlines, then closes. No call may come afterwards."""
        try:
            if wait and (pending := self.pending()):
                await asyncio.wait(pending)
        finally:
            self._is_closed = True
            link, self._link = self._link, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._connecting is not None:
                self._connecting.cancel()
            # There is something left only where this was cancelled.
            closed = RedisConnectionError(f"{self._address}: closed by aclose()")
            self._pipeline.lost(closed)
            self._pipeline.refuse(closed)
            if link is not None:
                link.transport.close()
            try:
                if self._connecting is not None:
                    await asyncio.wait([self._connecting])
                if link is not None:
                    await asyncio.wait([link.closed], timeout=CLOSING)
            finally:
                if link is not None:
                    link.transport.abort()

    # --- writing

    def _flush(self) -> None:
        self._is_flush_due = False
        link, pipeline = self._link, self._pipeline
        if not pipeline.has_line:
            return
        if self._timer is None:
            due = pipeline.next_deadline() or math.inf
            self._timer = self._loop.call_at(min(due, self._now + self._soonest), self._on_time)
        if link is None:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
                # Not in the task: one that is cancelled before it begins does nothing.
                self._connecting.add_done_callback(self._connecting_ended)
            return
        if not pipeline.is_waiting:
            self._heard = self._now
        while not link.is_paused and (data := pipeline.take()):
            link.transport.write(data)

    def _schedule_flush(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._now = self._loop.time()
            self._loop.call_soon(self._flush)

    # --- what the link tells

    def received(self, link: Link, data: bytes) -> None:
        if link is not self._link:
            return
        self._heard = self._loop.time()
        pipeline = self._pipeline
        try:
            pipeline.receive(data)
        except (OutOfStepError, hiredis.ProtocolError) as error:
            self._drop(error if isinstance(error, OutOfStepError) else RedisConnectionError(f"{self._address}: {error}"))
        else:
            if not pipeline.is_retiring:
                self._failures = 0
            elif not pipeline.is_waiting:
                # One that is no better must not be asked again and again without a pause.
                self._failures += 1
                self._drop(RedisConnectionError(f"{self._address}: given up"))
                return
            if pipeline.has_line:
                self._schedule_flush()

    def writable(self, link: Link) -> None:
        if link is self._link:
            self._schedule_flush()

    def gone(self, link: Link, error: Exception | None) -> None:
        if link is self._link:
            self._drop(RedisConnectionError(f"{self._address}: {error or 'the server closed the connection'}"))

    def _drop(self, error: Exception) -> None:
        link, self._link = self._link, None
        if link is not None:
            if self._pipeline.is_waiting or isinstance(error, OutOfStepError):
                logger.warning("connection lost: %s", error)
                if self._dispatcher is not None:
                    self._dispatcher.troubled(error)
            link.transport.abort()
        self._pipeline.lost(error)
        if self._pipeline.has_line:
            self._schedule_flush()

    # --- time

    def _on_time(self) -> None:
        now = self._loop.time()
        pipeline, silence = self._pipeline, self._silence
        was_connected = self._link is not None
        if silence is not None and pipeline.is_waiting and now >= self._heard + silence:
            self._drop(RedisTimeoutError(f"{self._address}: silent for {silence:g} s while replies were due"))
        trouble = self._trouble
        if not was_connected and trouble is None and pipeline.refusal is None:
            trouble = self._not_connected()
        pipeline.expire(now, self._timeout, trouble)
        if not pipeline.has_line and not pipeline.is_waiting:
            self._timer = None
            return
        due = pipeline.next_deadline()
        if silence is not None and pipeline.is_waiting:
            due = min(due or math.inf, self._heard + silence)
        # Calls that come until then are due no sooner than this.
        soonest = now + self._soonest
        due = soonest if due is None else min(due, soonest)
        self._timer = self._loop.call_at(max(due, now + _TICK), self._on_time)

    # --- connecting

    async def _connect(self) -> None:
        epoch = self._epoch
        if self._failures:
            await asyncio.sleep(BACKOFF.compute(self._failures))
        while self._pipeline.has_line:
            try:
                link = await self._make_link()
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                if is_final(error):
                    self._pipeline.refuse(error)
                    return
                if self._failing_since is None:
                    self._failing_since = self._loop.time()
                    logger.warning("cannot connect to %s, trying again: %s", self._address, error)
                if self._dispatcher is not None:
                    self._dispatcher.troubled(error)
                self._trouble = error
                self._failures += 1
                await asyncio.sleep(BACKOFF.compute(self._failures))
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
                if self._dispatcher is not None:
                    self._dispatcher.troubled(error)
                self._pipeline.refuse(error)
                return
            else:
                if self._failing_since is not None:
                    logger.info("connected to %s again after %.2f s", self._address, self._loop.time() - self._failing_since)
                    self._failing_since = None
                self._trouble = None
                self._connected(link, epoch)
                return

    async def _make_link(self) -> Link:
        try:
            async with asyncio.timeout(self._timeout):
                return await Link.open(await self._open(), self, self._durability)
        except TimeoutError as error:
            raise self._not_connected() from error

    def _not_connected(self) -> RedisTimeoutError:
        error = RedisTimeoutError(f"cannot connect to {self._address} within {self._timeout:g} s")
        return hinted(error, {}, is_tls=self._is_tls)

    def _connected(self, link: Link, epoch: int) -> None:
        if self._is_closed or epoch != self._epoch:
            # Python 3.11 can lose the cancellation of redis-py's connecting.
            link.transport.abort()
            return
        self._link = link
        self._pipeline.connected(link.rest)

    def _connecting_ended(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if self._pipeline.has_line:
            self._schedule_flush()
