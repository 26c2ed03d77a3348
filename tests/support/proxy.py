"""A TCP proxy in front of a Redis server, as a base for proxies with faults, and one that loses replies.

``proxy_steered.py`` has the proxy whose faults a test switches on and off, ``proxy_random.py`` the one whose faults are drawn
at random. ``scripted_server.py`` uses the same base to stand in for a server.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

READ_SIZE = 1 << 20
#: The most pieces of one byte that ``random_pieces`` cuts off the beginning.
MAX_CRUMBS = 40


@dataclass(eq=False)
class ProxiedConnection:
    """One connection through the proxy.

    Attributes:
        is_doomed: Whether the proxy closes the connection instead of forwarding the next reply.
    """

    from_client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    from_server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    is_doomed: bool = False


class Proxy:
    """Forwards bytes between clients and the server at ``url``; listens on a free port of 127.0.0.1.

    Attributes:
        url: Where clients connect to the proxy.
        connections: Number of connections accepted so far.
    """

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._host, self._port, self._path = target.hostname, target.port, target.path
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}{self._path}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        # Lets the event loop finish the connections that it is just accepting.
        for _ in range(5):
            await asyncio.sleep(0)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # Since Python 3.12, gather does not wait for the callbacks of tasks that were done before.
            await asyncio.sleep(0)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The writer is registered here, because a task that is cancelled before its first step could not close it.
        self._writers.add(writer)
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.accepts():
                connection = ProxiedConnection(reader, writer, *await asyncio.open_connection(self._host, self._port))
                await self._forward(connection)
        except asyncio.CancelledError:
            return
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _forward(self, connection: ProxiedConnection) -> None:
        ways = [
            asyncio.ensure_future(self.forward_requests(connection)),
            asyncio.ensure_future(self.forward_replies(connection)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            # Closed, not aborted: requests that were forwarded must still reach the server.
            connection.to_server.close()

    def accepts(self) -> bool:
        """Returns whether to forward a new connection; it is closed at once otherwise."""
        return True

    async def forward_requests(self, connection: ProxiedConnection) -> None:
        """Forwards from client to server. The proxy closes the connection when this returns."""
        while requests := await connection.from_client.read(READ_SIZE):
            connection.to_server.write(requests)
            await connection.to_server.drain()

    async def forward_replies(self, connection: ProxiedConnection) -> None:
        """Forwards from server to client. The proxy closes the connection when this returns."""
        while replies := await connection.from_server.read(READ_SIZE):
            connection.to_client.write(replies)
            await connection.to_client.drain()


class ReplyLosingProxy(Proxy):
    """Loses replies: the server runs the command, and the client finds its connection closed.

    Attributes:
        lose_replies: How many of the next replies are lost.
        needle: Only replies to commands that contain these bytes are lost.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lose_replies = 0
        self.needle = b""

    async def forward_requests(self, connection: ProxiedConnection) -> None:
        while requests := await connection.from_client.read(READ_SIZE):
            if self.lose_replies and not connection.is_doomed and self.needle in requests:
                self.lose_replies -= 1
                connection.is_doomed = True
            connection.to_server.write(requests)
            await connection.to_server.drain()

    async def forward_replies(self, connection: ProxiedConnection) -> None:
        while replies := await connection.from_server.read(READ_SIZE):
            if connection.is_doomed:
                return
            connection.to_client.write(replies)
            await connection.to_client.drain()


def random_pieces(data: bytes, dice: random.Random, crumbs: float) -> list[bytes]:
    """Cuts ``data``, of at least two bytes, into pieces.

    Args:
        data: The bytes.
        dice: Chooses the places.
        crumbs: Probability of many pieces of one byte at the beginning, instead of a few pieces of any length.
    """
    if dice.random() < crumbs:
        edges = list(range(1, min(len(data), MAX_CRUMBS)))
    else:
        edges = sorted({dice.randrange(1, len(data)) for _ in range(dice.randint(1, 5))})
    return [data[start:end] for start, end in pairwise((0, *edges, len(data)))]


async def write_pieces(pieces: Sequence[bytes], writer: asyncio.StreamWriter) -> None:
    """Writes pieces so that a client in the same event loop reads them one by one."""
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        # The client reads the piece in the next turn of the loop, after the callbacks that were scheduled earlier.
        for _ in range(2):
            await asyncio.sleep(0)
