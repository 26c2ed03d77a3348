"""Prints the counts of a migration, for people or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from .._terminal import accept_any_text, printable, write_json
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
        accept_any_text()

    def note(self, text: str) -> None:
        """Prints a note before the migration begins."""
        if not self._as_json:
            sys.stderr.write(f"botsession migrate: {printable(text)}\n")

    def show(self, tally: Tally, status: int, problem: str = "") -> None:
        """Prints the counts, and the problem that ended the migration, if any."""
        if self._as_json:
            write_json(
                {
                    "status": "done" if status <= 1 else "incomplete",
                    "exit_status": status,
                    **({"error": printable(problem)} if problem else {}),
                    "source": self._source,
                    "target": self._target,
                    "prefix": self._prefix,
                    "dry_run": self._is_dry,
                    "counts": tally.counts(),
                    "without_ttl": tally.without_ttl,
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
        if tally.without_ttl:
            yield f"{tally.without_ttl:,} of these have no TTL: to keep them, the bot needs ttl=None (the adapters' default)"
        for name, rows in tally.listed.items():
            if rows:
                all_of_them = tally.counts()[name]
                yield f"{_LABELS[name]}{f', the first {len(rows)}' if all_of_them > len(rows) else ''}:"
                yield from (f"  {key}: {reason}" for key, reason in rows)


def fail(reason: str, status: int, *, as_json: bool) -> None:
    """Prints why the migration did not begin."""
    if as_json:
        write_json({"status": "failed", "exit_status": status, "error": printable(reason)})
    else:
        sys.stderr.write(f"botsession migrate: {printable(reason)}\n")
