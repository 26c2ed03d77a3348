"""Asks one server, and remembers which commands it refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import redis
from redis.exceptions import BusyLoadingError, ResponseError

#: Errors that are a server's answer. (redis-py makes a ConnectionError of LOADING.)
ANSWERS = (ResponseError, BusyLoadingError)


class Server:
    """Asks a server, one command at a time.

    Args:
        client: A client of it.

    Attributes:
        refused: What it has answered, by the name of what it was asked for.
    """

    def __init__(self, client: redis.Redis) -> None:
        # Any: redis-py types the methods for asyncio as well.
        self._client: Any = client
        self.refused: dict[str, str] = {}

    def ask(self, *command: str | bytes | int, name: str = "") -> Any:
        """Returns the reply; None if the command is refused, which is remembered under ``name`` if given.

        Raises:
            redis.RedisError, OSError: the connection is lost.
        """
        reply = self.try_(*command)
        if isinstance(reply, Exception):
            if name:
                self.refused.setdefault(name, str(reply))
            return None
        return reply

    def try_(self, *command: str | bytes | int) -> Any:
        """Returns the reply, or the error reply.

        Raises:
            redis.RedisError, OSError: the connection is lost.
        """
        try:
            return self._client.execute_command(*command)
        except ANSWERS as error:
            return error

    def ask_many(self, commands: Iterable[tuple[str | bytes, ...]]) -> list[Any]:
        """Sends several commands in one round trip; returns the replies, error replies included.

        Raises:
            redis.RedisError, OSError: the connection is lost.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute(raise_on_error=False)
            return replies


def text(value: Any) -> str:
    """A reply as text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def pairs(reply: Any) -> dict[Any, Any]:
    """A map reply, which is a flat list in RESP2; empty for None."""
    if isinstance(reply, Mapping):
        return dict(reply)
    flat = reply or []
    return dict(zip(flat[::2], flat[1::2], strict=True))
