"""The protocol of executors, which run commands for a store, and the guard that keeps a store to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from .._protocol.commands import Command, Flow
from ..errors import SessionError

T = TypeVar("T")

_ELSEWHERE = (
    "this store was used in another event loop or process, and its connections belong there; "
    "make a store for each event loop, after a fork too"
)


class PubSubConnection(Protocol):
    """A redis-py asyncio connection that is connected, as far as SUBSCRIBE needs it."""

    def pack_commands(self, commands: Iterable[tuple[Any, ...]], /) -> list[bytes]: ...

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None: ...

    async def send_command(self, *args: Any, check_health: bool = True) -> None: ...

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - redis-py's own signature
        *,
        push_request: bool | None = False,
    ) -> Any: ...

    async def disconnect(self, nowait: bool = False) -> None: ...


class Executor(Protocol):
    """Runs commands for a store."""

    async def run(self, command: Command[T]) -> T:
        """Runs one command.

        Raises:
            OutcomeUnknown: the connection was lost, and the command must not be sent twice.
            redis.exceptions.RedisError: the server refuses, or cannot be reached.
        """
        ...

    async def run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Runs commands in order, in one round trip; not as a transaction. Raises what the first failing one raises."""
        ...

    async def primaries(self) -> Sequence[Executor]:
        """Returns one executor for each server with sessions, for commands that are not about one user."""
        ...

    async def listen(self) -> PubSubConnection | None:
        """Opens a connection for SUBSCRIBE, on which messages to the store's channels arrive. The caller disconnects it.

        None: leases do not work here.

        Raises:
            SessionError: the store is closed, or was used in another event loop.
            redis.exceptions.RedisError, OSError: it cannot be had now.
        """
        ...

    async def aclose(self) -> None:
        """Finishes the calls in flight, and refuses later ones."""
        ...


async def run_flow(executor: Executor, flow: Flow[T]) -> T:
    """Runs a flow, which takes several round trips, to its end."""
    results: list[Any] | None = None
    while True:
        try:
            commands = flow.send(results) if results is not None else next(flow)
        except StopIteration as done:
            result: T = done.value
            return result
        results = await executor.run_many(commands)


class Guard:
    """Keeps a store to one event loop, and keeps it closed once it is closed.

    Futures belong to the loop in which they were made; sockets must not be shared with a forked process.

    Attributes:
        loop: The event loop in which the store may be used without calling ``enter``; None while it is closed.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    def enter(self) -> bool:
        """Must be called before each use in another loop than ``loop``; returns whether this is the first use.

        Raises:
            SessionError: the store is closed, or was used in another event loop or process.
        """
        # get_running_loop() would raise in a forked process, where asyncio has no running loop.
        running = asyncio._get_running_loop()
        if self._home is not None and self._home is not running:
            raise SessionError(_ELSEWHERE)
        if self._is_closed:
            raise SessionError("this store is closed; make a new one")
        is_first = self._home is None
        self.loop = self._home = running
        return is_first

    def close(self) -> bool:
        """Refuses all later uses; returns whether the store was open.

        Raises:
            SessionError: the store was used in another event loop or process.
        """
        if self._is_closed:
            return False
        if self._home is not None:
            self.enter()
        self.loop = None
        self._is_closed = True
        return True
