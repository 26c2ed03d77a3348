"""A proxy whose faults the test steers: what is lost, held back, refused, late, or in pieces."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

from ..support.proxy import READ_SIZE, Passage, Proxy

#: One-byte pieces at the beginning of what comes in pieces, at most.
CRUMBS = 40


class SteeredProxy(Proxy):
    """Forwards bytes, and injects the faults that a test asks for.

    Attributes:
        live: The connections through it.
        delay: How likely it is that what is there to forward comes late, either way, from 0 to 1.
        longest_delay: By how many seconds, at most.
        split: How likely it is that it comes in pieces, some of one byte.
        is_refusing: Whether new connections are closed at once.
        made: How many there were of: "delay", "split", "refuse", "lose" (connections cut in a reply), "mute" (new connections
            that were mute when something came).
    """

    def __init__(self, url: str, seed: str) -> None:
        super().__init__(url)
        self._dice = random.Random(seed)  # noqa: S311 - a test that can be repeated
        self.live: set[Passage] = set()
        self.delay = self.split = 0.0
        self.longest_delay = 0.003
        self.is_refusing = False
        self.made = {"delay": 0, "split": 0, "refuse": 0, "lose": 0, "mute": 0}
        self._new_are: set[Passage] | None = None
        self._without_replies: set[Passage] = set()
        self._without_requests: set[Passage] = set()
        self._newcomers: set[Passage] = set()
        self._changed = asyncio.Event()

    def lose_replies(self) -> set[Passage]:
        """Every connection is cut at its next reply, somewhere in it: the server has got what it answers.

        Returns:
            The connections.
        """
        for passage in self.live:
            passage.is_doomed = True
        return set(self.live)

    def mute(self, *, replies: bool) -> set[Passage]:
        """From now on, all connections and new ones are open, but nothing comes through one way; the other way is open.

        Args:
            replies: Whether it is the replies that get lost, or else the requests. Of these, half are only held back: they
                reach the server once the client has closed the connection.

        Returns:
            The connections through it now.
        """
        self._new_are = self._without_replies if replies else self._without_requests
        self._new_are |= self.live
        return set(self.live)

    def unmute_new(self) -> None:
        """New connections are as they should be; those that were mute stay so."""
        self._new_are = None

    async def until_gone(self, passages: set[Passage]) -> None:
        """Waits until the client has given all of these up."""
        while passages & self.live:
            await self._change()

    async def until_made(self, what: str, count: int) -> None:
        """Waits until there were so many of what ``made`` counts."""
        while self.made[what] < count:
            await self._change()

    def cut_all(self) -> None:
        """Closes all connections."""
        for passage in self.live:
            passage.to_client.transport.abort()

    # --- what forwards

    def lets_in(self) -> bool:
        if self.is_refusing:
            self._count("refuse")
        return not self.is_refusing

    async def _forward(self, passage: Passage) -> None:
        self.live.add(passage)
        if self._new_are is not None:
            self._new_are.add(passage)
            self._newcomers.add(passage)
        try:
            await super()._forward(passage)
        finally:
            for passages in (self.live, self._without_replies, self._without_requests, self._newcomers):
                passages.discard(passage)
            self._changed.set()

    async def forward_requests(self, passage: Passage) -> None:
        held = bytearray()
        comes_late = self._dice.random() < 0.5
        try:
            while requests := await passage.from_client.read(READ_SIZE):
                if passage not in self._without_requests:
                    await self._send(requests, passage.to_server)
                    continue
                self._swallowed(passage)
                held += requests
        except ConnectionError:
            pass  # the client has given it up
        if held and comes_late:
            passage.to_server.write(held)

    async def forward_replies(self, passage: Passage) -> None:
        while replies := await passage.from_server.read(READ_SIZE):
            if passage in self._without_replies:
                self._swallowed(passage)
            elif passage.is_doomed:
                self._count("lose")
                passage.to_client.write(replies[: self._dice.randrange(len(replies))])
                await passage.to_client.drain()
                return
            else:
                await self._send(replies, passage.to_client)

    async def _send(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        dice = self._dice
        if dice.random() < self.delay:
            self._count("delay")
            await asyncio.sleep(dice.random() * self.longest_delay)
        pieces = [data]
        if len(data) > 1 and dice.random() < self.split:
            self._count("split")
            pieces = self._pieces(data)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if len(pieces) > 1:
                # The client, in this loop, sees the piece in the next tick, after those who have waited longer.
                for _ in range(2):
                    await asyncio.sleep(0)

    def _pieces(self, data: bytes) -> list[bytes]:
        dice = self._dice
        if dice.random() < 0.5:
            edges = list(range(1, min(len(data), CRUMBS)))
        else:
            edges = sorted({dice.randrange(1, len(data)) for _ in range(dice.randint(1, 5))})
        return [data[start:end] for start, end in pairwise((0, *edges, len(data)))]

    def _swallowed(self, passage: Passage) -> None:
        if passage in self._newcomers:
            self._newcomers.remove(passage)
            self._count("mute")

    def _count(self, what: str) -> None:
        self.made[what] += 1
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
