"""Samples the sizes of sessions, never their data."""

from __future__ import annotations

from typing import Any, Final

from ..._protocol.commands import SCAN_COUNT
from ..._protocol.layout import Keys
from .asking import Server, text
from .facts import Sample, Shape

#: Round trips of SCAN, at most: 50,000 keys.
_ROUNDS: Final = 50
#: Sessions that are looked at in one round trip.
_BATCH: Final = 20


def gather_sample(server: Server, keys: Keys, count: int) -> Sample | None:
    """Samples ``count`` sessions at most; None if the server refuses to list keys."""
    found: dict[bytes, None] = {}
    cursor: Any = 0
    is_complete = False
    for _ in range(_ROUNDS):
        reply = server.ask("SCAN", cursor, "MATCH", keys.pattern, "COUNT", SCAN_COUNT, "TYPE", "hash", name="SCAN")
        if reply is None:
            return None
        cursor, names = reply
        found |= dict.fromkeys(name for name in names if keys.ids(name) is not None)
        is_complete = int(cursor) == 0
        if is_complete or len(found) >= count:
            break
    sessions = list(found)[:count]
    shapes: list[Shape] = []
    for first in range(0, len(sessions), _BATCH):
        shapes += _shapes(server, sessions[first : first + _BATCH])
    return Sample(tuple(shapes), is_complete)


def _shapes(server: Server, sessions: list[bytes]) -> list[Shape]:
    fields = server.ask_many(("HKEYS", key) for key in sessions)
    encodings = server.ask_many(("OBJECT", "ENCODING", key) for key in sessions)
    shapes = []
    for key, names, encoding in zip(sessions, fields, encodings, strict=True):
        if isinstance(encoding, Exception):
            # "no such key": it has just expired.
            if "no such key" not in str(encoding):
                server.refused.setdefault("OBJECT ENCODING", str(encoding))
            encoding = b""
        if isinstance(names, Exception):
            server.refused.setdefault("HKEYS", str(names))
            continue
        lengths = server.ask_many(("HSTRLEN", key, name) for name in names) if names else []
        longest = [int(length) for length in lengths if not isinstance(length, Exception)]
        if longest:
            shapes.append(Shape(text(encoding or b""), len(names), max(max(longest), *map(len, names))))
    return shapes
