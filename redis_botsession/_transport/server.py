"""Runs commands on pipelined connections to one server."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar
from weakref import WeakSet

from redis.asyncio.connection import Connection

from .._protocol.commands import Command
from .._protocol.durability import Durability, durability_of
from .client import connect
from .connection import Connect, Dispatcher, PipelinedConnection, Settings
from .executor import Executor, Guard
from .options import HostPort, Target, checked

T = TypeVar("T")
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """How a server is connected to.

    Attributes:
        connections: How many connections, and as many again for durable writes; made when they are needed.
        settings: How they are used.
        durability: What has to vouch for each write; None: nothing.
        kind: The class of redis-py's asyncio connections.
        options: What that is made with.
    """

    connections: int
    settings: Settings
    durability: Durability | None
    kind: Callable[..., Any]
    # There may be a password in them.
    options: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, options: Mapping[str, Any], **settings: Any) -> Self:
        """From the options of ``SessionStore.from_url``, those in the URL included.

        Raises:
            TypeError: an option that does not exist.
            ValueError: a number that is out of range, or ``decode_responses``.
        """
        left = dict(options)
        timeout = _positive(left, "timeout", float)
        connections = _positive(left, "max_connections", int)
        max_in_flight = _positive(left, "max_in_flight", int)
        replicas, fsync = left.pop("replicas"), left.pop("fsync")
        if isinstance(replicas, str):
            replicas = int(replicas) if replicas.isdecimal() else -1
        if isinstance(fsync, str):
            fsync = fsync.lower() in {"1", "true", "yes", "on"}
        durability = durability_of(replicas, fsync, _positive(left, "wait_timeout", float))
        if left.get("decode_responses"):
            raise ValueError("decode_responses=True: sessions hold bytes that are not text; leave it out")
        kind = left.pop("connection_class", Connection)
        silence = checked(kind, left).socket_timeout
        if durability is not None:
            durability.check_within(timeout if silence is None else min(silence, timeout))
        return cls(
            connections=connections,
            settings=Settings(timeout=timeout, silence=silence, max_in_flight=max_in_flight, **settings),
            durability=durability,
            kind=kind,
            options=left,
        )

    async def connect(self, **address: Any) -> Any:
        """A redis-py connection that is connected; ``address`` wins over ``options``."""
        connection = self.kind(**{**self.options, **address})
        await connect(connection)
        return connection


class Lanes:
    """The connections to one server. All commands of one user of the same kind go over one of them, in order.

    Durable writes have connections of their own: WAIT blocks the connection, and reads would wait behind it.
    """

    def __init__(self, wiring: Wiring, connect: Connect, address: str, dispatcher: Dispatcher | None = None) -> None:
        make = partial(PipelinedConnection, connect, address, wiring.settings, dispatcher=dispatcher)
        self._count = wiring.connections
        self._plain = [make() for _ in range(self._count)]
        durable = wiring.durability
        self._durable = [make(durability=durable) for _ in range(self._count)] if durable else self._plain
        self.all = self._plain if durable is None else self._plain + self._durable

    def of(self, command: Command[Any]) -> PipelinedConnection:
        """The one for a command."""
        return (self._durable if command.is_durable else self._plain)[command.slot % self._count]


class Pipelined(ABC):
    """Runs commands on pipelined connections, wherever they lead to."""

    def __init__(self) -> None:
        self._guard = Guard()
        # Those that ``listen`` has given and that may have to be left; others have them.
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
    async def listen(self) -> Any: ...

    @abstractmethod
    async def aclose(self) -> None: ...

    def _listen_only_to(self, servers: Container[HostPort | None]) -> None:
        """Ends the connections that listen to other servers, where nothing may be heard any more."""
        for connection in list(self._listening):
            if (connection.host, connection.port) not in servers and connection.is_connected:
                # There is no public way to the transport, and no other way that does not wait.
                connection._writer.transport.abort()

    @abstractmethod
    def _call(self, command: Command[Any]) -> asyncio.Future[Any]: ...


class PipelinedExecutor(Pipelined):
    """Runs commands on a few connections to one server, which all callers share.

    Args:
        wiring: How it is connected to.
        address: Where it is, for messages.
    """

    def __init__(self, wiring: Wiring, address: str) -> None:
        super().__init__()
        self._wiring = wiring
        self._address = address
        self._lanes: Lanes | None = None

    @classmethod
    def from_target(cls, target: Target, options: Mapping[str, Any]) -> Self:
        """An executor for ``redis://``, ``rediss://`` and ``unix://``.

        Args:
            target: What the URL says; that wins over ``options``.
            options: All that ``Wiring.of`` takes.

        Raises:
            TypeError: an option that does not exist.
            ValueError: a number that is out of range, or ``decode_responses``.
        """
        wiring = Wiring.of({**options, **target.options})
        where = wiring.options
        return cls(wiring, where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}")

    async def primaries(self) -> Sequence[Executor]:
        return [self]

    async def listen(self) -> Any:
        self._enter()
        return await self._connect()

    async def aclose(self) -> None:
        self._guard.close()
        if self._lanes is not None:
            await asyncio.gather(*(connection.aclose() for connection in self._lanes.all))

    def _call(self, command: Command[Any]) -> asyncio.Future[Any]:
        lanes = self._lanes
        if lanes is None or asyncio._get_running_loop() is not self._guard.loop:
            lanes = self._enter()
        return lanes.of(command).call(command)

    def _enter(self) -> Lanes:
        if self._guard.enter() or self._lanes is None:
            self._lanes = Lanes(self._wiring, self._connect, self._address)
            self._begin()
        return self._lanes

    def _begin(self) -> None:
        """At the first use."""

    async def _connect(self) -> Any:
        return await self._wiring.connect()


def _forget(promise: asyncio.Future[Any]) -> None:
    """Nobody waits for this one any more: that is no "exception was never retrieved"."""
    if not promise.cancelled():
        promise.exception()


def _positive(options: dict[str, Any], name: str, kind: type[N]) -> N:
    value = options.pop(name)
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = kind(0)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive {kind.__name__}, not {value!r}")
    return number
