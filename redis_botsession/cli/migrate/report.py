"""Prints what a migration has done: for people, or as JSON."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Final

from ..doctor.report import printable
from .tally import Tally

_LABELS: Final = {
    "migrated": "migrated",
    "there": "there already",
    "changed": "  of these not the same",
    "expired": "expired meanwhile",
    "not_understood": "not understood",
    "failed": "failed",
    "deleted": "deleted at the source",
    "kept": "kept at the source, since changed there or in the target",
}
_DRY_LABELS: Final = _LABELS | {"migrated": "would be migrated", "deleted": "would be deleted at the source"}
#: Shown only where there are some.
_RARE: Final = {"changed", "deleted", "kept"}


class Printer:
    """Writes to stdout, and failures to stderr. What a server has sent is escaped.

    Args:
        source: What to call the source.
        target: What to call the target.
        prefix: What its keys begin with.
        is_dry: Whether nothing was written.
        as_json: Whether all, failures too, becomes one JSON object on stdout.
    """

    def __init__(self, source: str, target: str, prefix: str, *, is_dry: bool, as_json: bool) -> None:
        self._source = source
        self._target = target
        self._prefix = prefix
        self._is_dry = is_dry
        self._as_json = as_json
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    def note(self, text: str) -> None:
        """Something to know before it begins."""
        if not self._as_json:
            sys.stderr.write(f"botsession migrate: {printable(text)}\n")

    def show(self, tally: Tally, status: int, problem: str = "") -> None:
        """Prints the counts, and why it ended before its end, if it did."""
        if self._as_json:
            _write_json(
                {
                    "status": "incomplete" if problem else "done",
                    "exit_status": status,
                    **({"error": printable(problem)} if problem else {}),
                    "source": self._source,
                    "target": self._target,
                    "prefix": self._prefix,
                    "dry_run": self._is_dry,
                    "counts": tally.counts(),
                    "listed": {
                        name: [{"key": key, "reason": reason} for key, reason in rows] for name, rows in tally.listed.items()
                    },
                }
            )
            return
        sys.stdout.writelines(f"{printable(line)}\n" for line in self._lines(tally))
        if problem:
            sys.stdout.flush()
            sys.stderr.write(f"botsession migrate: {printable(problem)}\n")

    def _lines(self, tally: Tally) -> Iterator[str]:
        yield f"from {self._source}"
        yield f"to   {self._target}, prefix {self._prefix}{' (dry run: nothing is written)' if self._is_dry else ''}"
        for name, count in tally.counts().items():
            if count or name not in _RARE:
                yield f"{count:12,}  {(_DRY_LABELS if self._is_dry else _LABELS)[name]}"
        for name, rows in tally.listed.items():
            if rows:
                all_of_them = tally.counts()[name]
                yield f"{_LABELS[name]}{f', the first {len(rows)}' if all_of_them > len(rows) else ''}:"
                yield from (f"  {key}: {reason}" for key, reason in rows)


def fail(reason: str, status: int, *, as_json: bool) -> None:
    """Says why nothing was begun."""
    if as_json:
        _write_json({"status": "failed", "exit_status": status, "error": printable(reason)})
    else:
        sys.stderr.write(f"botsession migrate: {printable(reason)}\n")


def _write_json(value: object) -> None:
    # Escapes control characters, and all that is not ASCII, itself.
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
