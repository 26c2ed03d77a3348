"""A TCP proxy in front of a server, that loses what it is told to lose."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Forwards to the server at ``url``; listens on a free port of 127.0.0.1.

    Attributes:
        url: Where to connect instead.
        lose_replies: How many of the next replies are lost: the server gets the command, the client a closed connection.
        needle: Only replies to commands that contain these bytes are lost.
    """

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._host, self._port, self._path = target.hostname, target.port, target.path
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.lose_replies = 0
        self.needle = b""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}{self._path}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        try:
            while request := await reader.read(1 << 20):
                server_writer.write(request)
                # One reply to each request: the clients under test wait for it.
                reply = await server_reader.read(1 << 20)
                if self.lose_replies and self.needle in request:
                    self.lose_replies -= 1
                    return
                writer.write(reply)
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()
            server_writer.close()
