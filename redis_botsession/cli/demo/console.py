"""The terminal, or the pipe, that the demo bot talks to."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .._terminal import printable
from .watch import Row, Stored

#: Characters of a value that are shown.
LONGEST_VALUE = 200
#: Columns of the box around what is stored, at most.
WIDEST_BOX = 100

_COLOURS = {"new": "green", "changed": "yellow", "removed": "red"}


def duration(ms: int | None) -> str:
    """Milliseconds in words: ``29 min 59 s``; "none" for None. Rounded down: nothing is promised that is not there."""
    if ms is None:
        return "none"
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    first = next((n for n, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first:])


@dataclass(frozen=True, slots=True)
class Step:
    """What one message has led to.

    Attributes:
        replies: What the bot has answered.
        rows: The data in the session now.
        stored: The session in Redis now; None: it could not be read.
        calls: What the store was asked to do.
        problem: What went wrong in talking to Redis, if anything did.
    """

    replies: Sequence[str]
    rows: Sequence[Row] = ()
    stored: Stored | None = None
    calls: Sequence[str] = ()
    problem: str | None = None


class Terminal:
    """Reads lines from stdin and writes to stdout; into a pipe, or from one, as plain text.

    Whatever a user or Redis has put in is escaped, and none of it is taken for markup.
    """

    def __init__(self) -> None:
        for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=errors)
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._out = Console(
            force_terminal=None if self.interactive else False,
            color_system="auto" if self.interactive else None,
            highlight=False,
            markup=False,
            emoji=False,
        )
        if self.interactive:
            # Gives input() line editing and history, where Python was built with it.
            with contextlib.suppress(ImportError):
                importlib.import_module("readline")

    def read(self) -> str | None:
        """The next line; None at the end of the input. Raises ``KeyboardInterrupt`` on Ctrl-C."""
        if self.interactive:
            try:
                return input("you> ")
            except EOFError:
                self._print()
                return None
        line = sys.stdin.readline()
        if not line:
            return None
        # Input from a pipe is not echoed by a terminal, so the transcript repeats it.
        self._print("you> " + printable(line.rstrip("\n")))
        return line

    def note(self, text: str) -> None:
        """Says something that is not the bot's."""
        self._print(_printable_lines(text), style="dim")

    def fail(self, text: str) -> None:
        """Says on stderr why the demo ends."""
        sys.stderr.write(f"botsession demo: {_printable_lines(text)}\n")

    def end(self) -> None:
        """Ends the line that a prompt was left on."""
        if self.interactive:
            self._print()

    def show(self, step: Step) -> None:
        """Shows the replies, and what is stored now."""
        for reply in step.replies:
            self._show_reply(reply)
        if step.problem:
            self._print("Redis: " + printable(step.problem), style="bold red")
        if step.stored:
            self._show_stored(step.stored, step.rows, step.calls)
        self._print()

    def _print(self, *lines: str, style: str | None = None) -> None:
        # Whole lines: the terminal wraps them, and in a pipe they stay as they are.
        self._out.print(Text("\n".join(lines), style=style or ""), soft_wrap=True)

    def _show_reply(self, reply: str) -> None:
        text = _printable_lines(reply)
        if self.interactive:
            grid = Table.grid()
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            grid.add_row("bot> ", Text(text), style="bold cyan")
            self._out.print(grid)
        else:
            self._print("bot> " + text.replace("\n", "\n     "))

    def _show_stored(self, stored: Stored, rows: Sequence[Row], calls: Sequence[str]) -> None:
        asked = f"store calls: {'; '.join(calls)}"
        if stored.session is None and not rows:
            self._print(f"     [{printable(stored.key)}] nothing is stored; {printable(asked)}", style="dim")
            return
        footer = [_lifetime(stored), asked]
        if not self.interactive:
            width = max((len(printable(row.name)) for row in rows), default=0)
            data = [f"{row.mark:7}  {printable(row.name):{width}}  {_value(row)}" for row in rows]
            self._print(f"     [{printable(stored.key)}]", *(f"       {printable(line)}" for line in (*data, *footer)))
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=7)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for row in rows:
            style = _COLOURS.get(row.mark, "")
            table.add_row(Text(row.mark, style), Text(printable(row.name), style), Text(_value(row), style))
        body: list[RenderableType] = [table] if rows else []
        body += [Text(printable(line), "dim") for line in footer]
        box = Panel(
            Group(*body),
            title=Text(printable(stored.key), "bold"),
            title_align="left",
            border_style="dim",
            width=min(self._out.width, WIDEST_BOX),
        )
        self._out.print(box)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _value(row: Row) -> str:
    # repr escapes what is not printable, in nested values as well.
    text = repr(row.value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def _lifetime(stored: Stored) -> str:
    session = stored.session
    if session is None:
        return "nothing is stored any more"
    expires_at = session.expires_at
    rule = f"set by expires_at, {expires_at:%H:%M:%S} UTC" if expires_at else "renewed by each message"
    return f"version {session.version}, TTL {duration(stored.ttl_ms)} ({rule})"
