"""Formats the results as tables in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .lost_updates import PROCESSES, UPDATES
from .summary import REFERENCE, Median, lost, medians, ratio, targets
from .workload import session_data


def report(results: Mapping[str, Any]) -> str:
    """Returns all tables."""
    return "\n\n".join(_sections(results)) + "\n"


def _sections(results: Mapping[str, Any]) -> Iterator[str]:
    machine, settings = results["machine"], results["settings"]
    yield "# redis-botsession compared"
    yield (
        f"{results['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['system']}; {results['server']}; "
        f"event loop: {settings['loop']}; medians of rounds: {settings['rounds']}, of {settings['seconds']:g} s each."
    )
    yield ", ".join(f"{package} {version}" for package, version in results["versions"].items())
    if settings["quick"]:
        yield "**A quick run: it shows only that the benchmark works. Its figures mean nothing.**"
    titles = {contender["name"]: contender["title"] for contender in results["contenders"]}
    for size in settings["sizes"]:
        yield from _cycles(results, titles, size)
    yield from _targets(results)
    yield from _costs(results, titles)
    if results["missing"]:
        yield "Not installed, left out: " + ", ".join(results["missing"])
    if results["failures"]:
        yield "Failed:\n\n" + "\n".join(f"- {failure}" for failure in results["failures"])


def _cycles(results: Mapping[str, Any], titles: Mapping[str, str], size: str) -> Iterator[str]:
    cells = medians(results["cycles"])
    handlers: Sequence[int] = results["settings"]["handlers"]
    names = [name for name in titles if any((name, size, count) in cells for count in handlers)]
    if not names:
        return
    count = len(json.dumps(session_data(size)))
    yield f"## Message cycles: {size} sessions ({count:,} bytes as JSON)"

    def rows(show: Any) -> Iterator[list[str]]:
        for name in names:
            found = [(number, cells.get((name, size, number))) for number in handlers]
            yield [titles[name], *("" if median is None else show(name, number, median) for number, median in found)]

    def speed(name: str, number: int, median: Median) -> str:
        times = ratio(cells, size, number, name)
        text = f"{median.cycles_per_second:,.0f}" + ("\\*" if median.errors else "")
        return text if times is None or name == REFERENCE else f"{text} ({times:.2f}x)"

    def latency(_: str, __: int, median: Median) -> str:
        return f"{_ms(median.p50_ms)} / {_ms(median.p99_ms)}"

    def sockets(_: str, __: int, median: Median) -> str:
        return "; ".join([f"{median.sockets:,}", *(f"{many:,} {kind}" for kind, many in sorted(median.errors.items()))])

    columns = [f"{number:,}" for number in handlers]
    yield (
        f"Cycles (load, change one key, save) per second, by concurrent handlers; in brackets the cycles of "
        f"{titles.get(REFERENCE, REFERENCE)} divided by these; \\*: besides failed cycles, which are not counted."
    )
    yield table(["", *columns], rows(speed))
    yield "Latency of the completed cycles in ms, p50 / p99:"
    yield table(["", *columns], rows(latency))
    yield "Connections in use; failed cycles of all rounds by their exception:"
    yield table(["", *columns], rows(sockets))


def _targets(results: Mapping[str, Any]) -> Iterator[str]:
    found = targets(results)
    if found:
        yield "## Targets"
        yield "\n".join(
            f"- {target.text}: {_short(target.value)}, {target.wanted} wanted: {'reached' if target.reached else '**missed**'}"
            for target in found
        )


def _costs(results: Mapping[str, Any], titles: Mapping[str, str]) -> Iterator[str]:
    if kept := results.get("lost_updates"):
        yield f"## Lost updates: kept of {UPDATES} concurrent updates of one session"
        columns = [f"from {number} process{'' if number == 1 else 'es'}" for number in PROCESSES]
        yield table(
            ["", *columns], ([titles[name], *(f"{lost(results, name, number):g}" for number in PROCESSES)] for name in kept)
        )
    if wire := results.get("wire"):
        yield "## Bytes on the wire: one key of a large session"
        parts = ("update_to_server", "update_from_server", "cycle_to_server", "cycle_from_server")
        columns = ["update, to the server", "from it", "message cycle, to the server", "from it"]
        yield table(["", *columns], ([titles[name], *(f"{sent[part]:,.0f}" for part in parts)] for name, sent in wire.items()))
    if clear := results.get("clear"):
        yield f"## clear(user): 10 sessions, beside {clear['others']:,} other keys"
        rows = (
            [titles[name], *(_short(clear[name][part]) for part in ("median_ms", "longest_ping_ms"))] for name in clear["names"]
        )
        yield table(["", "median, ms", "longest wait of another client's PING meanwhile, ms"], rows)
    if memory := results.get("memory"):
        yield "## Memory of the server: bytes per session"
        sizes = list(next(iter(memory.values())))
        yield table(["", *sizes], ([titles[name], *(f"{used[size]:,.0f}" for size in sizes)] for name, used in memory.items()))
    if server := results.get("server_cpu"):
        yield "## The server's processor: µs per message cycle, small sessions, 16 handlers"
        yield table(
            ["", "in commands (commandstats)", "process as a whole, with its network I/O"],
            ([titles[name], f"{used['commands_us']:.1f}", f"{used['process_us']:.1f}"] for name, used in server.items()),
        )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown; all columns but the first are numbers."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else _short(value)


def _short(value: float) -> str:
    """Returns a number with about three significant digits."""
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
