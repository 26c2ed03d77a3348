"""A connection on asyncio that is shared by many callers, and opened again when it is lost.

It passes bytes between the ``Pipeline`` and a ``Link``. The calls of one tick of the event loop leave in one write.

Its states, and what moves it from one to the next:

    idle         no link, no call waits              -> connecting  a call is submitted
    connecting   a task opens a link, with pauses    -> open        the link is there
                                                     -> idle        the server refuses for a reason that stays (is_final)
    open         calls are sent, replies arrive      -> connecting  the link is lost, silent, or out of step, and calls wait
                                                     -> retiring    a reply is one of ``retire_on``
    retiring     nothing is sent, replies arrive     -> connecting  no reply is due any more
    closed       by ``aclose``, from any state
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
from .connection_errors import hinted, is_final
from .options import Options
from .reply_matching import Call, OutOfStepError, Pipeline
from .socket_takeover import Link

logger = logging.getLogger(__name__)

#: Seconds between attempts to connect. The first attempt has no delay; then delays grow up to the cap, with jitter.
RECONNECT_DELAYS: Final = ExponentialWithJitterBackoff(base=0.02, cap=1.0)
#: Seconds that a transport gets to close before it is aborted.
CLOSE_SECONDS: Final = 1.0

#: Seconds that a server which is being left may stay silent while replies are due; then they are no longer waited for.
SUSPICIOUS_SILENCE: Final = 0.2

#: Least seconds between two checks of deadlines.
_MIN_TIMER: Final = 0.005

#: Replies after which a connection is replaced.
RETIRE_ON: Final[tuple[type[Exception], ...]] = (BusyLoadingError,)

#: Returns an open redis-py asyncio connection.
Connect = Callable[[], Awaitable[Any]]


class Dispatcher(Protocol):
    """Routes calls to other servers than that of the connection."""

    def stray(self, call: Call, error: Exception) -> None:
        """Takes over a call that this server does not serve, or that was not sent to it before it was left."""
        ...

    def troubled(self, error: Exception) -> None:
        """Is called when a connection was lost or cannot be opened."""
        ...


class PipelinedConnection:
    """One connection at a time to one server, for many callers.

    It connects when there is something to send. It belongs to the event loop in which it was created.

    Args:
        connect: Returns an open redis-py asyncio connection.
        address: The name of the server in messages.
        options: Those of the store: ``timeout``, ``silence`` and ``max_in_flight``.
        durability: What each write waits for; None: nothing.
        dispatcher: Takes the calls that this server does not serve. None: they end with its error.
        retire_on: Replies after which the link is replaced.
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
        # Failed attempts since the last reply.
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        # Lower bound on the seconds to the next deadline of a new call.
        self._soonest = timeout if silence is None else min(timeout, silence)
        self._is_flush_due = False
        self._is_closed = False
        # Incremented when the target server changes; a link opened under an older epoch is discarded.
        self._epoch = 0
        # The time of this tick of the event loop, and of the last byte received while replies were due.
        self._now = 0.0
        self._heard = 0.0

    @property
    def is_stuck(self) -> bool:
        """Whether calls wait for the connection to open."""
        return self._link is None and self._pipeline.has_line

    def call(self, command: Command[Any]) -> asyncio.Future[Any]:
        """Sends a command at the end of this tick, and returns a future of its reply, which may be cancelled."""
        promise = self._loop.create_future()
        if not self._is_flush_due:
            self._schedule_flush()
        self._pipeline.submit(Call(command, promise, self._now + self._timeout))
        return promise

    def submit(self, call: Call) -> None:
        """Sends a call that another connection hands over."""
        self._pipeline.submit(call)
        if self._is_closed:
            self._pipeline.refuse(RedisConnectionError(f"{self._address}: closed by aclose()"))
            return
        self._schedule_flush()
        # The call may be older than all others here.
        if self._timer is not None and call.deadline < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(call.deadline, self._on_time)

    def pending(self) -> list[asyncio.Future[Any]]:
        """Returns the futures that still wait for a reply."""
        return self._pipeline.pending()  # type: ignore[return-value] # the promises made by call() are futures

    def leave(self, error: Exception, *, at_once: bool) -> None:
        """Leaves the server. Calls that were not sent go to another one.

        Args:
            error: The reason.
            at_once: Gives up all replies that are due. If False, they are waited for while the server is not silent.
        """
        if self._connecting is not None and self._connecting is asyncio.current_task():
            # The attempt to connect has itself found the new server, and goes on.
            return
        is_silent = self._loop.time() > self._heard + SUSPICIOUS_SILENCE
        if self._link is not None and (at_once or is_silent or not self._pipeline.is_waiting):
            self._drop(error)
        self._epoch += 1
        if self._connecting is not None:
            self._connecting.cancel()
        if self._dispatcher is not None:
            self._pipeline.scatter(error)

    async def aclose(self, *, wait: bool = True) -> None:
        """Waits for calls in flight, until their deadlines at most, then closes. No call may follow."""
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
            # Calls are left only if the wait was cancelled.
            closed = RedisConnectionError(f"{self._address}: closed by aclose()")
            self._pipeline.lost(closed)
            self._pipeline.refuse(closed)
            if link is not None:
                link.transport.close()
            try:
                if self._connecting is not None:
                    await asyncio.wait([self._connecting])
                if link is not None:
                    await asyncio.wait([link.closed], timeout=CLOSE_SECONDS)
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
                # A callback, since a task that is cancelled before it begins runs no code of its own.
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

    # --- events of the link

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
                # Counts as a failure, so that a server that keeps refusing is asked again only after a pause.
                self._failures += 1
                self._drop(RedisConnectionError(f"{self._address}: given up for a new connection"))
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
        # Calls that are submitted until then are due no sooner than this.
        soonest = now + self._soonest
        due = soonest if due is None else min(due, soonest)
        self._timer = self._loop.call_at(max(due, now + _MIN_TIMER), self._on_time)

    # --- connecting

    async def _connect(self) -> None:
        epoch = self._epoch
        if self._failures:
            await asyncio.sleep(RECONNECT_DELAYS.compute(self._failures))
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
                await asyncio.sleep(RECONNECT_DELAYS.compute(self._failures))
            except Exception as error:  # noqa: BLE001 - any error ends the calls that wait
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
            # On Python 3.11 redis-py can lose the cancellation while it connects.
            link.transport.abort()
            return
        self._link = link
        self._pipeline.connected(link.rest)

    def _connecting_ended(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if self._pipeline.has_line:
            self._schedule_flush()
