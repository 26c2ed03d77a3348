"""Every option of ``from_url``, from the URL and from keyword arguments: typed, converted, checked, with its default.

No message here shows a URL: there may be a password in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from ssl import TLSVersion, VerifyMode
from typing import Any, ClassVar, Final, Self, TypedDict, TypeVar

from redis import connection as threads
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import CredentialProvider

from .._codec.codec import DEFAULT_MAX_BYTES, Codec
from .._protocol.durability import DEFAULT_WAIT, Durability, durability_of
from .._session.times import DEFAULT_TTL, TTL
from .url_parsing import HostPort as HostPort
from .url_parsing import Target as Target
from .url_parsing import no_databases
from .url_parsing import read_url as read_url

N = TypeVar("N", int, float)


DEFAULT_PREFIX: Final = "bot:session:"
#: Connections that a store on a redis-py client, or for threads, uses at once; more make one Python process no faster.
MAX_CONCURRENCY: Final = 32

# A hash as a flat list, as RESP2 has it, takes a quarter of the time to read that a map of RESP3 takes.
_DEFAULTS: Final[Mapping[str, Any]] = {"protocol": 2, "socket_timeout": 5.0, "socket_connect_timeout": 5.0}
_THREADS_DEFAULTS: Final[Mapping[str, Any]] = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
#: redis-py's connections for threads, by those for asyncio.
THREADS_CLASSES: Final[Mapping[type, Callable[..., Any]]] = {
    Connection: threads.Connection,
    SSLConnection: threads.SSLConnection,
    UnixDomainSocketConnection: threads.UnixDomainSocketConnection,
}
_TRUE: Final = frozenset({"1", "true", "yes", "on"})


_UNKNOWN: Final = re.compile(r"unexpected keyword argument '(\w+)'")


class ConnectionOptions(TypedDict, total=False):
    """The options of redis-py's connections that an editor completes. All others of redis-py's work as well."""

    username: str | None
    password: str | None
    credential_provider: CredentialProvider | None
    db: int
    client_name: str | None
    protocol: int
    socket_timeout: float | None
    socket_connect_timeout: float | None
    socket_keepalive: bool
    socket_keepalive_options: Mapping[int, int | bytes] | None
    health_check_interval: float
    ssl_ca_certs: str | None
    ssl_ca_data: str | None
    ssl_certfile: str | None
    ssl_keyfile: str | None
    ssl_cert_reqs: str | VerifyMode
    ssl_check_hostname: bool
    ssl_min_version: TLSVersion | None
    ssl_ciphers: str | None


class SyncStoreOptions(ConnectionOptions, total=False):
    """The options of ``redis_botsession.sync.SessionStore.from_url``."""

    prefix: str
    ttl: TTL
    codec: Codec | None
    max_bytes: int
    replicas: int
    fsync: bool
    wait_timeout: float
    max_connections: int
    sentinel_username: str | None
    sentinel_password: str | None


class StoreOptions(SyncStoreOptions, total=False):
    """The options of ``redis_botsession.SessionStore.from_url``."""

    timeout: float
    max_in_flight: int
    address_remap: Callable[[HostPort], HostPort] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All options of a store made by ``from_url``.

    Attributes:
        target: Where the URL leads to.
        connection_class: redis-py's class of connections, for asyncio.
        connection_options: What connections are made with.
        silence: Seconds without a byte while replies are due, after which a connection counts as lost; None: never.
        durability: What each write waits for; None: nothing.

    The others are the options of the same names in ``StoreOptions``.
    """

    target: Target
    connection_class: Callable[..., Any]
    # There may be a password in them.
    connection_options: Mapping[str, Any] = field(repr=False)
    silence: float | None
    durability: Durability | None

    prefix: str = DEFAULT_PREFIX
    ttl: TTL = DEFAULT_TTL
    codec: Codec | None = None
    max_bytes: int = DEFAULT_MAX_BYTES
    replicas: int = 0
    fsync: bool = False
    wait_timeout: float = DEFAULT_WAIT
    timeout: float = 10.0
    max_connections: int = 4
    max_in_flight: int = 1024
    address_remap: Callable[[HostPort], HostPort] | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    #: The options that are the store's own; redis-py's connections do not know them.
    names: ClassVar[frozenset[str]]

    @classmethod
    def parse(cls, url: str, given: Mapping[str, Any]) -> Self:
        """Options of a store on asyncio.

        Args:
            url: As for ``read_url``; its options win.
            given: The keyword arguments of ``from_url``.

        Raises:
            TypeError: an option that does not exist, or is of a wrong type.
            ValueError: not a Redis URL, a number that is out of range, or ``decode_responses=True``.
        """
        return cls.of(read_url(url), given)

    @classmethod
    def of(cls, target: Target, given: Mapping[str, Any]) -> Self:
        """Options as ``parse`` makes them, from a URL that has been read."""
        # An option that does not apply to the URL is left to redis-py, which refuses it.
        kinds = {"address_remap": "cluster", "sentinel_username": "sentinel", "sentinel_password": "sentinel"}
        names = {name for name in cls.names if kinds.get(name, target.kind) == target.kind}
        own, connection = _split(target, {**_DEFAULTS, **given}, names)
        remap = own.get("address_remap")
        if remap is not None and not callable(remap):
            raise TypeError(f"address_remap must be a function, not {type(remap).__name__}")
        durability = durability_of(own.get("replicas", 0), own.get("fsync", False), own.get("wait_timeout", DEFAULT_WAIT))
        connection_class = connection.pop("connection_class", Connection)
        options = cls(
            target=target,
            connection_class=connection_class,
            connection_options=connection,
            silence=checked(connection_class, connection).socket_timeout,
            durability=durability,
            **own,
        )
        if durability is not None:
            durability.check_within(min(options.timeout, options.silence or math.inf))
        return options

    @classmethod
    def parse_for_threads(cls, url: str, given: Mapping[str, Any]) -> Self:
        """Options of a store for threads. ``timeout``, ``max_in_flight`` and ``address_remap`` are refused.

        Raises:
            TypeError: an option that does not exist, or is of a wrong type.
            ValueError: not a Redis URL, that of a cluster, a number that is out of range, or ``decode_responses=True``.
        """
        target = read_url(url)
        if target.kind == "cluster":
            raise ValueError(
                "redis_botsession.sync.SessionStore runs on one server or behind Sentinel; "
                "for a cluster use redis_botsession.SessionStore, on asyncio"
            )
        names = cls.names - {"timeout", "max_in_flight", "address_remap"}
        if target.kind != "sentinel":
            names -= {"sentinel_username", "sentinel_password"}
        own, connection = _split(target, {**_THREADS_DEFAULTS, "max_connections": MAX_CONCURRENCY, **given}, names)
        connection_class = THREADS_CLASSES[connection.pop("connection_class", Connection)]
        return cls(
            target=target,
            connection_class=connection_class,
            connection_options=connection,
            silence=checked(connection_class, connection).socket_timeout,
            durability=durability_of(own.get("replicas", 0), own.get("fsync", False), own.get("wait_timeout", DEFAULT_WAIT)),
            **own,
        )

    @property
    def sentinel_options(self) -> dict[str, Any]:
        """The options for redis-py's clients of sentinels: their own credentials, the TLS of the servers."""
        own = {"sentinel_username": self.sentinel_username, "sentinel_password": self.sentinel_password}
        return {**for_sentinels({**self.connection_options, **own}), "ssl": self.target.is_tls}


