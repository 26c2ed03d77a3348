"""The store in Redis."""

from __future__ import annotations

from typing import Any, Self

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from .codec import DEFAULT_MAX_BYTES, Codec
from .command_store import CommandStore
from .commands import Commands
from .executors import MAX_CONCURRENCY, ClientExecutor
from .times import DEFAULT_TTL, TTL

DEFAULT_PREFIX = "bot:session:"


class SessionStore(CommandStore):
    """Sessions in Redis (6.2 or later) or Valkey.

    Closing the store finishes what is in flight, and closes the connections that ``from_url`` made.

    Args:
        client: A ``redis.asyncio.Redis`` without ``decode_responses``. It stays yours: ``aclose`` does not close it.
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
        client: redis.asyncio.Redis,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl: TTL = DEFAULT_TTL,
        codec: Codec | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        commands = Commands(prefix=prefix, ttl=ttl, codec=codec or Codec(), max_bytes=max_bytes)
        super().__init__(commands, ClientExecutor(client))

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl: TTL = DEFAULT_TTL,
        codec: Codec | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        **options: Any,
    ) -> Self:
        """A store with connections of its own, which ``aclose`` closes.

        Args:
            url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py takes it: ``redis://user:password@host:6379/0``.
            prefix: As for the class.
            ttl: As for the class.
            codec: As for the class.
            max_bytes: As for the class.
            **options: For redis-py's connections, like ``ssl_ca_certs``, ``max_connections`` (32 unless given) or
                ``socket_timeout`` (seconds; 5 unless given, so that a stalled server does not stall the bot). Options in
                the URL win.

        Raises:
            ValueError: not such a URL, or ``decode_responses=True``.
        """
        settings: dict[str, Any] = {
            "max_connections": MAX_CONCURRENCY,
            "socket_timeout": 5.0,
            "socket_connect_timeout": 5.0,
            # Only connecting is ever tried again by redis-py: what is sent, ClientExecutor sends.
            "retry": Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), 3),
            **options,
        }
        client = redis.asyncio.Redis.from_url(url, **settings)
        store = cls(client, prefix=prefix, ttl=ttl, codec=codec, max_bytes=max_bytes)
        store._executor = ClientExecutor(client, owned=True, max_concurrency=client.connection_pool.max_connections)
        return store
