"""Runs commands on a redis-py asyncio client."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

import redis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .._protocol.commands import Argument, Command, outcome_unknown
from .._protocol.durability import Durability, unproven
from .._protocol.replies import error_of, naming_key
from .executor import Executor, Guard, PubSubConnection
from .options import MAX_CONCURRENCY

T = TypeVar("T")


class Connection(Protocol):
    """A redis-py connection, for asyncio or behind the same interface."""

    def pack_commands(self, requests: Sequence[tuple[Argument, ...]], /) -> Any: ...

    async def send_packed_command(self, packed: Any, /) -> None: ...

    async def read_response(self, *, disable_decoding: bool) -> Any: ...

    async def disconnect(self, *, nowait: bool = False) -> None: ...


class Pool(Protocol):
    """A pool of connections."""

    async def get_connection(self) -> Any: ...

    async def release(self, connection: Any, /) -> None: ...


class Slots(Protocol):
    """Bounds how many connections are used at once: each round trip holds one slot."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    async def take_all(self) -> None:
        """Waits until all slots are free, and keeps them."""
        ...


class TaskSlots(asyncio.Semaphore):
    """The slots of a store on asyncio."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._count = count

    async def take_all(self) -> None:
        for _ in range(self._count):
            await self.acquire()


class PooledExecutor(ABC):
    """Runs commands on the connections of a redis-py client.

    The client is used for what it knows (addresses, TLS, AUTH, database, its connections), not for its ``execute_command``:
    that sends a command again, by default ten times, when a connection is lost, and a write may then be applied ten times.

    Args:
        client: A client that has been checked.
        durability: What each write waits for; None: nothing.
        pool: Where its connections come from.
        slots: As many as connections may be used at once. Callers beyond wait in order; none gets "Too many connections".
        guard: Where the store may be used.

    Raises:
        ValueError: the client waits for replies no longer than the server waits for replicas and disks.
    """

    def __init__(self, client: Any, durability: Durability | None, *, pool: Pool, slots: Slots, guard: Guard) -> None:
        silence = client.connection_pool.connection_kwargs.get("socket_timeout")
        if durability is not None and silence is not None:
            durability.check_within(silence)
        self._client = client
        self._durability = durability
        self._pool, self._slots, self._guard = pool, slots, guard

    async def run(self, command: Command[T]) -> T:
        (result,) = await self.run_many((command,))
        return result  # type: ignore[no-any-return] # a list of one: what this command's parse gives

    async def run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        self._guard.enter()
        async with self._slots:
            replies = await self._send(commands, [command.args for command in commands])
            unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError) and commands[n].script]
            if unknown:
                missing = [commands[n] for n in unknown]
                again = await self._send(missing, [command.with_source().args for command in missing])
                for n, reply in zip(unknown, again, strict=True):
                    replies[n] = reply
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception):
                raise naming_key(reply, command.key)
        return [command.parse(reply) for command, reply in zip(commands, replies, strict=True)]

    async def primaries(self) -> Sequence[Executor]:
        return [self]

    @abstractmethod
    async def listen(self) -> PubSubConnection | None: ...

    async def aclose(self) -> None:
        if self._guard.close():
            await self._slots.take_all()

    async def _send(self, commands: Sequence[Command[Any]], requests: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Makes one round trip; returns its replies, errors too. Resends once after a lost connection, if all may be resent."""
        may_resend = all(command.resend for command in commands)
        durability = self._durability if any(command.is_durable for command in commands) else None
        if durability is not None:
            requests = [*requests, durability.request()]
        pool = self._pool
        cancellations = _cancellations()
        for is_last in (False, True):
            # Outside of the try: if this fails, nothing was sent, and its errors reach the caller unchanged.
            connection = await pool.get_connection()
            try:
                replies = await _exchange(connection, requests, cancellations)
                return replies if durability is None else _proven(durability, commands, replies)
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                if _is_reply(error):
                    raise
                if not may_resend:
                    raise outcome_unknown(next(command for command in commands if not command.resend), error) from error
                if is_last:
                    raise
            finally:
                await pool.release(connection)
        raise AssertionError("unreachable")


