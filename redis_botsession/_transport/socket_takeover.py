"""The transport of a connection: bytes in and out, after redis-py has connected and the scripts are loaded.

The socket is taken over from redis-py. That works on uvloop, with TLS and on unix sockets as well.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Protocol

from redis.exceptions import NoPermissionError, ResponseError

from .._protocol.durability import Durability
from .._protocol.scripts import SCRIPTS
from ..errors import SessionError
from .redispy import take_over


class Owner(Protocol):
    """Receives the events of a link."""

    def received(self, link: Link, data: bytes) -> None: ...

    def writable(self, link: Link) -> None: ...

    def gone(self, link: Link, error: Exception | None) -> None: ...


class Link(asyncio.Protocol):
    """The transport under a connection.

    Attributes:
        rest: Bytes that redis-py received and did not read.
        closed: Done when the transport is closed.
        is_paused: Whether the buffer of the transport is full.
    """

    def __init__(self, owner: Owner, writer: asyncio.StreamWriter, rest: bytes) -> None:
        self._owner = owner
        # A StreamWriter closes its transport when it is collected.
        self._writer = writer
        self.transport: asyncio.WriteTransport = writer.transport
        self.rest = rest
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_paused = False

    @classmethod
    async def open(cls, connection: Any, owner: Owner, durability: Durability | None) -> Link:
        """Loads the scripts, checks that the server supports durable writes, and takes the transport over.

        The scripts of leases are loaded at their first call.
        """
        try:
            requests = [("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values() if script.preload]
            last = ("ECHO", "ready") if durability is None else durability.request(within=0)
            await connection.send_packed_command(connection.pack_commands([*requests, last]))
            for _ in requests:
                with suppress(NoPermissionError):  # EVAL loads them
                    await connection.read_response()
            try:
                await connection.read_response()
            except ResponseError as error:
                if durability is None:
                    raise
                # A replica: it refuses each write with READONLY, which leads to the primary.
                if "replica instances" not in str(error):
                    raise _cannot_vouch(durability, error) from error
            writer, rest = take_over(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        link = cls(owner, writer, rest)
        link.transport.set_protocol(link)
        return link

    def data_received(self, data: bytes) -> None:
        self._owner.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)
        self._owner.gone(self, exc)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._owner.writable(self)


def _cannot_vouch(durability: Durability, error: ResponseError) -> SessionError:
    command = durability.request()[0]
    what = "fsync=True needs Redis 7.2 or later (or Valkey) with appendonly yes" if durability.fsync else "replicas= needs WAIT"
    return SessionError(f"this server cannot confirm writes, so none was sent: {what}; it answers to {command!r}: {error}")
