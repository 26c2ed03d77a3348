"""Receives published messages (https://redis.io/docs/latest/develop/pubsub/), over one connection for all channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis.exceptions import NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import SessionError
from .backoff import RESUBSCRIBE_DELAYS
from .executor import Executor, PubSubConnection

logger = logging.getLogger(__name__)

#: Seconds after which subscribing is tried again if the server has refused it: the permission may have been given.
REFUSED_PAUSE: Final = 60.0
#: Seconds for which the connection is kept without a watch.
IDLE: Final = 10.0
#: Seconds without a byte after which the server is probed; after as many again the connection counts as lost.
SILENCE: Final = 5.0


class Watch:
    """Waits for messages on a channel.

    Attributes:
        wake: Set at each message, and whenever a message may have been missed: at the beginning, when the connection was
            lost, and when it is open again.
        is_hearing: Whether every message from now on is received.
    """

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.is_hearing = False


class Listener:
    """Watches channels. Connects for the first watch, reconnects when the connection is lost, and closes it when idle.

    Args:
        executor: Opens the connection.
        prefix: The beginning of all channels.
    """

    def __init__(self, executor: Executor, prefix: str) -> None:
        self._executor = executor
        self._prefix = prefix
        # A channel without subscribers: tests the permission to publish, and whether the server answers.
        self._nowhere = f"{prefix}lock".encode("utf-8", "surrogatepass")
        self._watches: dict[bytes, Watch] = {}
        # Channels of SUBSCRIBE requests, and those of them that the server has confirmed.
        self._asked: set[bytes] = set()
        self._confirmed: set[bytes] = set()
        self._is_probe_due = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._has_complained = False
        self._is_closed = False

    @contextmanager
    def watch(self, channel: bytes) -> Iterator[Watch]:
        """Watches a channel, which must have no other watch here."""
        watch = self._watches[channel] = Watch()
        if channel in self._confirmed:
            # Still subscribed since an earlier watch. Messages since then woke no one.
            watch.is_hearing = True
            watch.wake.set()
        self._changed.set()
        if not self._is_closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._listen())
        try:
            yield watch
        finally:
            del self._watches[channel]
            self._changed.set()

    async def aclose(self) -> None:
        """Ends the connection and the task, and wakes all watches."""
        self._is_closed = True
        self._deafen()
        while self._task is not None and not self._task.done():
            self._task.cancel()
            # Repeated: before Python 3.12, asyncio.wait_for, which redis-py uses, can lose a cancellation
            # (https://github.com/python/cpython/issues/86296).
            await asyncio.wait([self._task], timeout=1)

    async def _listen(self) -> None:
        while self._watches and not self._is_closed:
            pause = REFUSED_PAUSE
            try:
                if not await self._converse():
                    return
                continue
            except SessionError:
                # The store is closed, or belongs to another event loop: the next command of a waiter raises the same.
                return
            except NoPermissionError as error:
                self._complain(
                    f"{error}; those who wait look again and again, up to once a second, until this user has "
                    f"+subscribe +unsubscribe +publish &{self._prefix}*"
                )
            except Exception as error:  # noqa: BLE001 - without messages, waiters poll
                self._complain(f"{str(error) or type(error).__name__}; trying again")
                self._failures += 1
                pause = RESUBSCRIBE_DELAYS.compute(self._failures)
            await asyncio.sleep(pause)

    def _complain(self, trouble: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.warning("cannot hear when leases under %r are given back: %s", self._prefix, trouble)

    async def _converse(self) -> bool:
        """Serves watches over one connection until it is idle; returns False if the executor has no connection for it."""
        connection = await self._executor.listen()
        if connection is None:
            return False
        try:
            # A user that may subscribe but not publish would wait for messages that are never sent.
            await connection.send_command("PUBLISH", self._nowhere, b"", check_health=False)
            await connection.read_response(disable_decoding=True)
            hearing = asyncio.get_running_loop().create_task(self._hear(connection))
            hearing.add_done_callback(lambda _: self._changed.set())
            try:
                await self._talk(connection, hearing)
            finally:
                hearing.cancel()
                await asyncio.wait([hearing])
                if not hearing.cancelled():
                    # Retrieved, so that asyncio does not log it: it was raised already, or another error was.
                    hearing.exception()
        finally:
            self._deafen()
            await connection.disconnect(nowait=True)
        return True

    async def _talk(self, connection: PubSubConnection, hearing: asyncio.Task[None]) -> None:
        """Sends SUBSCRIBE and UNSUBSCRIBE as watches begin and end."""
        while not self._is_closed:
            self._changed.clear()
            if hearing.done():
                hearing.result()
            new = self._watches.keys() - self._asked
            old = self._asked - self._watches.keys()
            requests = [(b"SUBSCRIBE", *new)] if new else []
            if old or self._is_probe_due:
                requests.append((b"UNSUBSCRIBE", *(old or {self._nowhere})))
            self._is_probe_due = False
            self._asked |= new
            self._asked -= old
            self._confirmed -= old
            if requests:
                await connection.send_packed_command(connection.pack_commands(requests), check_health=False)
            try:
                async with asyncio.timeout(None if self._watches else IDLE):
                    await self._changed.wait()
            except TimeoutError:
                if not self._watches:
                    return

    async def _hear(self, connection: PubSubConnection) -> None:
        """Reads messages and wakes watches."""
        is_probing = False
        while not self._is_closed:
            message = await connection.read_response(disable_decoding=True, timeout=SILENCE, push_request=True)
            if message is None:
                if is_probing:
                    raise RedisTimeoutError(f"silent for {2 * SILENCE:g} s")
                is_probing = self._is_probe_due = True
                self._changed.set()
                continue
            is_probing = False
            kind, channel, *_ = message
            if kind == b"subscribe" and channel in self._asked:
                self._failures = 0
                if self._has_complained:
                    self._has_complained = False
                    logger.info("hearing again when leases under %r are given back", self._prefix)
                # After a quick UNSUBSCRIBE and SUBSCRIBE, the first confirmation may belong to the earlier SUBSCRIBE. The
                # second one wakes the watch again.
                self._confirmed.add(channel)
            watch = self._watches.get(channel)
            if watch is not None and kind in (b"subscribe", b"message"):
                watch.is_hearing = channel in self._confirmed
                watch.wake.set()

    def _deafen(self) -> None:
        self._asked.clear()
        self._confirmed.clear()
        self._is_probe_due = False
        for watch in self._watches.values():
            watch.is_hearing = False
            watch.wake.set()
