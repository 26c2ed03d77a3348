"""One server, to be asked; its refusals are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import redis
from redis.exceptions import BusyLoadingError, ResponseError

#: Errors that are a server's answer. (redis-py makes a ConnectionError of LOADING.)
ANSWERS = (ResponseError, BusyLoadingError)


class Server:
    """Asks a server one thing at a time.

    Args:
        client: A client of it.

    Attributes:
        refused: What it has answered, by the name of what it was asked for.
    """

    def __init__(self, client: redis.Redis) -> None:
        # Its methods are typed for asyncio as well.
        self._client: Any = client
        self.refused: dict[str, str] = {}

    def ask(self, *command: str | bytes | int, name: str = "") -> Any:
        """The reply; None if it is refused, which is kept if it has a ``name``.

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
        """The reply, or the error that the server answers.

        Raises:
            redis.RedisError, OSError: the connection is lost.
        """
        try:
            return self._client.execute_command(*command)
        except ANSWERS as error:
            return error

    def ask_many(self, commands: Iterable[tuple[str | bytes, ...]]) -> list[Any]:
        """The replies, errors among them, in one round trip.

        Raises:
            redis.RedisError, OSError: the connection is lost.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute(raise_on_error=False)
            return replies


def text(value: Any) -> str:
    """What a server has sent, as text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def pairs(reply: Any) -> dict[Any, Any]:
    """A map, which RESP2 gives as a flat list; empty for None."""
    if isinstance(reply, Mapping):
        return dict(reply)
    flat = reply or []
    return dict(zip(flat[::2], flat[1::2], strict=True))