Options.names = frozenset(
    each.name
    for each in fields(Options)
    if each.name not in {"target", "connection_class", "connection_options", "silence", "durability"}
)


def for_sentinels(options: Mapping[str, Any]) -> dict[str, Any]:
    """Picks the options for connections to sentinels: their own credentials and the TLS options."""
    credentials = {name: options.get(f"sentinel_{name}") for name in ("username", "password")}
    return {**{name: value for name, value in options.items() if name.startswith("ssl_")}, **credentials}


def _split(target: Target, given: Mapping[str, Any], names: Container[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The store's own options, converted, and those of redis-py's connections; the URL's win."""
    # What the sessions in the store are like is not said in a URL: redis-py refuses the first of these.
    checked(Connection, {name: value for name, value in target.options.items() if name in _NOT_IN_URLS})
    options = {**given, **target.options}
    if options.get("decode_responses"):
        raise ValueError("decode_responses=True: sessions hold bytes that are not text; leave it out")
    own = {name: options.pop(name) for name in list(options) if name in names}
    if target.kind == "cluster" and options.get("db"):
        raise no_databases()
    for name in _FILES & options.keys():
        _check_file(name, options[name])
    for name, convert in _CONVERTED.items():
        if name in own:
            own[name] = convert(name, own[name])
    return own, options


def _check_file(name: str, path: Any) -> None:
    """Refuses a file that is not there: on each attempt to connect it would look like a server that is not there."""
    if path is None:
        return
    try:
        Path(path).open("rb").close()
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error


def _positive(kind: type[N]) -> Callable[[str, Any], N]:
    def convert(name: str, value: Any) -> N:
        try:
            number = kind(value)
        except (TypeError, ValueError):
            number = kind(0)
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be a positive {kind.__name__}, not {value!r}")
        return number

    return convert


def _replicas(_: str, value: Any) -> Any:
    if isinstance(value, str):
        return int(value) if value.isdecimal() else -1
    return value


def _flag(_: str, value: Any) -> bool:
    return value.lower() in _TRUE if isinstance(value, str) else bool(value)


#: Converts an option, which may be the text in a URL, to its type; by name.
_CONVERTED: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "timeout": _positive(float),
    "wait_timeout": _positive(float),
    "max_connections": _positive(int),
    "max_in_flight": _positive(int),
    "replicas": _replicas,
    "fsync": _flag,
}
#: The options that name files.
_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
#: The options that a URL does not have.
_NOT_IN_URLS: Final = frozenset({"prefix", "ttl", "codec", "max_bytes"})


def checked(kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Makes a redis-py connection with these options, without connecting, to check them.

    Raises:
        TypeError: an option that does not exist.
    """
    try:
        return kind(**options)
    except TypeError as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown is None:
            raise
        raise TypeError(
            f"there is no option {unknown[1]!r}: options are those of from_url (prefix, ttl, codec, max_bytes, ...) "
            "and of redis-py's connections"
        ) from error


def connection_options(target: Target) -> dict[str, Any]:
    """Returns the options in a URL that are redis-py's, without those of the store."""
    return {name: value for name, value in target.options.items() if name not in Options.names}
