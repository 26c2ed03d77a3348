"""What a Redis URL says. No message here shows a URL: there may be a password in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.connection import parse_url

HostPort = tuple[str, int]

_MANY = re.compile(r"(?P<scheme>rediss?)\+(?P<kind>cluster|sentinel)://(?P<rest>.*)", re.DOTALL)
# An @ behind the hosts ends a password with a / or ? in it: what is before that is no host, and is not to be shown as one.
_REST = re.compile(r"(?:(?P<user>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#@]*)?(?P<query>\?[^#@]*)?")
_UNIX = re.compile(r"[^/?#]*@/[^?#@]+(\?[^#@]*)?|/[^?#]+(\?[^#]*)?")
_DATABASE = re.compile(r"/?|/[0-9]+/?")
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_PORTS = {"cluster": 6379, "sentinel": 26379}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads to.

    Attributes:
        kind: ``"server"``, ``"cluster"`` or ``"sentinel"``.
        options: For redis-py's connections, with their ``connection_class``; ``host`` and ``port`` for a server only.
        seeds: Nodes of the cluster, or the sentinels: those to ask first.
        service: The name of the primary that sentinels look after.
    """

    kind: str
    # There may be a password in them.
    options: dict[str, Any] = field(repr=False)
    seeds: tuple[HostPort, ...] = ()
    service: str = ""


def read_url(url: str) -> Target:
    """Reads ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``, ``redis+sentinel://`` and both with ``rediss``.

    Raises:
        TypeError: not a ``str``.
        ValueError: not such a URL.
    """
    if not isinstance(url, str):
        raise TypeError(f"a Redis URL must be str, not {type(url).__name__}")
    # As redis-py does with the end of a line from a file; here it would become part of a service's name.
    url = url.strip()
    many = _MANY.fullmatch(url)
    if many is None:
        return Target("server", _options(url))
    rest = _REST.fullmatch(many["rest"])
    if rest is None:
        raise _unreadable()
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
    return Target(kind, options, tuple(seeds), service)


def checked(kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """A connection of redis-py's with these options, not connected: says now what it does not take.

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


def _options(url: str) -> dict[str, Any]:
    error = None
    try:
        options = dict(parse_url(url))
    except ValueError as refusal:
        error = str(refusal)
    # Outside of the except: what urllib says has a piece of the URL in it, and would stay as the context of ours.
    if error is None:
        _check(url)
        return options
    if error.startswith("Invalid value for"):
        _check(url)
        raise ValueError(error)
    if error.startswith("Redis URL must"):
        raise ValueError(f"{error} (or redis+cluster://, redis+sentinel://)")
    raise _unreadable()


def _check(url: str) -> None:
    """Refuses what redis-py would read as something else than what was meant."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "unix":
        if not _UNIX.fullmatch(rest.removeprefix("//")):
            raise ValueError(
                "this unix:// URL cannot be read: it is unix:///path or unix://user:password@/path. Percent-encode what is "
                "special in a user, password or path: / (but for the path's own) as %2F, ? as %3F, # as %23, @ as %40"
            )
        return
    parts = _REST.fullmatch(rest.removeprefix("//"))
    if parts is None or not rest.startswith("//") or not _DATABASE.fullmatch(parts["path"] or ""):
        raise _unreadable()


def _unreadable() -> ValueError:
    return ValueError(
        "this Redis URL cannot be read: what should be the port is no number from 0 to 65535, what should be the database is "
        "no number, or something special is not percent-encoded in a user, password or option: "
        "/ as %2F, ? as %3F, # as %23, @ as %40, : as %3A"
    )
