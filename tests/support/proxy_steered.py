"""A proxy whose faults a test switches on and off: lost, held back, delayed or divided data, refused connections."""

from __future__ import annotations

import asyncio
import random

from .proxy import READ_SIZE, ProxiedConnection, Proxy, random_pieces, write_pieces


class SteeredProxy(Proxy):
    """Forwards, with the faults that its attributes and methods switch on.

    Attributes:
        live: The open connections.
        delay: Probability, from 0 to 1, that data is forwarded late, in either direction.
        longest_delay: The longest delay in seconds.
        split: Probability that data is forwarded in pieces, some of one byte.
        is_refusing: Whether new connections are closed at once.
        made: Number of faults so far, by kind: "delay", "split", "refuse", "lose" (a connection cut in the middle of a reply),
            "mute" (data swallowed on a connection that was opened while the proxy was muted).
    """

    def __init__(self, url: str, seed: str) -> None:
        super().__init__(url)
        self._dice = random.Random(seed)  # noqa: S311 - a test that can be repeated
        self.live: set[ProxiedConnection] = set()
        self.delay = self.split = 0.0
        self.longest_delay = 0.003
        self.is_refusing = False
        self.made = {"delay": 0, "split": 0, "refuse": 0, "lose": 0, "mute": 0}
        #: The set that new connections join while the proxy is muted.
        self._new_are: set[ProxiedConnection] | None = None
        self._without_replies: set[ProxiedConnection] = set()
        self._without_requests: set[ProxiedConnection] = set()
        #: Connections opened while the proxy was muted, on which no data was swallowed yet.
        self._newcomers: set[ProxiedConnection] = set()
        self._changed = asyncio.Event()

    def lose_replies(self) -> set[ProxiedConnection]:
        """Cuts every open connection somewhere in its next reply, after the server has run the command.

        Returns:
            The connections that will be cut.
        """
        for connection in self.live:
            connection.is_doomed = True
        return set(self.live)

    def mute(self, *, replies: bool) -> set[ProxiedConnection]:
        """Forwards nothing in one direction from now on, on open and new connections; they stay open.

        Args:
            replies: Whether replies are lost; requests are otherwise. Half of the connections hold their requests back
                instead of losing them, and send them to the server when the client has closed the connection.

        Returns:
            The connections that are open now.
        """
        self._new_are = self._without_replies if replies else self._without_requests
        self._new_are |= self.live
        return set(self.live)

    def unmute_new(self) -> None:
        """Forwards both directions on connections opened from now on; muted connections stay muted."""
        self._new_are = None

    async def until_gone(self, connections: set[ProxiedConnection]) -> None:
        """Waits until the client has closed all of these connections."""
        while connections & self.live:
            await self._change()

    async def until_made(self, kind: str, count: int) -> None:
        """Waits until ``made[kind]`` is at least ``count``."""
        while self.made[kind] < count:
            await self._change()

    def cut_all(self) -> None:
        """Closes all connections."""
        for connection in self.live:
            connection.to_client.transport.abort()

    # --- forwarding

    def accepts(self) -> bool:
        if self.is_refusing:
            self._count("refuse")
        return not self.is_refusing

    async def _forward(self, connection: ProxiedConnection) -> None:
        self.live.add(connection)
        if self._new_are is not None:
            self._new_are.add(connection)
            self._newcomers.add(connection)
        try:
            await super()._forward(connection)
        finally:
            for connections in (self.live, self._without_replies, self._without_requests, self._newcomers):
                connections.discard(connection)
            self._changed.set()

    async def forward_requests(self, connection: ProxiedConnection) -> None:
        held = bytearray()
        sends_late = self._dice.random() < 0.5
        try:
            while requests := await connection.from_client.read(READ_SIZE):
                if connection not in self._without_requests:
                    await self._send(requests, connection.to_server)
                    continue
                self._swallowed(connection)
                held += requests
        except ConnectionError:
            pass  # the client has closed the connection
        if held and sends_late:
            connection.to_server.write(held)

    async def forward_replies(self, connection: ProxiedConnection) -> None:
        while replies := await connection.from_server.read(READ_SIZE):
            if connection in self._without_replies:
                self._swallowed(connection)
            elif connection.is_doomed:
                self._count("lose")
                connection.to_client.write(replies[: self._dice.randrange(len(replies))])
                await connection.to_client.drain()
                return
            else:
                await self._send(replies, connection.to_client)

    async def _send(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        dice = self._dice
        if dice.random() < self.delay:
            self._count("delay")
            await asyncio.sleep(dice.random() * self.longest_delay)
        if len(data) > 1 and dice.random() < self.split:
            self._count("split")
            await write_pieces(random_pieces(data, dice, crumbs=0.5), writer)
        else:
            writer.write(data)
            await writer.drain()

    def _swallowed(self, connection: ProxiedConnection) -> None:
        if connection in self._newcomers:
            self._newcomers.remove(connection)
            self._count("mute")

    def _count(self, kind: str) -> None:
        self.made[kind] += 1
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
