"""A server whose replies the test decides, and replies of cluster nodes and sentinels for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis

from redis_botsession import SessionStore
from redis_botsession._transport.slot_map import SLOTS

from .pipeline_driver import encoded
from .proxy import READ_SIZE, Proxy

Request = list[bytes]
#: Timeout in seconds for tests in which no call should time out.
PATIENCE = 30.0
#: Returns the reply to a request as a Python value; an exception instance becomes an error reply.
Answer = Callable[[Request], Awaitable[Any]]


class ScriptedServer(Proxy):
    """A server that replies what ``answer`` returns, one request after the other on each connection.

    It serves by itself the commands that a store sends when it connects: HELLO, CLIENT, SCRIPT, ECHO, ROLE and SUBSCRIBE.

    Attributes:
        answer: Returns the reply to any other request.
        asked: The requests passed to ``answer``, in order.
        role: The role that it reports to ROLE.
        roles: Number of ROLE requests.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        super().__init__("redis://127.0.0.1:0/")
        self.answer = answer or empty_server
        self.asked: list[Request] = []
        self.role = b"master"
        self.roles = 0

    @property
    def address(self) -> str:
        return self.url.removeprefix("redis://").rstrip("/")

    @property
    def port(self) -> int:
        return int(self.address.partition(":")[2])

    def count(self, name: bytes) -> int:
        return sum(request[0] == name for request in self.asked)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        try:
            while data := await reader.read(READ_SIZE):
                parser.feed(data)
                for request in iter(parser.gets, False):
                    writer.write(await self._reply(request))
        except (asyncio.CancelledError, ConnectionError):
            return
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _reply(self, request: Request) -> bytes:
        match request:
            case [b"HELLO", *_]:
                return encoded({b"server": b"redis", b"version": b"7.4.0", b"proto": 3})
            case [b"CLIENT", *_]:
                return encoded("OK")
            case [b"SCRIPT", *_]:
                return encoded(b"0" * 40)
            case [b"ECHO", text]:
                return encoded(text)
            case [b"ROLE"]:
                self.roles += 1
                return encoded([self.role, 0, []])
            case [b"SUBSCRIBE", channel]:
                return encoded([b"subscribe", channel, 1])
        self.asked.append(request)
        return encoded(await self.answer(request))


async def empty_server(request: Request) -> Any:
    """Replies as a server without sessions does."""
    return "OK" if request == [b"ASKING"] else []


async def never_replies(request: Request) -> Any:
    """Leaves the request without a reply."""
    await asyncio.Event().wait()


def all_slots(primary: ScriptedServer) -> list[Any]:
    """Returns the reply to CLUSTER SLOTS of a cluster whose only node is ``primary``."""
    return [[0, SLOTS - 1, [b"127.0.0.1", primary.port, b"0" * 40]]]


class ErrorReply(Exception):
    """An error reply of a server, with its text."""


def cluster_store(node: ScriptedServer, **options: Any) -> SessionStore:
    """Returns a store on the cluster that ``node`` describes."""
    settings: dict[str, Any] = {"timeout": PATIENCE, "socket_timeout": PATIENCE, "max_connections": 1, **options}
    return SessionStore.from_url(f"redis+cluster://{node.address}/", **settings)


def sentinel_reply(primary: ScriptedServer, epoch: int, *flags: bytes) -> list[bytes]:
    """Returns a sentinel's reply about the primary, in RESP2: names and values in one list."""
    fields = {
        b"name": b"bots",
        b"ip": b"127.0.0.1",
        b"port": b"%d" % primary.port,
        b"flags": b",".join((b"master", *flags)),
        b"config-epoch": b"%d" % epoch,
    }
    return [item for field in fields.items() for item in field]