class ClientExecutor(PooledExecutor):
    """Runs commands on a redis-py asyncio client.

    Args:
        client: A ``redis.asyncio.Redis`` (``Sentinel.master_for`` gives one, too) or fakeredis's ``FakeAsyncRedis``.
        durability: What each write waits for; None: nothing.
        max_concurrency: Connections used at once; default: 32, or the size of the client's pool if that is less.

    Raises:
        TypeError: the client is a synchronous one, or none at all.
        ValueError: the client decodes replies, or waits for them no longer than the server waits for replicas and disks.
    """

    def __init__(self, client: Any, durability: Durability | None = None, *, max_concurrency: int = MAX_CONCURRENCY) -> None:
        if isinstance(client, redis.Redis | redis.RedisCluster):
            raise TypeError(
                f"{type(client).__name__} is a synchronous client; SessionStore needs redis.asyncio.Redis (or "
                "SessionStore.from_url). For synchronous code there is redis_botsession.sync.SessionStore"
            )
        if not isinstance(client, redis.asyncio.Redis):
            raise no_client("redis.asyncio.Redis", client)
        check_encoding(client)
        slots = TaskSlots(min(max_concurrency, client.connection_pool.max_connections))
        super().__init__(client, durability, pool=client.connection_pool, slots=slots, guard=Guard())

    async def listen(self) -> PubSubConnection:
        self._guard.enter()
        # Not one from the pool: it would be missing there.
        connection: PubSubConnection = self._client.connection_pool.make_connection()
        await connect(connection)
        return connection


async def connect(connection: Any) -> None:
    """Opens a redis-py connection; closes it if that fails."""
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


async def _exchange(connection: Connection, requests: Sequence[tuple[Argument, ...]], cancellations: int) -> list[Any]:
    replies: list[Any] = []
    try:
        _raise_if_cancelled(cancellations)
        await connection.send_packed_command(connection.pack_commands(requests))
        _raise_if_cancelled(cancellations)
        for _ in requests:
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error_of(error))
    except BaseException:
        # Lost, cancelled, or interrupted by a signal (whose handler may raise an error that looks like a lost connection,
        # TimeoutError for one): a reply may still arrive, so the connection must not be used again.
        await connection.disconnect(nowait=True)
        raise
    if any(isinstance(reply, ReadOnlyError) for reply in replies):
        # Behind Sentinel the next connection leads to the new primary; on 6.2 redis-py does not notice.
        await connection.disconnect()
    return replies


def _proven(durability: Durability, commands: Sequence[Command[Any]], replies: list[Any]) -> list[Any]:
    *answers, proof = replies
    if shortfall := durability.shortfall(proof):
        for n, (command, answer) in enumerate(zip(commands, answers, strict=True)):
            if command.is_durable and not isinstance(answer, Exception):
                answers[n] = unproven(command, answer, shortfall, proof) or answer
    return answers


def _cancellations() -> int:
    """Returns how many cancellations of this task were requested; 0 without a task."""
    if asyncio._get_running_loop() is None:
        return 0
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _raise_if_cancelled(before: int) -> None:
    # redis-py sends within asyncio.wait_for, which before Python 3.12 loses a cancellation that comes as the sending is done
    # (https://github.com/python/cpython/issues/86296).
    if _cancellations() > before:
        raise asyncio.CancelledError


def _is_reply(error: Exception) -> bool:
    """Returns whether a ConnectionError is a reply (LOADING, NOAUTH): redis-py has subclasses for these."""
    return isinstance(error, RedisConnectionError) and type(error) is not RedisConnectionError


def check_encoding(client: Any) -> None:
    """Raises ``ValueError`` for a client that decodes replies."""
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ValueError(
            "the client has decode_responses=True, but sessions hold bytes that are not text; "
            "give SessionStore a client without it"
        )


def no_client(wanted: str, given: Any) -> TypeError:
    """Returns the error for an argument that is not a client of the wanted kind."""
    if isinstance(given, str | bytes):
        return TypeError("SessionStore takes a client; for a URL use SessionStore.from_url")
    return TypeError(f"SessionStore needs a {wanted}, not {type(given).__name__}")
