"""What may go wrong with a stream of replies: a proxy that does it, and a pipeline with a planted bug."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from redis_botsession.pipeline import Call, Pipeline, Promise

READ_SIZE = 1 << 20
#: The last reply before the connection is the client's: nothing is added or lost earlier.
HANDSHAKE_END = b"+PONG\r\n"
#: What makes a reply too many or too few.
MISCOUNTS = ("surplus", "duplicate", "swallow")
PUSHES = (
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n",
    b">3\r\n+message\r\n$7\r\nchannel\r\n%1\r\n+n\r\n:1\r\n",
)


@dataclass(frozen=True)
class Faults:
    """How likely is what, from 0 to 1: of replies, or of what is forwarded at once.

    Attributes:
        split: What is there to forward comes in pieces, some of one byte.
        delay: It comes late, ...
        longest_delay: ... by so many seconds at most.
        push: A push message precedes a reply; for RESP3.
        surplus: An earlier reply comes once more before a reply.
        duplicate: A reply comes twice.
        swallow: A reply never comes. Of these three, there is one at most on a connection.
        garbage: What is no reply precedes a reply.
        cut: The connection is lost after requests were forwarded.
        refuse: A new connection is closed at once.
    """

    split: float = 0.0
    delay: float = 0.0
    longest_delay: float = 0.003
    push: float = 0.0
    surplus: float = 0.0
    duplicate: float = 0.0
    swallow: float = 0.0
    garbage: float = 0.0
    cut: float = 0.0
    refuse: float = 0.0


class FaultProxy:
    """Forwards to the server at ``url``, both ways at once; listens on a free port of 127.0.0.1.

    Attributes:
        url: Where to connect instead.
        faults: How likely is what; may be changed at any time.
        made: How many of each there were.
        connections: How many were accepted.
    """

    def __init__(self, url: str, seed: object, faults: Faults | None = None) -> None:
        target = urlsplit(url)
        self._host, self._port, self._path = target.hostname, target.port, target.path
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._dice = random.Random(str(seed))  # noqa: S311 - a test that can be repeated
        self.url = ""
        self.faults = faults or Faults()
        self.made: Counter[str] = Counter()
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
        if self._draw("refuse"):
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
            ways = [
                asyncio.ensure_future(self._forward_requests(reader, server_writer)),
                asyncio.ensure_future(self._forward_replies(server_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                # What was forwarded still reaches the server.
                server_writer.close()
        except asyncio.CancelledError:
            return
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _forward_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while requests := await reader.read(READ_SIZE):
            writer.write(requests)
            if self._draw("cut"):
                return
            await writer.drain()

    async def _forward_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        earlier: deque[bytes] = deque(maxlen=16)
        is_connecting, is_in_step = True, True
        while data := await reader.read(READ_SIZE):
            received += data
            forwarded = []
            start = 0
            while end := end_of_reply(received, start):
                reply = bytes(received[start:end])
                start = end
                if is_connecting:
                    is_connecting = reply != HANDSHAKE_END
                    forwarded.append(reply)
                else:
                    # Only once: a reply too many makes up for one too few.
                    fault = self._draw("push", "garbage", *(MISCOUNTS if is_in_step else ()))
                    is_in_step = is_in_step and fault not in MISCOUNTS
                    forwarded.append(self._tampered(reply, fault, earlier))
                    earlier.append(reply)
            del received[:start]
            await self._send(b"".join(forwarded), writer)

    def _tampered(self, reply: bytes, fault: str | None, earlier: Sequence[bytes]) -> bytes:
        match fault:
            case "push":
                return self._dice.choice(PUSHES) + reply
            case "garbage":
                return b"\x00" + self._dice.randbytes(3) + b"\r\n" + reply
            case "surplus":
                return self._dice.choice((*earlier, b"*0\r\n")) + reply
            case "duplicate":
                return reply * 2
            case "swallow":
                return b""
        return reply

    async def _send(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self._draw("delay"):
            await asyncio.sleep(self._dice.random() * self.faults.longest_delay)
        for piece in self._pieces(data) if len(data) > 1 and self._draw("split") else (data,):
            writer.write(piece)
            await writer.drain()
            # The client, in this loop, sees the piece in the next tick, after those who have waited longer.
            for _ in range(2):
                await asyncio.sleep(0)

    def _pieces(self, data: bytes) -> list[bytes]:
        dice = self._dice
        if dice.random() < 0.2:
            edges = list(range(1, min(len(data), 40)))
        else:
            edges = sorted({dice.randrange(1, len(data)) for _ in range(dice.randint(1, 5))})
        return [data[start:end] for start, end in pairwise((0, *edges, len(data)))]

    def _draw(self, *kinds: str) -> str | None:
        """One of ``kinds``, or none of them."""
        roll = self._dice.random()
        for kind in kinds:
            roll -= getattr(self.faults, kind)
            if roll < 0:
                self.made[kind] += 1
                return kind
        return None


def end_of_reply(data: bytes | bytearray, start: int) -> int:
    """Where the reply that begins at ``start`` ends; 0 if it is not all there."""
    position, missing = start, 1
    while missing:
        end = data.find(b"\r\n", position)
        if end < 0:
            return 0
        kind, size = data[position], data[position + 1 : end]
        position = end + 2
        missing -= 1
        if kind in b"$=!":
            position += int(size) + 2 if int(size) >= 0 else 0
        elif kind in b"*~>":
            missing += max(int(size), 0)
        elif kind in b"%|":
            # What attributes are about comes after them.
            missing += 2 * int(size) + (kind == ord("|"))
    return position if position <= len(data) else 0


class ShiftingPipeline(Pipeline):
    """With the bug that gave users the chats of others: once a caller is cancelled, its slot is the next caller's.

    The fences see nothing of it: they count the slots that there were.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.callers: deque[Promise] = deque()
        self.is_taking = False

    def submit(self, call: Call) -> None:
        self.callers.append(call.promise)
        call.promise = _Slot(self, call.promise)
        super().submit(call)

    def take(self) -> bytes:
        self.is_taking = True
        try:
            return super().take()
        finally:
            self.is_taking = False

    def pending(self) -> list[Promise]:
        return [caller for caller in self.callers if not caller.done()]

    def answer(self, give: Callable[[Promise], None]) -> None:
        """Gives something to whoever waits longest."""
        while self.callers:
            caller = self.callers.popleft()
            if not caller.done():
                give(caller)
                return


class _Slot:
    def __init__(self, pipeline: ShiftingPipeline, caller: Promise) -> None:
        self._pipeline = pipeline
        self._caller = caller

    def done(self) -> bool:
        # What is cancelled before it was sent is not sent.
        return self._pipeline.is_taking and self._caller.done()

    def set_result(self, result: Any, /) -> None:
        self._pipeline.answer(lambda caller: caller.set_result(result))

    def set_exception(self, exception: BaseException, /) -> None:
        self._pipeline.answer(lambda caller: caller.set_exception(exception))
