"""The Lua scripts: finds them, resolves their includes, and reads from their headers what each takes.

An installed package contains the scripts; in a checkout they are in the top-level ``lua/``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, TypeVar, cast

T = TypeVar("T")

_INCLUDE: Final = re.compile(r"^-- @include (\w+)\n", re.MULTILINE)
_PARAMETER: Final = re.compile(r"^-- (KEYS|ARGV)\[\d+(\.\.\.)?\] +(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script as the server gets it.

    Attributes:
        name: The operation.
        source: The text, includes in place.
        sha: Its SHA-1 in hex, by which EVALSHA calls it.
        keys: The names of its KEYS in order, as its header states them. A last name with "..." stands for any number.
        args: The names of its ARGV, likewise.
        writes_data: Whether it writes session data, which replicas and disks may have to confirm.
        preload: Whether to load it on each new connection, since most stores call it.
    """

    name: str
    source: bytes
    sha: bytes
    keys: tuple[str, ...]
    args: tuple[str, ...]
    writes_data: bool
    preload: bool

    def bind(self, arguments: Sequence[T]) -> dict[str, T | Sequence[T]]:
        """The arguments of an EVALSHA by their names, without "...".

        Args:
            arguments: The words of the command after the SHA: the number of keys, the keys, the arguments.
        """
        count = cast("int", arguments[0])
        bound: dict[str, T | Sequence[T]] = {}
        for names, given in ((self.keys, arguments[1 : 1 + count]), (self.args, arguments[1 + count :])):
            bound.update(zip(names, given, strict=False))
            if names and names[-1].endswith("..."):
                bound.pop(names[-1], None)
                bound[names[-1].removesuffix("...")] = given[len(names) - 1 :]
        return bound


def _root() -> Traversable:
    packaged = files("redis_botsession") / "lua"
    if packaged.is_dir():
        return packaged
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "lua").is_dir():
        return checkout / "lua"
    raise FileNotFoundError("redis_botsession is installed without its lua/ directory; install it again")


def load(name: str, *, writes_data: bool = True, preload: bool = True) -> Script:
    """Reads the script of the operation ``name``.

    Raises:
        FileNotFoundError: there is none.
    """
    root = _root()

    def include(match: re.Match[str]) -> str:
        return (root / "lib" / f"{match[1]}.lua").read_text("utf-8")

    text = (root / f"{name}.lua").read_text("utf-8")
    takes: dict[str, list[str]] = {"KEYS": [], "ARGV": []}
    for kind, rest, parameter in _PARAMETER.findall(text):
        takes[kind].append(parameter + rest)
    source = _INCLUDE.sub(include, text).encode("utf-8")
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode("ascii")
    return Script(name, source, sha, tuple(takes["KEYS"]), tuple(takes["ARGV"]), writes_data, preload)


SCRIPTS: Final = {
    script.name: script
    for script in (
        load("update"),
        load("set"),
        load("touch", writes_data=False),
        load("delete"),
        load("clear"),
        load("acquire", writes_data=False, preload=False),
        load("renew", writes_data=False, preload=False),
        load("release", writes_data=False, preload=False),
    )
}
