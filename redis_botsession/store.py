"""The store in Redis."""

from __future__ import annotations

from typing import Final, Self, Unpack

import redis.asyncio

from ._codec.codec import DEFAULT_MAX_BYTES, Codec
from ._protocol.commands import Commands
from ._protocol.durability import DEFAULT_WAIT, durability_of
from ._session.times import DEFAULT_TTL, TTL
from ._store.base import BotSessionStore
from ._store.command_store import CommandStore
from ._transport.client import ClientExecutor
from ._transport.cluster import ClusterExecutor
from ._transport.executor import Executor
from ._transport.one_server import PipelinedExecutor, ServerExecutor
from ._transport.options import DEFAULT_PREFIX, Options, StoreOptions
from ._transport.sentinel import SentinelExecutor

__all__ = ["DEFAULT_PREFIX", "BotSessionStore", "SessionStore"]

#: What runs a store's commands, by the kind of its URL.
_EXECUTORS: Final[dict[str, type[ServerExecutor | ClusterExecutor]]] = {
    "server": ServerExecutor,
    "sentinel": SentinelExecutor,
    "cluster": ClusterExecutor,
}


class SessionStore(CommandStore):
    """Sessions in Redis (6.2 or later) or Valkey.

    Closing the store finishes what is in flight, and closes the connections that it has made itself.

    Args:
        client: A ``redis.asyncio.Redis`` (``Sentinel.master_for`` gives one, too) or ``redis.asyncio.RedisCluster``, without
            ``decode_responses``. It stays yours: ``aclose`` does not close it. With the settings of a cluster client, pipelined
            connections are made, as ``from_url`` does. (An executor is what ``from_url`` gives; that is closed.)
        prefix: What all keys begin with; no braces, no glob characters. Give each bot its own.
        ttl: The rolling TTL that every write and touch renews: seconds, a timedelta, or None for no expiry.
        codec: Packs the values; give one with your own types registered.
        max_bytes: Limit on the bytes of one session, in and out.
        replicas: How many replicas must have a set, update, delete or clear before it counts as done (``WAIT``).
        fsync: Whether it must also be on the disk of the primary, and of those replicas (``WAITAOF``: Redis 7.2, Valkey).
        wait_timeout: Seconds that the server waits for that; then the call raises ``DurabilityUnproven``.

    Raises:
        TypeError: a synchronous client, or an argument of a wrong type.
        ValueError: a client with ``decode_responses=True``, a bad prefix, TTL or number.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster | PipelinedExecutor,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl: TTL = DEFAULT_TTL,
        codec: Codec | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        replicas: int = 0,
        fsync: bool = False,
        wait_timeout: float = DEFAULT_WAIT,
    ) -> None:
        commands = Commands(prefix=prefix, ttl=ttl, codec=codec or Codec(), max_bytes=max_bytes)
        executor: Executor
        if isinstance(client, PipelinedExecutor):
            if replicas or fsync:
                raise TypeError("replicas and fsync are the executor's own: it was made with or without them")
            executor = client
        elif isinstance(client, redis.asyncio.RedisCluster):
            durable: StoreOptions = {"replicas": replicas, "fsync": fsync, "wait_timeout": wait_timeout}
            executor = ClusterExecutor.from_client(client, durable)
        else:
            executor = ClientExecutor(client, durability_of(replicas, fsync, wait_timeout))
        super().__init__(commands, executor)

    @classmethod
    def from_url(cls, url: str, **options: Unpack[StoreOptions]) -> Self:
        """Makes a store with connections of its own, which ``aclose`` closes: the fast way.

        Connections are opened when they are first needed, shared by all callers, and opened again when they are lost. Calls
        that were not sent yet are sent then; commands that may be repeated (reads, touch, delete, clear) are resent once.

        Args:
            url: ``redis://user:password@host:6379/0`` or ``unix://``, as redis-py takes it;
                ``redis+cluster://host:port,host:port/``, some nodes of a Redis Cluster;
                ``redis+sentinel://host:port,host:port/service``, sentinels and their name for the primary, a database after
                another slash. With ``rediss`` for TLS. The credentials are those of the servers; sentinels have
                ``sentinel_username`` and ``sentinel_password``. Special characters in them are percent-encoded.
            **options: Those of the store, and those of redis-py's connections. Options in the URL win. All are optional:

                - ``prefix``, ``ttl``, ``codec``, ``max_bytes``: as for the class; not in the URL.
                - ``fsync``: as for the class.
                - ``replicas``: as for the class; durable writes take ``max_connections`` more connections.
                - ``wait_timeout``: as for the class; less than ``socket_timeout``.
                - ``timeout``: seconds that a call may take in all, with waiting, connecting, redirections and resending; 10.
                - ``max_connections``: connections to each server; the commands of one user go over one of them, in order; 4.
                - ``max_in_flight``: replies that may be due at once on one connection; further callers wait; 1024.
                - ``address_remap``, for a cluster: a function, as redis-py's ``RedisCluster`` takes it, from the (host, port)
                  that nodes announce to the one by which they are reached.
                - ``socket_timeout``: seconds; a connection that is silent for so long while replies are due is dropped; 5.
                - ``socket_connect_timeout``: seconds; 5.
                - ``ssl_ca_certs``, ``ssl_certfile``, ``username``, ``protocol``, ...: see redis-py.

        Raises:
            TypeError: an option that does not exist, or is of a wrong type.
            ValueError: not a Redis URL, a number that is out of range, a file that cannot be read, or
                ``decode_responses=True``.
        """
        all_options = Options.parse(url, options)
        return cls(
            _EXECUTORS[all_options.target.kind](all_options),
            prefix=all_options.prefix,
            ttl=all_options.ttl,
            codec=all_options.codec,
            max_bytes=all_options.max_bytes,
        )
