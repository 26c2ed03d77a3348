"""What a URL names: one server, a cluster, or a primary that Sentinels know. No message here holds any part of a password."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis import connection as redis_connection
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool
from redis.retry import Retry

#: Options of the store's own in its URLs, which redis-py does not know.
_STORES_OWN: Final = frozenset(
    {
        "timeout",
        "max_connections",
        "max_in_flight",
        "replicas",
        "fsync",
        "wait_timeout",
        "sentinel_username",
        "sentinel_password",
    }
)
_PORTS: Final = {"": 6379, "cluster": 6379, "sentinel": 26379}
# It has no types.
_options_of: Callable[[str], dict[str, Any]] = redis_connection.parse_url
_BAD_URL: Final = (
    "that is not the URL of a Redis: it is redis://host:port/db, rediss://host:port/db, unix:///path/to/socket, "
    "redis+cluster://host:port,host:port/ or redis+sentinel://host:port,host:port/service, "
    "before the host user:password@ with what is special in them percent-encoded"
)


class BadURL(ValueError):
    """A URL that names no server. The message has nothing of it."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host and a port."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL names.

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
        """What to call the server, where there is only one."""
        return str(self.hosts[0]) if self.hosts else str(self._options["path"])

    def client(self, host: Host | None, timeout: float) -> redis.Redis:
        """A client of one server, with the user, password and options of the URL; close it.

        Args:
            host: The server; None: the one that the URL names.
            timeout: Seconds for connecting, and for each answer.

        Raises:
            BadURL: an option that does not exist.
        """
        return _client({**self._options, **_address(host)}, timeout)

    def sentinel_client(self, host: Host, timeout: float) -> redis.Redis:
        """The same for a Sentinel; it has a user and password of its own.

        Raises:
            BadURL: an option that does not exist.
        """
        return _client({**self._sentinel_options, **_address(host)}, timeout)

    def is_private(self, host: Host | None) -> bool:
        """Whether nobody on the network can read along."""
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
        # What the gatherer reads is bytes in RESP2. What is silent is told, not asked again.
        "decode_responses": False,
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
    }
    kind = wanted.pop("connection_class", Connection)
    try:
        # Says now what redis-py does not take.
        kind(**wanted)
        return redis.Redis.from_pool(ConnectionPool(connection_class=kind, **wanted))
    except (TypeError, ValueError, redis.RedisError):
        raise BadURL("the URL has an option that does not exist, or a value that does not fit") from None


def parse(url: str) -> Target:
    """What ``url`` names.

    Raises:
        BadURL: no server.
    """
    try:
        return _parse(url)
    except BadURL:
        raise
    except (ValueError, TypeError, redis.RedisError):
        # Not "from error": it may quote parts of a password.
        raise BadURL(_BAD_URL) from None


def _parse(url: str) -> Target:
    parts = urlsplit(url)
    base, _, kind = parts.scheme.partition("+")
    if base == "unix" and not kind:
        return _of_socket(url, parts)
    # An "@" or "#" further on is a password with a special character, whose rest looks like host or path.
    if base not in ("redis", "rediss") or kind not in _PORTS or "@" in parts.path + parts.query or parts.fragment:
        raise BadURL(_BAD_URL)
    credentials, at, names = parts.netloc.rpartition("@")
    hosts = tuple(_host(base, name, _PORTS[kind]) for name in names.split(","))
    if not kind and len(hosts) > 1:
        raise BadURL(_BAD_URL)
    path = parts.path.strip("/")
    service, _, database = path.partition("/") if kind == "sentinel" else ("", "", path)
    if (kind == "sentinel" and not service) or (database and not (database.isascii() and database.isdigit())):
        raise BadURL(_BAD_URL)
    plain = SplitResult(base, f"{credentials}{at}{hosts[0]}", f"/{database}", parts.query, "").geturl()
    options = _options_of(plain)
    sentinels_own = {name: options[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in options}
    sentinel_options = {name: value for name, value in options.items() if name not in {"username", "password", "db"}}
    label = f"{parts.scheme}://{','.join(map(str, hosts))}/" + ("/".join(filter(None, [unquote(service), database])))
    target = _target(kind, label if kind or database else f"{label}0", hosts, options)
    return replace(target, service=unquote(service), _sentinel_options=_known(sentinel_options) | sentinels_own)


def _of_socket(url: str, parts: SplitResult) -> Target:
    if (parts.netloc and not parts.netloc.endswith("@")) or parts.fragment or "@" in parts.path:
        raise BadURL(_BAD_URL)
    return _target("", f"unix://{parts.path}", (), _options_of(url))


def _target(kind: str, label: str, hosts: tuple[Host, ...], options: Mapping[str, Any]) -> Target:
    return Target(
        kind=kind,
        label=label,
        hosts=hosts,
        service="",
        is_tls=label.startswith("rediss"),
        user=str(options.get("username") or "default"),
        has_password=bool(options.get("password")),
        _options=_known(options),
    )


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _STORES_OWN}


def _host(scheme: str, text: str, port: int) -> Host:
    # A URL of its own for each: for the rules of brackets and ports.
    parts = urlsplit(f"{scheme}://{text}")
    return Host(parts.hostname or "localhost", parts.port or port)
