"""Runs commands on pipelined connections to one server."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .._protocol.commands import Command
from .client import connect
from .connection import RETIRE_ON, Connect, Dispatcher, PipelinedConnection
from .connection_errors import hinted
from .executor import Executor, Guard, PubSubConnection
from .options import HostPort, Options
from .redispy import abort

T = TypeVar("T")


class ServerConnections:
    """The connections to one server. The commands of one user go over one of them, in order; durable writes over another.

    Durable writes have connections of their own: WAIT blocks the connection, and reads would wait behind it.
    """

    def __init__(
        self,
        options: Options,
        connect: Connect,
        address: str,
        *,
        dispatcher: Dispatcher | None = None,
        retire_on: tuple[type[Exception], ...] = RETIRE_ON,
    ) -> None:
        make = partial(PipelinedConnection, connect, address, options, dispatcher=dispatcher, retire_on=retire_on)
        self._count = options.max_connections
        self._plain = [make() for _ in range(self._count)]
        durable = options.durability
        self._durable = [make(durability=durable) for _ in range(self._count)] if durable else self._plain
        self.all = self._plain if durable is None else self._plain + self._durable

    def of(self, command: Command[Any]) -> PipelinedConnection:
        """Returns the connection for a command."""
        return (self._durable if command.is_durable else self._plain)[command.slot % self._count]


class PipelinedExecutor(ABC):
    """Base of the executors with pipelined connections of their own."""

    def __init__(self) -> None:
        self._guard = Guard()
        # Connections that listen() handed out. Weak references: callers own them; after a failover they are closed here.
        self._listening: WeakSet[Any] = WeakSet()

    async def run(self, command: Command[T]) -> T:
        return command.parse(await self._call(command))

    async def run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        promises = [self._call(command) for command in commands]
        try:
            replies = [await promise for promise in promises]
        except BaseException:
            for promise in promises:
                promise.add_done_callback(_forget)
            raise
        return [command.parse(reply) for command, reply in zip(commands, replies, strict=True)]

    @abstractmethod
    async def primaries(self) -> Sequence[Executor]: ...

    @abstractmethod
    async def listen(self) -> PubSubConnection: ...

    @abstractmethod
    async def aclose(self) -> None: ...

    def _listen_only_to(self, servers: Container[HostPort | None]) -> None:
        """Closes the handed-out connections to other servers, where messages may no longer arrive."""
        for connection in list(self._listening):
            if (connection.host, connection.port) not in servers and connection.is_connected:
                # At once: what redis-py offers waits for the server.
                abort(connection)

    @abstractmethod
    def _call(self, command: Command[Any]) -> asyncio.Future[Any]: ...


class ServerExecutor(PipelinedExecutor):
    """Runs commands on a few connections to one server, shared by all callers.

    Args:
        options: Those of the store.
    """

    #: Replies after which a connection is replaced.
    retire_on: tuple[type[Exception], ...] = RETIRE_ON

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self._connections: ServerConnections | None = None

    @property
    def address(self) -> str:
        """The server's name in messages."""
        where = self._options.connection_options
        return where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"

    async def primaries(self) -> Sequence[Executor]:
        return [self]

    async def listen(self) -> PubSubConnection:
        self._enter()
        connection: PubSubConnection = await self._connect()
        return connection

    async def aclose(self) -> None:
        self._guard.close()
        if self._connections is not None:
            await asyncio.gather(*(connection.aclose() for connection in self._connections.all))

    def _call(self, command: Command[Any]) -> asyncio.Future[Any]:
        connections = self._connections
        if connections is None or asyncio._get_running_loop() is not self._guard.loop:
            connections = self._enter()
        return connections.of(command).call(command)

    def _enter(self) -> ServerConnections:
        if self._guard.enter() or self._connections is None:
            self._connections = ServerConnections(self._options, self._connect, self.address, retire_on=self.retire_on)
            self._begin()
        return self._connections

    def _begin(self) -> None:
        """Runs once, in the event loop that the store then belongs to."""

    async def _connect(self) -> Any:
        return await connected(self._options)


async def connected(options: Options, **host_and_port: Any) -> Any:
    """Returns an open redis-py connection; ``host_and_port`` wins over the options."""
    where = {**options.connection_options, **host_and_port}
    connection = options.connection_class(**where)
    try:
        await connect(connection)
    except (RedisConnectionError, RedisTimeoutError) as error:
        hinted(error, where, is_tls=options.target.is_tls)
        raise
    return connection


def _forget(promise: asyncio.Future[Any]) -> None:
    """Retrieves the exception of a future without a caller, so that asyncio does not log it."""
    if not promise.cancelled():
        promise.exception()
