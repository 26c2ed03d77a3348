"""A proxy that damages streams of replies (splits, delays, cuts, loses), and a pipeline with a planted bug."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from redis_botsession._transport.reply_matching import Call, Pipeline, Promise

from .proxy import READ_SIZE, Passage, Proxy

#: The last reply before the connection is the client's: nothing is added or lost earlier.
HANDSHAKE_END = b"$5\r\nready\r\n"
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


class FaultProxy(Proxy):
    """Does to requests and replies what ``faults`` says.

    Attributes:
        faults: How likely is what; may be changed at any time.
        made: How many of each there were.
    """

    def __init__(self, url: str, seed: object, faults: Faults | None = None) -> None:
        super().__init__(url)
        self._dice = random.Random(str(seed))  # noqa: S311 - a test that can be repeated
        self.faults = faults or Faults()
        self.made: Counter[str] = Counter()

    def lets_in(self) -> bool:
        return not self._draw("refuse")

    async def forward_requests(self, passage: Passage) -> None:
        while requests := await passage.from_client.read(READ_SIZE):
            passage.to_server.write(requests)
            if self._draw("cut"):
                return
            await passage.to_server.drain()

    async def forward_replies(self, passage: Passage) -> None:
        received = bytearray()
        earlier: deque[bytes] = deque(maxlen=16)
        is_connecting, is_in_step = True, True
        while data := await passage.from_server.read(READ_SIZE):
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
            await self._send(b"".join(forwarded), passage.to_client)

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
        """Gives something to the longest waiter."""
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
