"""Checks of the version: which product is it, and is it new enough?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..findings import Finding, Severity

#: The scripts need what this version of Redis has.
OLDEST = (6, 2)


def product_of(info: Mapping[str, Any]) -> tuple[str, str]:
    """The name of the product, and its version."""
    name = str(info.get("server_name") or "")
    if "valkey_version" in info:
        name = "valkey"
    elif "dragonfly_version" in info:
        name = "dragonfly"
    version = info.get(f"{name}_version") or info.get("redis_version") or "of unknown version"
    return (name or "redis").capitalize(), str(version)


def role_of(info: Mapping[str, Any]) -> str:
    """The role of the server: "primary", "replica" or "unknown"."""
    return {"master": "primary", "slave": "replica", "sentinel": "sentinel"}.get(str(info.get("role")), "unknown")


def is_sentinel(info: Mapping[str, Any]) -> bool:
    """Whether this is a Sentinel, which keeps no data."""
    return "sentinel" in (info.get("redis_mode"), info.get("server_mode"), info.get("role"))


def check_version(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Checks the version, and that the server keeps data at all."""
    product, version = product_of(info)
    if is_sentinel(info):
        yield Finding(
            "mode",
            Severity.CRITICAL,
            f"this is a Sentinel of {product} {version}, not a server that keeps data",
            "A store with this URL can neither load nor save.",
            "Use a URL of the form redis+sentinel://host:port,host:port/service, or the address of the primary.",
        )
        return
    # Compatible servers report the version of Redis that they are compatible with.
    number = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version") or version))
    if number is None:
        yield Finding(
            "version",
            Severity.WARNING,
            f"{product} {version}",
            "The store needs the commands of Redis 6.2; whether they are here is not known.",
            "Let the doctor's user run INFO, or look at the version on the server.",
        )
    elif (int(number[1]), int(number[2])) < OLDEST:
        yield Finding(
            "version",
            Severity.CRITICAL,
            f"{product} {version}",
            "The scripts of the store need Redis 6.2 or later: no session can be saved.",
            "Upgrade to Redis 6.2 or later, or to Valkey.",
        )
    else:
        yield Finding("version", Severity.OK, f"{product} {version}")
