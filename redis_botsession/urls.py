"""What a Redis URL says. No message here shows a URL: there may be a password in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import parse_url

Address = tuple[str, int]

_MANY = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>cluster|sentinel)://(?:(?P<user>.*)@)?(?P<hosts>[^@/?]*)(?P<path>/[^?]*)?(?P<query>\?.*)?"
)
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
    options: dict[str, Any]
    seeds: tuple[Address, ...] = ()
    service: str = ""


def read_url(url: str) -> Target:
    """Reads ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``, ``redis+sentinel://`` and both with ``rediss``.

    Raises:
        TypeError: not a ``str``.
        ValueError: not such a URL.
    """
    if not isinstance(url, str):
        raise TypeError(f"a Redis URL must be str, not {type(url).__name__}")
    many = _MANY.fullmatch(url)
    if many is None:
        return Target("server", _options(url))
    kind, path = many["kind"], (many["path"] or "").strip("/")
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ValueError(
                "a redis+sentinel:// URL ends in the name of the service: redis+sentinel://host:port,host:port/NAME"
            )
    user = f"{many['user']}@" if many["user"] is not None else ""
    seeds, options = [], {}
    for host in many["hosts"].split(","):
        if not host:
            raise ValueError(
                f"a redis+{kind}:// URL names hosts, with commas between them: redis+{kind}://host:port,host:port/..."
            )
        options = _options(f"{many['scheme']}://{user}{host}/{path}{many['query'] or ''}")
        seeds.append((options.pop("host"), options.pop("port", _PORTS[kind])))
    return Target(kind, options, tuple(seeds), service)


def _options(url: str) -> dict[str, Any]:
    try:
        return dict(parse_url(url))
    except ValueError as error:
        # redis-py's own messages are good; that of urllib has a piece of the URL in it, which may be one of the password.
        if str(error).startswith(("Redis URL must", "Invalid value for")):
            raise ValueError(
                f"{error} (or redis+cluster://, redis+sentinel://)" if "must" in str(error) else str(error)
            ) from None
        raise ValueError(
            "this Redis URL cannot be read: what should be the port is no number from 0 to 65535. "
            "Percent-encode what is special in a user or password: / as %2F, @ as %40, : as %3A"
        ) from None
