"""Finds the Lua scripts, puts their includes in, and knows their SHA-1 for EVALSHA.

An installed package has the scripts inside of it; in a checkout they are in the top-level ``lua/``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

_INCLUDE = re.compile(r"^-- @include (\w+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script as the server gets it.

    Attributes:
        name: The operation.
        source: The text, includes in place.
        sha: Its SHA-1 in hex, by which EVALSHA calls it.
    """

    name: str
    source: bytes
    sha: bytes


def _root() -> Traversable:
    packaged = files("redis_botsession") / "lua"
    if packaged.is_dir():
        return packaged
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "lua").is_dir():
        return checkout / "lua"
    raise FileNotFoundError("redis_botsession is installed without its lua/ directory; install it again")


@cache
def load(name: str) -> Script:
    """The script of the operation ``name``.

    Raises:
        FileNotFoundError: there is none.
    """
    root = _root()

    def include(match: re.Match[str]) -> str:
        return (root / "lib" / f"{match[1]}.lua").read_text("utf-8")

    source = _INCLUDE.sub(include, (root / f"{name}.lua").read_text("utf-8")).encode("utf-8")
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode("ascii"))


@dataclass(frozen=True, slots=True)
class Binding:
    """A script and the names of what it is given, in order; the header of the script says the same (a test holds that).

    The last name of ``keys`` or ``args`` stands for as many as are left if it ends in "...".
    """

    script: Script
    keys: tuple[str, ...]
    args: tuple[str, ...]


#: The scripts of leases, which most stores never call.
LEASES: Final = frozenset({"acquire", "renew", "release"})

BINDINGS: Final = {
    name: Binding(load(name), keys, args)
    for name, keys, args in (
        (
            "update",
            ("session", "index"),
            (
                "member",
                "owner",
                "ttl_ms",
                "expected_version",
                "create",
                "since_version",
                "expires_at",
                "max_bytes",
                "modes",
                "named",
                "fields...",
            ),
        ),
        (
            "set",
            ("session", "index"),
            ("member", "owner", "ttl_ms", "expected_version", "created_at", "expires_at", "size", "fields..."),
        ),
        ("touch", ("session", "index"), ("member", "ttl_ms")),
        ("delete", ("session", "index"), ("member", "expected_version")),
        ("clear", ("index", "sessions..."), ("members...",)),
        ("acquire", ("lease",), ("token", "lease_ms")),
        ("renew", ("lease",), ("token", "lease_ms")),
        ("release", ("lease",), ("token",)),
    )
}
