"""What runs commands for a store: the protocol of executors, and the guard that keeps a store to one event loop."""

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
            redis.exceptions.RedisError: what the server or the client says.
        """
        ...

    async def run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Runs commands in order, in one round trip; not as a transaction. Raises what the first failing one raises."""
        ...

    async def primaries(self) -> Sequence[Executor]:
        """One executor for each server that has sessions, for what is not about one user."""
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
        """Finishes what is in flight, refuses what comes after."""
        ...


async def run_flow(executor: Executor, flow: Flow[T]) -> T:
    """Runs what takes several round trips to its end."""
    results: list[Any] | None = None
    while True:
        try:
            commands = flow.send(results) if results is not None else next(flow)
        except StopIteration as done:
            result: T = done.value
            return result
        results = await executor.run_many(commands)


class Guard:
    """Keeps a store to one event loop, and closed once it is closed.

    Its futures belong to the loop they were made in, and the sockets of a process are not for its forks.

    Attributes:
        loop: Where the store may be used without another look: its event loop, while it is open.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    def enter(self) -> bool:
        """To be called before each use where the running loop is not ``loop``; gives whether this is the first use.

        Raises:
            SessionError: the store is closed, or was used in another event loop or process.
        """
        # Without raising: asyncio takes the loop away from the child of a fork.
        running = asyncio._get_running_loop()
        if self._home is not None and self._home is not running:
            raise SessionError(_ELSEWHERE)
        if self._is_closed:
            raise SessionError("this store is closed; make a new one")
        is_first = self._home is None
        self.loop = self._home = running
        return is_first

    def close(self) -> bool:
        """Lets nothing in any more; gives whether it did until now.

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
