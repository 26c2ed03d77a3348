"""Shows the progress of a migration on stderr: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import Any, Final, Protocol

from .resume import Place

#: Seconds between two lines.
INTERVAL: Final = 5.0


class Progress(Protocol):
    """Shows the progress of a migration."""

    def show(self, place: Place) -> None:
        """Shows how far the migration is."""
        ...

    def close(self) -> None:
        """Ends the display."""
        ...


class Silence:
    """Shows no progress, for ``--json``."""

    def show(self, place: Place) -> None: ...

    def close(self) -> None: ...


class Lines:
    """Prints a line every few seconds.

    Args:
        total: How many keys SCAN will have looked at in the end, some; 0: not known.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._next = time.monotonic() + INTERVAL

    def show(self, place: Place) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            sys.stderr.write(f"botsession migrate: {_share(place, self._total)}{_done(place)}\n")

    def close(self) -> None: ...


class Bar:
    """Draws a bar with rich.

    Args:
        total: As for ``Lines``.
    """

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns: list[Any] = [BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
        self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=total or None)
        self._total = total
        self._bar.start()

    def show(self, place: Place) -> None:
        self._bar.update(self._task, completed=min(place.scanned, self._total or place.scanned), description=_done(place))

    def close(self) -> None:
        self._bar.stop()


def progress_for(keys: int, *, is_silent: bool) -> Progress:
    """Chooses the display for this process.

    Args:
        keys: How many keys there are on the server; 0: not known.
        is_silent: Whether nothing is to be said.
    """
    # The cursor of SCAN goes through the buckets of a table, whose number is a power of two.
    total = 1 << (keys - 1).bit_length() if keys else 0
    if is_silent:
        return Silence()
    if sys.stderr.isatty() and find_spec("rich") is not None:
        return Bar(total)
    return Lines(total)


def _share(place: Place, total: int) -> str:
    return f"{min(100, 100 * place.scanned // total)}%, " if total else ""


def _done(place: Place) -> str:
    tally = place.tally
    troubles = tally.not_understood + tally.failed
    tail = f", {troubles:,} with problems" if troubles else ""
    return f"{tally.migrated:,} migrated, {tally.there:,} there already{tail}"
