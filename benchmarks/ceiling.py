"""The ceiling of the comparison: sends the bytes of this store's load and update on a bare asyncio connection.

It is what a store in Python could reach if packing, decoding and checking cost nothing: one connection, one write for all
requests of a turn of the event loop, replies parsed by hiredis and thrown away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Final, TypeVar, cast
from urllib.parse import urlsplit

import hiredis

from redis_botsession import BotSession, Codec
from redis_botsession._codec.codec import DEFAULT_MAX_BYTES
from redis_botsession._protocol.commands import Argument, Command, Commands
from redis_botsession._session.changes import Write
from redis_botsession._session.times import DEFAULT_TTL
from redis_botsession.store import DEFAULT_PREFIX

from .contender import Contender
from .workload import CHANGED_KEY, CHANNEL

T = TypeVar("T")

_NOTHING: Final = object()
#: Has as many digits as the numbers that the other contenders write.
_NUMBER: Final = 100_000


class Wire(asyncio.Protocol):
    """A connection that sends bytes and matches replies with them by their order alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Sends a packed command together with all others of this turn of the loop; error replies are results, too."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not _NOTHING:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionError("the connection was lost"))

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.close()


class Ceiling(Contender):
    """Sends the bytes of ``SessionStore.get`` and ``SessionStore.update``, prepared in advance; decodes no reply."""

    name, title, package = "ceiling", "ceiling: the same bytes on a bare socket", "hiredis"
    commands: ClassVar[Sequence[str]] = ("hgetall", "evalsha")

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        self._commands = Commands(prefix=DEFAULT_PREFIX, ttl=DEFAULT_TTL, codec=Codec(), max_bytes=DEFAULT_MAX_BYTES)
        address = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, self._wire = await loop.create_connection(Wire, address.hostname or "", address.port or 0)
        self._packed = {user: self._pack(user) for user in users}
        replace = self._commands.set(1, CHANNEL, BotSession("1", str(CHANNEL)))
        for command in (self._commands.write(1, CHANNEL, Write()), replace):
            if command.script is not None:
                _refuse_error(await self._wire.send(_packed((b"SCRIPT", b"LOAD", command.script.source))))

    async def close(self) -> None:
        self._wire.close()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        await self._run(self._commands.set(user, CHANNEL, BotSession(str(user), str(CHANNEL), data)))

    async def load(self, user: int) -> dict[str, Any] | None:
        loaded = await self._run(self._commands.load(user, CHANNEL))
        return loaded.session.data if loaded else None

    async def update(self, user: int, key: str, value: object) -> None:
        await self._run(self._commands.write(user, CHANNEL, Write(values={key: value})))

    async def cycle(self, user: int, key: str, value: object) -> None:
        get, update = self._packed[user]
        _refuse_error(await self._wire.send(get))
        _refuse_error(await self._wire.send(update))

    def _pack(self, user: int) -> tuple[bytes, bytes]:
        get = self._commands.load(user, CHANNEL)
        update = self._commands.write(user, CHANNEL, Write(values={CHANGED_KEY: _NUMBER}))
        return _packed(get.args), _packed(update.args)

    async def _run(self, command: Command[T]) -> T:
        reply = await self._wire.send(_packed(command.args))
        _refuse_error(reply)
        return command.parse(reply)


def _packed(args: Sequence[Argument]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(args))  # type: ignore[arg-type] # its stub allows one argument only
    return packed


def _refuse_error(reply: object) -> None:
    if isinstance(reply, Exception):
        raise reply
