"""Parses the URLs of servers, clusters and sentinels. No message here shows a URL: there may be a password in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio.connection import SSLConnection, parse_url

HostPort = tuple[str, int]

_MANY: Final = re.compile(r"(?P<scheme>rediss?)\+(?P<kind>cluster|sentinel)://(?P<rest>.*)", re.DOTALL)
# An @ behind the hosts means a password with a / or ? in it: the text before it is no host, and must not be shown as one.
_REST: Final = re.compile(r"(?:(?P<user>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#@]*)?(?P<query>\?[^#@]*)?")
_UNIX: Final = re.compile(r"[^/?#]*@/[^?#@]+(\?[^#@]*)?|/[^?#]+(\?[^#]*)?")
_DATABASE: Final = re.compile(r"/?|/[0-9]+/?")
_HOSTS: Final = re.compile(r"(\[[^][]+\](:[^][:,]*)?|[^][,]*)(,(\[[^][]+\](:[^][:,]*)?|[^][,]*))*")
_LAST_PORT: Final = 65535
_ENCODING: Final = (
    "something special is not percent-encoded in a user, password or option: "
    "/ as %2F, ? as %3F, # as %23, @ as %40, : as %3A, [ as %5B"
)
_PORTS: Final = {"cluster": 6379, "sentinel": 26379}


@dataclass(frozen=True, slots=True)
class Target:
    """The content of a URL.

    Attributes:
        kind: ``"server"``, ``"cluster"`` or ``"sentinel"``.
        options: For redis-py's connections, with their ``connection_class``; ``host`` and ``port`` for a server only.
        seeds: Hosts and ports of some nodes of the cluster, or of the sentinels.
        service: The name under which sentinels know the primary.
    """

    kind: str
    # There may be a password in them.
    options: dict[str, Any] = field(repr=False)
    seeds: tuple[HostPort, ...] = ()
    service: str = ""

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.options.get("connection_class") is SSLConnection


def read_url(url: str) -> Target:
    """Parses ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``, ``redis+sentinel://`` and both with ``rediss``.

    Raises:
        TypeError: not a ``str``.
        ValueError: not one of these URLs.
    """
    if not isinstance(url, str):
        raise TypeError(f"a Redis URL must be str, not {type(url).__name__}")
    # As redis-py does with a newline at the end; here it would become part of a service's name.
    url = url.strip()
    many = _MANY.fullmatch(url)
    if many is None:
        return Target("server", _options(url))
    rest = _REST.fullmatch(many["rest"])
    if rest is None:
        raise _unreadable(url)
    kind, path = many["kind"], (rest["path"] or "").strip("/")
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ValueError(
                "a redis+sentinel:// URL ends in the name of the service: redis+sentinel://host:port,host:port/NAME"
            )
    user = f"{rest['user']}@" if rest["user"] is not None else ""
    seeds, options = [], {}
    for host in rest["hosts"].split(","):
        options = _options(f"{many['scheme']}://{user}{host}/{path}{rest['query'] or ''}")
        # A port alone is no host: its default would be this machine.
        if not host or host.startswith(":"):
            raise ValueError(
                f"a redis+{kind}:// URL names hosts, with commas between them: redis+{kind}://host:port,host:port/..."
            )
        seeds.append((options.pop("host"), options.pop("port", _PORTS[kind])))
    if kind == "cluster" and options.get("db"):
        raise no_databases()
    return Target(kind, options, tuple(seeds), service)


def no_databases() -> ValueError:
    return ValueError("a Redis Cluster has one database only, 0: leave the database out")


def _options(url: str) -> dict[str, Any]:
    error, options = None, dict[str, Any]()
    try:
        options = dict(parse_url(url))
    except ValueError as refusal:
        error = str(refusal)
    if error is None and isinstance(protocol := options.get("protocol"), str):
        # Before redis-py 7 it stays text.
        if protocol.isdecimal():
            options["protocol"] = int(protocol)
        else:
            error = "Invalid value for 'protocol' in connection URL."
    # Outside of the except clause: urllib's message has a piece of the URL in it, and would remain as the context.
    if error is None:
        _check(url)
        return options
    if error.startswith("Invalid value for"):
        _check(url)
        raise ValueError(error)
    if error.startswith("Redis URL must"):
        raise ValueError(f"{error} (or redis+cluster://, redis+sentinel://)")
    raise _unreadable(url)


def _check(url: str) -> None:
    """Refuses a URL that redis-py would misread."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "unix":
        if not _UNIX.fullmatch(rest.removeprefix("//")):
            raise _unreadable(url)
        return
    parts = _REST.fullmatch(rest.removeprefix("//"))
    if parts is None or not rest.startswith("//") or not _DATABASE.fullmatch(parts["path"] or ""):
        raise _unreadable(url)


def _unreadable(url: str) -> ValueError:
    """Names the cause, without a part of the URL: each of them may be a piece of a password."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "unix":
        return ValueError(
            "this unix:// URL cannot be read: it is unix:///path or unix://user:password@/path. Percent-encode what is "
            "special in a user, password or path: / (but for the path's own) as %2F, ? as %3F, # as %23, @ as %40"
        )
    parts = _REST.fullmatch(rest.removeprefix("//"))
    if not rest.startswith("//"):
        cause = "its scheme is followed by ://"
    elif parts is None:
        cause = _ENCODING
    elif not _HOSTS.fullmatch(parts["hosts"]):
        cause = "an IPv6 address stands in brackets, like [::1]:6379"
    elif not all(map(_is_port, parts["hosts"].split(","))):
        cause = "the port behind the host is a number from 0 to 65535"
    elif not _DATABASE.fullmatch(parts["path"] or ""):
        cause = "the database at the end is a number, like /0"
    else:
        cause = _ENCODING
    return ValueError(f"this Redis URL cannot be read: {cause}")


def _is_port(host_and_port: str) -> bool:
    _, _, port = host_and_port.rpartition("]")[2].partition(":")
    return not port or (port.isascii() and port.isdecimal() and int(port) <= _LAST_PORT)
