"""Takes the medians over all rounds, and compares them with the targets."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

#: The contender that all others are compared with.
REFERENCE: Final = "store"
#: A contender, a session size and a number of handlers.
Place = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Median:
    """The medians over the rounds of one cell.

    Attributes:
        cycles_per_second: Completed without an error.
        p50_ms: Median latency in milliseconds; None if no cycle was completed in any round.
        p99_ms: 99th percentile of the latency, likewise.
        sockets: Most connections in any round.
        errors: Number of failed cycles of all rounds together, by the name of the exception.
    """

    cycles_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    sockets: int
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Target:
    """A target of the comparison.

    Attributes:
        text: What is measured.
        value: The measured value.
        wanted: The target, such as "at least 7".
        reached: Whether the value meets it.
    """

    text: str
    value: float
    wanted: str
    reached: bool


def medians(cells: Iterable[Mapping[str, Any]]) -> dict[Place, Median]:
    """Returns the medians over the rounds."""
    rounds: dict[Place, list[Mapping[str, Any]]] = {}
    for cell in cells:
        rounds.setdefault((cell["contender"], cell["size"], cell["handlers"]), []).append(cell)
    return {place: _median(of_place) for place, of_place in rounds.items()}


def _median(cells: list[Mapping[str, Any]]) -> Median:
    errors: Counter[str] = Counter()
    for cell in cells:
        errors.update(cell["errors"])
    return Median(
        cycles_per_second=statistics.median(cell["cycles_per_second"] for cell in cells),
        p50_ms=_median_of(cell["p50_ms"] for cell in cells),
        p99_ms=_median_of(cell["p99_ms"] for cell in cells),
        sockets=max(cell["sockets"] for cell in cells),
        errors=dict(errors),
    )


def _median_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ratio(all_medians: Mapping[Place, Median], size: str, handlers: int, other: str) -> float | None:
    """Returns the reference's cycles per second divided by those of ``other``; None if one is missing or ``other`` has none."""
    ours, theirs = all_medians.get((REFERENCE, size, handlers)), all_medians.get((other, size, handlers))
    if ours is None or theirs is None or not theirs.cycles_per_second:
        return None
    return ours.cycles_per_second / theirs.cycles_per_second


def targets(results: Mapping[str, Any]) -> list[Target]:
    """Compares the results with the targets, all for small sessions; leaves out what was not measured."""
    cells = medians(results["cycles"])
    found: list[Target] = []

    def add(text: str, value: float | None, *, least: float | None = None, most: float | None = None) -> None:
        if value is None:
            return
        if least is not None:
            found.append(Target(text, value, f"at least {least:,g}", value >= least))
        elif most is not None:
            found.append(Target(text, value, f"at most {most:,g}", value <= most))

    for other, title, handlers, least in (
        ("json", "JSON on redis-py", 64, 7.0),
        ("glide", "JSON on valkey-glide", 64, 2.5),
        ("glide", "JSON on valkey-glide", 512, 4.0),
        ("ceiling", "the ceiling", 64, 0.75),
        ("ceiling", "the ceiling", 512, 0.75),
    ):
        add(f"cycles/s at {handlers} handlers, times {title}", ratio(cells, "small", handlers, other), least=least)
    ours, theirs = cells.get((REFERENCE, "small", 1)), cells.get(("json", "small", 1))
    if ours and theirs and ours.p50_ms and theirs.p50_ms:
        add("p50 of one handler, times JSON on redis-py", ours.p50_ms / theirs.p50_ms, most=1)
    if crowd := cells.get((REFERENCE, "small", 5000)):
        add("failed cycles at 5,000 handlers", sum(crowd.errors.values()), most=0)
        add("connections at 5,000 handlers", crowd.sockets, most=4)
    if clear := results.get("clear"):
        speedup = clear["json"]["median_ms"] / clear[REFERENCE]["median_ms"]
        add(f"clear(user) beside {clear['others']:,} other keys, times faster than KEYS", speedup, least=1000)
    return found


def lost(results: Mapping[str, Any], name: str, processes: int) -> float:
    """Returns how many updates were kept: the median over the runs."""
    runs: list[int] = results["lost_updates"][name][str(processes)]
    return statistics.median(runs)
