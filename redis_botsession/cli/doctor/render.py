"""Prints a report: as text, coloured where the terminal can, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

from .._terminal import accept_any_text, printable, write_json
from .findings import UNKNOWN, Finding, Report, Severity

_STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan", Severity.OK: "green"}
#: A line as pieces of text, each with its style.
_Line = list[tuple[str, str]]


class Printer:
    """Writes to stdout, and failures to stderr.

    Whatever a server has sent is escaped, and none of it is taken for markup.

    Args:
        as_json: Whether all, failures too, becomes one JSON object on stdout.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        accept_any_text()

    def show(self, report: Report) -> None:
        """Prints the report."""
        if self._as_json:
            write_json(report.as_dict())
            return
        lines = list(_lines(report))
        if sys.stdout.isatty() and find_spec("rich") is not None:
            _write_coloured(lines)
        else:
            sys.stdout.writelines("".join(text for text, _ in line) + "\n" for line in lines)

    def fail(self, reason: str) -> None:
        """Prints why nothing could be found out."""
        if self._as_json:
            write_json({"status": "unknown", "exit_status": UNKNOWN, "error": printable(reason)})
        else:
            sys.stderr.write(f"botsession doctor: {printable(reason)}\n")


def _write_coloured(lines: list[_Line]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)


def _lines(report: Report) -> Iterator[_Line]:
    for node in report.nodes:
        headline = f"{node.product} {node.version} at {node.address}, {node.role}, as user {node.user}"
        yield [(printable(headline), "bold")]
    is_one = len(report.nodes) == 1
    for finding in report.findings:
        if finding.severity > Severity.OK:
            yield []
            yield from _in_full(finding, is_one)
    fine = [finding for finding in report.findings if finding.severity is Severity.OK]
    if fine:
        yield []
    for finding in fine:
        yield [("ok", _STYLES[Severity.OK]), (printable(f"        {finding.id}: {finding.found}{_where(finding, is_one)}"), "")]
    yield []
    counted = ", ".join(f"{count} {label}" for label, count in report.counts().items())
    yield [(counted, _STYLES[report.severity])]


def _in_full(finding: Finding, is_one: bool) -> Iterator[_Line]:
    label = finding.severity.label.upper()
    yield [(f"{label:10}", _STYLES[finding.severity]), (printable(finding.id + _where(finding, is_one)), "bold")]
    for name, text in (("found", finding.found), ("why", finding.why), ("do", finding.advice)):
        if text:
            yield [(f"  {name:8}", "dim"), (printable(text), "")]


def _where(finding: Finding, is_one: bool) -> str:
    return "" if is_one or not finding.nodes else f" ({', '.join(finding.nodes)})"
