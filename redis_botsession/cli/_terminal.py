"""What all commands need to write to a terminal or a pipe: escaping, JSON, streams that accept any text."""

from __future__ import annotations

import io
import json
import sys
from typing import Final

#: The Redis that commands use if neither ``--url`` nor REDIS_URL names one.
DEFAULT_URL: Final = "redis://localhost:6379/0"
# Zero-width joiner and non-joiner are part of words (Persian) and emoji, and a terminal does not obey them.
_JOINERS: Final = "\u200c\u200d"


def printable(text: str) -> str:
    r"""``text`` with every character that a terminal would obey, or not show, as an escape like ``\x1b``."""
    return "".join(
        char if char.isprintable() or char in _JOINERS else char.encode("unicode_escape").decode("ascii") for char in text
    )


def accept_any_text() -> None:
    """Lets stdout and stderr escape characters that their encoding lacks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_json(value: object) -> None:
    """Writes a value to stdout as JSON, which escapes control characters and all that is not ASCII."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
