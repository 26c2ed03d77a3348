"""Reads a URL: which servers it names, and how to label it without a password. No message holds any part of a password."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

import redis
from redis import connection
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.retry import Retry

from .._transport.options import THREADS_CLASSES, connection_options, for_sentinels, read_url


class BadURL(ValueError):
    """A URL that names no server. The message holds no part of it."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host and a port."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """The servers that a URL names: one server, a cluster, or the primary behind sentinels.

    Attributes:
        kind: "" for one server, "cluster" or "sentinel".
        label: The URL without user, password and options.
        hosts: The servers it names; empty for a unix socket.
        service: What the Sentinels call the primary.
        is_tls: Whether the connection is encrypted.
        user: The user in the URL; "default" if there is none.
        has_password: Whether the URL has a password.
    """

    kind: str
    label: str
    hosts: tuple[Host, ...]
    service: str
    is_tls: bool
    user: str
    has_password: bool
    _options: Mapping[str, Any] = field(repr=False)
    _sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The name of the server in messages, if the URL names only one."""
        return str(self.hosts[0]) if self.hosts else str(self._options["path"])

    def client(self, host: Host | None, timeout: float) -> redis.Redis:
        """Opens a client of one server with the user, password and options of the URL. The caller closes it.

        Args:
            host: The server; None: the one that the URL names.
            timeout: Seconds for connecting, and for each answer.

        Raises:
            BadURL: an option that does not exist.
        """
        return _client({**self._options, **_address(host)}, timeout)

    def sentinel_client(self, host: Host, timeout: float) -> redis.Redis:
        """Opens a client of a Sentinel, with the sentinels' own user and password.

        Raises:
            BadURL: an option that does not exist.
        """
        return _client({**self._sentinel_options, **_address(host)}, timeout)

    def is_private(self, host: Host | None) -> bool:
        """Whether the connection is encrypted or does not leave this machine."""
        if self.is_tls or not self.hosts:
            return True
        name = (host or self.hosts[0]).name
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"


def _address(host: Host | None) -> dict[str, Any]:
    return {} if host is None else {"host": host.name, "port": host.port}


def _client(options: Mapping[str, Any], timeout: float) -> redis.Redis:
    wanted = {
        **options,
        # RESP2 without decoding, as the gathering code expects. No retries: a silent server is a finding.
        "decode_responses": False,
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
    }
    try:
        kind = THREADS_CLASSES[wanted.pop("connection_class", Connection)]
        # Raises now for options that redis-py does not know.
        kind(**wanted)
        return redis.Redis.from_pool(connection.ConnectionPool(connection_class=kind, **wanted))
    except (KeyError, TypeError, ValueError, redis.RedisError):
        raise BadURL("the URL has an option that does not exist, or a value that does not fit") from None


def parse(url: str) -> Target:
    """Reads a URL.

    Raises:
        BadURL: no server.
    """
    try:
        named = read_url(url)
    except ValueError as error:
        raise BadURL(str(error)) from None
    options = named.options
    kind = "" if named.kind == "server" else named.kind
    connections = options.get("connection_class")
    is_tls = connections is SSLConnection
    hosts: tuple[Host, ...] = ()
    if connections is UnixDomainSocketConnection:
        label = f"unix://{quote(options['path'])}"
    else:
        seeds = named.seeds or ((options.get("host", "localhost"), options.get("port", 6379)),)
        hosts = tuple(Host(*seed) for seed in seeds)
        scheme = ("rediss" if is_tls else "redis") + (f"+{kind}" if kind else "")
        database = str(options.get("db", "" if kind else 0))
        label = f"{scheme}://{','.join(map(str, hosts))}/{'/'.join(filter(None, [named.service, database]))}"
    known = connection_options(named)
    kind_of_connection = {name: value for name, value in known.items() if name == "connection_class"}
    return Target(
        kind=kind,
        label=label,
        hosts=hosts,
        service=named.service,
        is_tls=is_tls,
        user=str(options.get("username") or "default"),
        has_password=bool(options.get("password")),
        _options=known,
        _sentinel_options=kind_of_connection | for_sentinels(options),
    )
