"""What was promised under each fault, and on which server it held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest


@dataclass
class Row:
    """A fault.

    Attributes:
        promise: What is promised, in a few words.
        cells: By server: "held" or "BROKEN".
        counts: As ``History.counts``, of all its cells together.
    """

    promise: str
    cells: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


class Matrix:
    """Faults by servers.

    Args:
        columns: The servers, in their order.
        seed: What makes it again.
    """

    #: What is counted, and in which order.
    COUNTS = ("reads", "writes", "acknowledged", "refused", "unknown")

    def __init__(self, columns: list[str], seed: str) -> None:
        self.rows: dict[str, Row] = {}
        self._columns = columns
        self._seed = seed

    @contextmanager
    def cell(self, fault: str, promise: str, server: str) -> Iterator[Row]:
        """The promise is broken if this ends with an exception; a test that is skipped has not run."""
        row = self.rows.setdefault(fault, Row(promise))
        try:
            yield row
        except pytest.skip.Exception:
            raise
        except BaseException:
            row.cells[server] = "BROKEN"
            raise
        else:
            row.cells[server] = "held"

    def lines(self) -> list[str]:
        """The table; nothing if no cell has run."""
        rows = {name: row for name, row in self.rows.items() if row.cells}
        if not rows:
            return []
        columns = [*self._columns, *sorted({server for row in rows.values() for server in row.cells} - set(self._columns))]
        table = [["fault", *columns, *self.COUNTS, "promise: no acknowledged write lost, none applied twice, and ..."]]
        for name, row in rows.items():
            cells = [row.cells.get(server, "-") for server in columns]
            table.append([name, *cells, *(f"{row.counts[count]:,}" for count in self.COUNTS), row.promise])
        total = sum((row.counts for row in rows.values()), Counter())
        held = sum(cell == "held" for row in rows.values() for cell in row.cells.values())
        ran = sum(len(row.cells) for row in rows.values())
        table.append(["total", *[""] * len(columns), *(f"{total[count]:,}" for count in self.COUNTS), f"{held} of {ran} held"])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for texts in table:
            padded = [
                text.rjust(width) if header in self.COUNTS else text.ljust(width)
                for header, text, width in zip(table[0], texts, widths, strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
        return [*lines, f"seed: FAULTS_SEED={self._seed}"]


MATRIX = pytest.StashKey[Matrix]()
