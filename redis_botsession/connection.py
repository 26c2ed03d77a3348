"""A pipelined connection on asyncio, made anew when it is lost.

redis-py connects (addresses, TLS, AUTH, HELLO, SELECT); then its transport is taken over, with a protocol that does nothing
but hand bytes to the ``Pipeline`` and back: calls of one tick of the event loop leave in one write.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLCertVerificationError
from typing import Any

import hiredis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .commands import BINDINGS, Command
from .pipeline import Call, OutOfStepError, Pipeline

logger = logging.getLogger("redis_botsession")

#: Seconds between attempts to connect: the first is made at once, the delays grow up to the cap, with jitter.
BACKOFF = ExponentialWithJitterBackoff(base=0.02, cap=1.0)
#: Seconds that a transport gets to close in good order.
CLOSING = 1.0

# Among what redis-py calls connection errors: what no second attempt to connect mends.
_FINAL = (AuthenticationError, AuthorizationError)


class PipelinedConnection:
    """One connection at a time to one server, for many callers.

    It connects when there is something to send. Belongs to the event loop in which it is made.

    Args:
        make: Makes a redis-py asyncio connection, not connected yet.
        address: Where it leads to, for messages.
        timeout: Seconds that a call may take in all, connecting and sending again included.
        silence: Seconds without a byte while replies are due, after which the connection counts as lost; None: never.
        max_in_flight: Replies that may be due at once; calls beyond wait.
    """

    def __init__(
        self, make: Callable[[], Any], address: str, *, timeout: float, silence: float | None, max_in_flight: int
    ) -> None:
        self._make = make
        self._address = address
        self._timeout = timeout
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._pipeline = Pipeline(max_in_flight=max_in_flight)
        self._link: _Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        # From any moment on, nothing falls due sooner than after so many seconds.
        self._soonest = timeout if silence is None else min(timeout, silence)
        self._is_flush_due = False
        self._is_closed = False
        # Of this tick of the event loop; and when a byte last came while replies were due.
        self._now = 0.0
        self._heard = 0.0

    def call(self, command: Command[Any]) -> asyncio.Future[Any]:
        """Sends a command at the end of this tick. The reply, or the error, is the future's; it may be cancelled."""
        promise = self._loop.create_future()
        if not self._is_flush_due:
            self._is_flush_due = True
            self._now = self._loop.time()
            self._loop.call_soon(self._flush)
        self._pipeline.submit(Call(command, promise, self._now + self._timeout))
        return promise

    async def aclose(self) -> None:
        """Waits for what is in flight, at most until its deadlines, then closes. No call may come afterwards."""
        try:
            if pending := self._pipeline.pending():
                await asyncio.wait(pending)  # type: ignore[type-var] # the promises made by call() are futures
        finally:
            self._is_closed = True
            link, self._link = self._link, None
            if self._timer is not None:
                self._timer.cancel()
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
            self._timer = self._loop.call_at(self._now + self._soonest, self._on_time)
        if link is None:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
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

    def received(self, link: _Link, data: bytes) -> None:
        if link is not self._link:
            return
        self._heard = self._loop.time()
        pipeline = self._pipeline
        try:
            pipeline.receive(data)
        except (OutOfStepError, hiredis.ProtocolError) as error:
            self._drop(error if isinstance(error, OutOfStepError) else RedisConnectionError(f"{self._address}: {error}"))
        else:
            if pipeline.is_retiring and not pipeline.is_waiting:
                self._drop(RedisConnectionError(f"{self._address}: given up"))
            elif pipeline.has_line:
                self._schedule_flush()

    def writable(self, link: _Link) -> None:
        if link is self._link:
            self._schedule_flush()

    def gone(self, link: _Link, error: Exception | None) -> None:
        if link is self._link:
            self._drop(RedisConnectionError(f"{self._address}: {error or 'the server closed the connection'}"))

    def _drop(self, error: Exception) -> None:
        link, self._link = self._link, None
        if link is not None:
            if self._pipeline.is_waiting or isinstance(error, OutOfStepError):
                logger.warning("connection lost: %s", error)
            link.transport.abort()
        self._pipeline.lost(error)
        if self._pipeline.has_line:
            self._schedule_flush()

    # --- time

    def _on_time(self) -> None:
        now = self._loop.time()
        pipeline, silence = self._pipeline, self._silence
        if silence is not None and pipeline.is_waiting and now >= self._heard + silence:
            self._drop(RedisTimeoutError(f"{self._address}: silent for {silence:g} s while replies were due"))
        pipeline.expire(now, self._timeout, self._trouble)
        if not pipeline.has_line and not pipeline.is_waiting:
            self._timer = None
            return
        due = pipeline.next_deadline()
        if silence is not None and pipeline.is_waiting:
            due = min(due or math.inf, self._heard + silence)
        # Calls that come until then are due no sooner than this.
        soonest = now + self._soonest
        self._timer = self._loop.call_at(soonest if due is None else min(due, soonest), self._on_time)

    # --- connecting

    async def _connect(self) -> None:
        failures = 0
        try:
            while self._pipeline.has_line:
                try:
                    link = await _Link.open(self._make(), self)
                except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                    if isinstance(error, _FINAL) or isinstance(error.__context__, SSLCertVerificationError):
                        self._pipeline.refuse(error)
                        return
                    if failures == 0:
                        logger.warning("cannot connect to %s, trying again: %s", self._address, error)
                    self._trouble = error
                    failures += 1
                    await asyncio.sleep(BACKOFF.compute(failures))
                except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
                    self._pipeline.refuse(error)
                    return
                else:
                    self._trouble = None
                    self._connected(link)
                    return
        finally:
            self._connecting = None
            if self._pipeline.has_line:
                self._schedule_flush()

    def _connected(self, link: _Link) -> None:
        if self._is_closed:
            # Python 3.11 can lose the cancellation of redis-py's connecting.
            link.transport.abort()
            return
        self._link = link
        self._pipeline.connected(link.rest)


class _Link(asyncio.Protocol):
    """The transport of a connection that redis-py has made.

    Attributes:
        rest: What came with the last of redis-py's replies.
        closed: Done when the transport is.
        is_paused: Whether the transport has enough to write.
    """

    def __init__(self, owner: PipelinedConnection, writer: asyncio.StreamWriter, rest: bytes) -> None:
        self._owner = owner
        # A StreamWriter closes its transport when it is collected.
        self._writer = writer
        self.transport: asyncio.WriteTransport = writer.transport
        self.rest = rest
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_paused = False

    @classmethod
    async def open(cls, connection: Any, owner: PipelinedConnection) -> _Link:
        """Connects, loads the scripts, and takes the transport over."""
        try:
            await connection.connect()
            requests = [("SCRIPT", "LOAD", binding.script.source) for binding in BINDINGS.values()]
            await connection.send_packed_command(connection.pack_commands([*requests, ("PING",)]))
            for _ in requests:
                with suppress(NoPermissionError):  # EVAL will load them
                    await connection.read_response()
            await connection.read_response()
            return cls._take_over(connection, owner)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    @classmethod
    def _take_over(cls, connection: Any, owner: PipelinedConnection) -> _Link:
        # There is no public way to the transport.
        reader, writer = connection._reader, connection._writer
        if writer.transport.is_closing() or reader.at_eof() or connection._parser._reader.has_data():
            raise RedisConnectionError("the connection was lost while it was made")
        connection._reader = connection._writer = None
        link = cls(owner, writer, bytes(reader._buffer))
        link.transport.set_protocol(link)
        return link

    def data_received(self, data: bytes) -> None:
        self._owner.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)
        self._owner.gone(self, exc)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._owner.writable(self)
