"""The store in Redis."""

from __future__ import annotations

from typing import Any, Self

import redis.asyncio

from .codec import DEFAULT_MAX_BYTES, Codec
from .command_store import CommandStore
from .commands import Commands
from .executors import ClientExecutor
from .pipelined import PipelinedExecutor
from .times import DEFAULT_TTL, TTL

DEFAULT_PREFIX = "bot:session:"


class SessionStore(CommandStore):
    """Sessions in Redis (6.2 or later) or Valkey.

    Closing the store finishes what is in flight, and closes the connections that ``from_url`` made.

    Args:
        client: A ``redis.asyncio.Redis`` without ``decode_responses``. It stays yours: ``aclose`` does not close it. (A
            ``PipelinedExecutor`` is what ``from_url`` gives; that is closed.)
        prefix: What all keys begin with; no braces, no glob characters. Give each bot its own.
        ttl: The rolling TTL that every write and touch renews: seconds, a timedelta, or None for no expiry.
        codec: Packs the values; give one with your own types registered.
        max_bytes: Limit on the bytes of one session, in and out.

    Raises:
        TypeError: a synchronous client, or an argument of a wrong type.
        ValueError: a client with ``decode_responses=True``, a bad prefix or TTL.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | PipelinedExecutor,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl: TTL = DEFAULT_TTL,
        codec: Codec | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        commands = Commands(prefix=prefix, ttl=ttl, codec=codec or Codec(), max_bytes=max_bytes)
        super().__init__(commands, client if isinstance(client, PipelinedExecutor) else ClientExecutor(client))

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl: TTL = DEFAULT_TTL,
        codec: Codec | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float = 10.0,
        max_connections: int = 4,
        max_in_flight: int = 1024,
        **options: Any,
    ) -> Self:
        """A store with pipelined connections of its own: the fast way. ``aclose`` closes them.

        They are made when they are first needed, shared by all callers, and made anew when they are lost. What was not sent
        yet is sent then; what was sent and does no harm twice (reads, touch, delete, clear) is sent once more.

        Args:
            url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py takes it: ``redis://user:password@host:6379/0``.
            prefix: As for the class.
            ttl: As for the class.
            codec: As for the class.
            max_bytes: As for the class.
            timeout: Seconds that a round trip may take in all, with waiting, connecting and sending again.
            max_connections: How many connections; all commands of one user go over one of them, in order.
            max_in_flight: Replies that may be due at once on one connection; callers beyond wait.
            **options: For redis-py's connections, like ``ssl_ca_certs``, ``protocol``, ``socket_connect_timeout`` (seconds;
                5 unless given), or ``socket_timeout`` (seconds; 5 unless given): a connection that is silent for so long
                while replies are due is given up. Options in the URL win.

        Raises:
            TypeError: an option that does not exist.
            ValueError: not such a URL, a number that is not positive, or ``decode_responses=True``.
        """
        executor = PipelinedExecutor.from_url(
            url,
            **{
                "timeout": timeout,
                "max_connections": max_connections,
                "max_in_flight": max_in_flight,
                # A hash as a flat list takes a quarter of the time that a map takes to read.
                "protocol": 2,
                "socket_timeout": 5.0,
                "socket_connect_timeout": 5.0,
                **options,
            },
        )
        return cls(executor, prefix=prefix, ttl=ttl, codec=codec, max_bytes=max_bytes)
