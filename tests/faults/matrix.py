"""A table of faults and servers that shows where the promises held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest


@dataclass
class Row:
    """The row of one fault.

    Attributes:
        promise: The promise under this fault, in a few words.
        cells: "held" or "BROKEN", by server.
        counts: The sum of ``History.counts`` over all cells.
    """

    promise: str
    cells: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


class Matrix:
    """A table with a row for each fault and a column for each server.

    Args:
        columns: The names of the servers, in order.
        seed: The seed of the workloads, which is printed below the table.
    """

    #: The columns with counts.
    COUNTS = ("reads", "writes", "acknowledged", "refused", "unknown")

    def __init__(self, columns: list[str], seed: str) -> None:
        self.rows: dict[str, Row] = {}
        self._columns = columns
        self._seed = seed

    @contextmanager
    def cell(self, fault: str, promise: str, server: str) -> Iterator[Row]:
        """Runs a cell: an exception in the block marks it as broken; a skipped test leaves it empty."""
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
        """Returns the lines of the table; none if no cell has run."""
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
