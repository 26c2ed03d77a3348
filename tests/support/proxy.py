"""TCP proxies in front of a server: one that forwards, one that loses replies when a test asks for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

READ_SIZE = 1 << 20


@dataclass(eq=False)
class Passage:
    """One connection through the proxy.

    Attributes:
        is_doomed: Whether its next reply is lost, and the connection with it.
    """

    from_client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    from_server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    is_doomed: bool = False


class Proxy:
    """Forwards to the server at ``url``, both ways at once; listens on a free port of 127.0.0.1.

    Attributes:
        url: Where to connect instead.
        connections: How many were accepted.
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
        # What was being accepted is, now.
        for _ in range(5):
            await asyncio.sleep(0)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # Of those that were done before, gather (since Python 3.12) does not wait for the callbacks.
            await asyncio.sleep(0)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not in the task: one that is cancelled before it begins would leave it open.
        self._writers.add(writer)
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.lets_in():
                passage = Passage(reader, writer, *await asyncio.open_connection(self._host, self._port))
                await self._forward(passage)
        except asyncio.CancelledError:
            return
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _forward(self, passage: Passage) -> None:
        ways = [
            asyncio.ensure_future(self.forward_requests(passage)),
            asyncio.ensure_future(self.forward_replies(passage)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            # What was forwarded still reaches the server.
            passage.to_server.close()

    def lets_in(self) -> bool:
        """Whether a new connection is not closed at once."""
        return True

    async def forward_requests(self, passage: Passage) -> None:
        """Until it ends: the connection is closed then."""
        while requests := await passage.from_client.read(READ_SIZE):
            passage.to_server.write(requests)
            await passage.to_server.drain()

    async def forward_replies(self, passage: Passage) -> None:
        """Until it ends: the connection is closed then."""
        while replies := await passage.from_server.read(READ_SIZE):
            passage.to_client.write(replies)
            await passage.to_client.drain()


class LosingProxy(Proxy):
    """Loses replies: the server gets the command, the client a closed connection.

    Attributes:
        lose_replies: How many of the next replies are lost.
        needle: Only replies to commands that contain these bytes are lost.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lose_replies = 0
        self.needle = b""

    async def forward_requests(self, passage: Passage) -> None:
        while requests := await passage.from_client.read(READ_SIZE):
            if self.lose_replies and not passage.is_doomed and self.needle in requests:
                self.lose_replies -= 1
                passage.is_doomed = True
            passage.to_server.write(requests)
            await passage.to_server.drain()

    async def forward_replies(self, passage: Passage) -> None:
        while replies := await passage.from_server.read(READ_SIZE):
            if passage.is_doomed:
                return
            passage.to_client.write(replies)
            await passage.to_client.drain()
