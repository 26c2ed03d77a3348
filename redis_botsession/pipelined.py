"""Runs commands on pipelined connections."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from redis.asyncio.connection import Connection, parse_url

from .commands import Command
from .connection import PipelinedConnection
from .executors import Guard

T = TypeVar("T")
N = TypeVar("N", int, float)


class PipelinedExecutor:
    """Runs commands on a few connections, which all callers share; each user's commands go over one of them, in order.

    Args:
        make: Makes a redis-py asyncio connection, not connected yet.
        address: Where that leads to, for messages.
        connections: How many connections; made when they are needed.
        timeout: Seconds that a command may take in all, connecting and sending again included.
        silence: Seconds without a byte while replies are due, after which a connection counts as lost; None: never.
        max_in_flight: Replies that may be due at once on a connection; callers beyond wait.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        address: str,
        *,
        connections: int,
        timeout: float,
        silence: float | None,
        max_in_flight: int,
    ) -> None:
        self._connect = partial(
            PipelinedConnection, make, address, timeout=timeout, silence=silence, max_in_flight=max_in_flight
        )
        self._count = connections
        self._connections: list[PipelinedConnection] = []
        self._guard = Guard()

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> Self:
        """An executor for the server of a URL.

        Args:
            url: As ``redis.asyncio.connection.parse_url`` takes it. What it says wins over ``settings``.
            **settings: ``timeout``, ``max_connections``, ``max_in_flight``; the rest is for redis-py's connections.

        Raises:
            TypeError: a setting that does not exist.
            ValueError: not such a URL, a number that is not positive, or ``decode_responses``.
        """
        options = {**settings, **parse_url(url)}
        timeout = _positive(options, "timeout", float)
        connections = _positive(options, "max_connections", int)
        max_in_flight = _positive(options, "max_in_flight", int)
        if options.get("decode_responses"):
            raise ValueError("decode_responses=True: sessions hold bytes that are not text; leave it out")
        make = partial(options.pop("connection_class", Connection), **options)
        # Says now what redis-py does not take.
        sample = make()
        address = options.get("path") or f"{sample.host}:{sample.port}"
        return cls(
            make,
            address,
            connections=connections,
            timeout=timeout,
            silence=sample.socket_timeout,
            max_in_flight=max_in_flight,
        )

    async def run(self, command: Command[T]) -> T:
        return command.parse(await self._connection(command).call(command))

    async def run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        promises = [self._connection(command).call(command) for command in commands]
        try:
            replies = [await promise for promise in promises]
        except BaseException:
            for promise in promises:
                promise.add_done_callback(_forget)
            raise
        return [command.parse(reply) for command, reply in zip(commands, replies, strict=True)]

    async def aclose(self) -> None:
        self._guard.close()
        await asyncio.gather(*(connection.aclose() for connection in self._connections))

    def _connection(self, command: Command[Any]) -> PipelinedConnection:
        if asyncio._get_running_loop() is not self._guard.loop:
            self._enter()
        return self._connections[command.slot % self._count]

    def _enter(self) -> None:
        if self._guard.enter():
            self._connections = [self._connect() for _ in range(self._count)]


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
