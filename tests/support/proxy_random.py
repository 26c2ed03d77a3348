"""A proxy that makes faults at random, and finds where a reply ends, so that it can add, repeat and lose whole replies."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from .proxy import READ_SIZE, ProxiedConnection, Proxy, random_pieces, write_pieces

#: The last reply while a connection is set up. The proxy adds and loses replies only after it.
HANDSHAKE_END = b"$5\r\nready\r\n"
#: The faults after which a connection has a reply too many or too few.
MISCOUNTS = ("surplus", "duplicate", "swallow")
PUSHES = (
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n",
    b">3\r\n+message\r\n$7\r\nchannel\r\n%1\r\n+n\r\n:1\r\n",
)


@dataclass(frozen=True)
class FaultRates:
    """The probability of each fault, from 0 to 1, for each reply or each chunk of data.

    Attributes:
        split: A chunk is forwarded in pieces, some of one byte.
        delay: A chunk is forwarded late.
        longest_delay: The longest delay in seconds.
        push: A push message precedes a reply; for RESP3 only.
        surplus: A copy of an earlier reply precedes a reply.
        duplicate: A reply is forwarded twice.
        swallow: A reply is not forwarded. A connection has at most one fault of these last three kinds.
        garbage: Bytes that are no reply precede a reply.
        cut: The connection is closed after requests were forwarded.
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


class RandomFaultProxy(Proxy):
    """Forwards, with faults drawn at the rates in ``faults``.

    Attributes:
        faults: The rates; may be replaced at any time.
        made: Number of faults so far, by kind.
    """

    def __init__(self, url: str, seed: object, faults: FaultRates | None = None) -> None:
        super().__init__(url)
        self._dice = random.Random(str(seed))  # noqa: S311 - a test that can be repeated
        self.faults = faults or FaultRates()
        self.made: Counter[str] = Counter()

    def accepts(self) -> bool:
        return not self._draw("refuse")

    async def forward_requests(self, connection: ProxiedConnection) -> None:
        while requests := await connection.from_client.read(READ_SIZE):
            connection.to_server.write(requests)
            if self._draw("cut"):
                return
            await connection.to_server.drain()

    async def forward_replies(self, connection: ProxiedConnection) -> None:
        received = bytearray()
        earlier: deque[bytes] = deque(maxlen=16)
        is_connecting, is_in_step = True, True
        while data := await connection.from_server.read(READ_SIZE):
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
                    # One miscount for each connection: a reply too many and a reply too few would cancel out.
                    fault = self._draw("push", "garbage", *(MISCOUNTS if is_in_step else ()))
                    is_in_step = is_in_step and fault not in MISCOUNTS
                    forwarded.append(self._tampered(reply, fault, earlier))
                    earlier.append(reply)
            del received[:start]
            await self._send(b"".join(forwarded), connection.to_client)

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
        is_split = len(data) > 1 and self._draw("split")
        await write_pieces(random_pieces(data, self._dice, crumbs=0.2) if is_split else [data], writer)

    def _draw(self, *kinds: str) -> str | None:
        """Draws at most one of ``kinds``, by their rates, and counts it."""
        roll = self._dice.random()
        for kind in kinds:
            roll -= getattr(self.faults, kind)
            if roll < 0:
                self.made[kind] += 1
                return kind
        return None


def end_of_reply(data: bytes | bytearray, start: int) -> int:
    """Returns where the reply that begins at ``start`` ends, or 0 if its end is missing."""
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
            # Attributes ("|") are followed by the reply that they describe.
            missing += 2 * int(size) + (kind == ord("|"))
    return position if position <= len(data) else 0
