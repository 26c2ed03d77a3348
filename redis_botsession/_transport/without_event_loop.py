"""Runs the asynchronous code of the stores without an event loop: where that would wait, the thread blocks.

The synchronous store thus behaves as the asynchronous one. No coroutine is ever suspended: each runs to its end in one step.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar
from weakref import WeakSet, WeakValueDictionary

import redis

from .._protocol.commands import Argument
from .._protocol.durability import Durability
from ..errors import SessionError
from .client import PooledExecutor, check_encoding, no_client
from .connection_errors import hinted
from .executor import Guard
from .options import MAX_CONCURRENCY

T = TypeVar("T")

#: Seconds that ``close`` waits for calls in flight.
DRAIN_SECONDS: Final = 5.0

_SUSPENDED: Final = "a coroutine was suspended in the synchronous store; this is a bug, please report it"


def run(awaitable: Awaitable[T]) -> T:
    """Runs an awaitable that never suspends, and returns its result."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError(_SUSPENDED)


def iterate(items: AsyncIterator[T]) -> Iterator[T]:
    """Yields the items of an asynchronous iterator that never suspends."""
    while True:
        try:
            item = run(items.__anext__())
        except StopAsyncIteration:
            return
        yield item


class BlockingExecutor(PooledExecutor):
    """Runs commands on a redis-py synchronous client, in any thread.

    Args:
        client: A ``redis.Redis``; ``Sentinel.master_for`` gives one, too.
        durability: What each write waits for; None: nothing.
        max_concurrency: Connections used at once; default: 32, or the size of the client's pool if that is less.

    Raises:
        TypeError: the client is an asynchronous one, that of a cluster, or none at all.
        ValueError: the client decodes replies, or waits for them no longer than the server waits for replicas and disks.
    """

    def __init__(self, client: Any, durability: Durability | None = None, *, max_concurrency: int = MAX_CONCURRENCY) -> None:
        if isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster):
            raise TypeError(
                f"{type(client).__name__} is an asynchronous client; redis_botsession.sync.SessionStore needs redis.Redis. "
                "For asyncio there is redis_botsession.SessionStore"
            )
        if isinstance(client, redis.RedisCluster):
            raise TypeError(
                "redis_botsession.sync.SessionStore runs on one server or behind Sentinel; "
                "for a cluster use redis_botsession.SessionStore, on asyncio"
            )
        if not isinstance(client, redis.Redis):
            raise no_client("redis.Redis", client)
        check_encoding(client)
        pool = client.connection_pool
        slots = _Slots(min(max_concurrency, pool.max_connections))
        super().__init__(client, durability, pool=_Pool(pool), slots=slots, guard=_ThreadGuard())

    async def listen(self) -> None:
        """Returns None: leases are for asyncio."""


class Turn:
    """A lock of threads with the interface of asyncio's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


# One turn at a time for each session and store. A lock lives as long as a thread holds it or waits for it.
_turns: WeakValueDictionary[tuple[int, str], Turn] = WeakValueDictionary()
_turns_lock = threading.Lock()


def turn_at(place: tuple[int, str]) -> Turn:
    """Returns the lock of one session of one store."""
    with _turns_lock:
        return _turns.setdefault(place, Turn())


_all_slots: WeakSet[_Slots] = WeakSet()


def _after_fork() -> None:
    """Renews locks and slots in the child of a fork, which has not the threads that held them."""
    global _turns, _turns_lock
    _turns, _turns_lock = WeakValueDictionary(), threading.Lock()
    for slots in list(_all_slots):
        slots.refill()


os.register_at_fork(after_in_child=_after_fork)


class _Slots:
    """The slots of a store for threads."""

    def __init__(self, count: int) -> None:
        # Not threading.Semaphore: a signal whose handler raises can leave its lock locked for ever.
        self._count = count
        self.refill()
        _all_slots.add(self)

    def refill(self) -> None:
        """Makes all slots free."""
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._count):
            self._free.put(None)

    async def take_all(self) -> None:
        """Waits until all are free, ``DRAIN_SECONDS`` seconds at most: a signal's handler that raises can lose one."""
        deadline = time.monotonic() + DRAIN_SECONDS
        with suppress(Empty):
            for _ in range(self._count):
                self._free.get(timeout=max(0, deadline - time.monotonic()))

    async def __aenter__(self) -> None:
        self._free.get()

    async def __aexit__(self, *_: object) -> None:
        self._free.put(None)


class _ThreadGuard(Guard):
    """Keeps a store closed once it is closed. redis-py's pools serve all threads, and make new connections after a fork."""

    def __init__(self) -> None:
        super().__init__()
        self._is_open = True

    def enter(self) -> bool:
        if not self._is_open:
            raise SessionError("this store is closed; make a new one")
        return False

    def close(self) -> bool:
        was_open, self._is_open = self._is_open, False
        return was_open


class _Pool:
    """A pool of synchronous redis-py connections with the interface of an asynchronous one."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def get_connection(self) -> _Connection:
        try:
            return _Connection(self._pool.get_connection())
        except redis.RedisError as error:
            is_tls = issubclass(self._pool.connection_class, redis.SSLConnection)
            hinted(error, self._pool.connection_kwargs, is_tls=is_tls)
            raise
        except BaseException:
            # Interrupted by a signal: redis-py would keep a half-open connection, without its SELECT for example, as ready.
            self._pool.disconnect(inuse_connections=False)
            raise

    async def release(self, connection: _Connection) -> None:
        self._pool.release(connection.connection)


class _Connection:
    """A synchronous redis-py connection behind the interface of the asynchronous one."""

    __slots__ = ("connection",)

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def pack_commands(self, requests: Iterable[tuple[Argument, ...]]) -> Any:
        # While it packs an int, hiredis (3.5) takes the process down if a signal's handler raises.
        return self.connection.pack_commands(
            [tuple(b"%d" % item if type(item) is int else item for item in request) for request in requests]
        )

    async def send_packed_command(self, packed: Any) -> None:
        self.connection.send_packed_command(packed)

    async def read_response(self, *, disable_decoding: bool) -> Any:
        return self.connection.read_response(disable_decoding=disable_decoding)

    async def disconnect(self, *, nowait: bool = False) -> None:
        self.connection.disconnect()
