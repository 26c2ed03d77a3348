"""The Python examples of the documentation: finds, runs and prepares them for mypy.

A block that begins with three backticks and ``python`` is an example. The examples of a page share one namespace and run in
their order. Two kinds stand alone: a script calls ``asyncio.run`` at its top level, a test module defines ``test_`` functions.
A line ``<!-- not run: the reason -->`` above a block keeps it from being run; mypy checks it all the same.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: The URL that examples use. The tests put that of their server in its place.
LOCAL_URL = "redis://localhost:6379/0"
#: What bots read from their environment. No value is a real one.
ENVIRONMENT = {
    "BOT_TOKEN": "42:TOKEN",
    "DISCORD_TOKEN": "token",
    "SLACK_BOT_TOKEN": "xoxb-of-nobody",
    "SLACK_SIGNING_SECRET": "secret",
}

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_PYTHON = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*\{?(?:python|py|code-block\} python)\b", re.MULTILINE)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->\n+\Z")


@dataclass(frozen=True)
class Block:
    """One example.

    Attributes:
        page: The file that it is in.
        line: The number of its first line in that file, from 1.
        code: Its text.
        is_run: Whether it may be run.
    """

    page: Path
    line: int
    code: str
    is_run: bool

    @property
    def is_script(self) -> bool:
        return re.search(r"^asyncio\.run\(", self.code, re.MULTILINE) is not None

    @property
    def is_test_module(self) -> bool:
        return re.search(r"^(?:async )?def test_", self.code, re.MULTILINE) is not None

    @property
    def stands_alone(self) -> bool:
        """Whether it shares no names with the other examples of its page."""
        return self.is_script or self.is_test_module


def pages() -> list[Path]:
    """The README and every page of the site."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def name_of(page: Path) -> str:
    """The path of a page, as a test shows it."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The examples of a page, in their order.

    Raises:
        ValueError: a block of Python is indented or marked in another way, and would be missed.
    """
    text = page.read_text("utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start("code")) + 1, match["code"], not _NOT_RUN.search(text, 0, match.start()))
        for match in _BLOCK.finditer(text)
    ]
    if len(found) != len(_ANY_PYTHON.findall(text)):
        raise ValueError(f"{page}: begin every block of Python with ```python at the start of a line")
    return found


def run_page(page: Path, url: str, *, prefix: str | None = None) -> dict[str, Any]:
    """Runs the examples of a page that share its namespace, and closes the stores that they made; returns their names."""
    with asyncio.Runner() as runner:
        with executed(page, url, prefix=prefix, runner=runner) as names:
            pass
        return names


@contextmanager
def executed(
    page: Path, url: str, *, prefix: str | None = None, runner: asyncio.Runner | None = None
) -> Iterator[dict[str, Any]]:
    """Runs the examples of a page that share its namespace, on the server at ``url``; yields their names.

    Args:
        page: The file.
        url: Takes the place of ``LOCAL_URL``.
        prefix: Takes the place of every ``prefix="..."``.
        runner: Runs awaits at the top level of examples, and closes the stores at the end. Without one there must be no such
            awaits, and the caller closes the stores.
    """
    module = ModuleType(f"page_{page.stem.replace('-', '_')}")
    # Dataclasses and pydantic look their module up.
    sys.modules[module.__name__] = module
    try:
        for block in blocks_of(page):
            if block.is_run and not block.stands_alone:
                flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if runner else 0
                # Tracebacks show the lines of the page.
                code = "\n" * (block.line - 1) + _adapted(block.code, url, prefix)
                result = eval(  # noqa: S307 - the pages are ours
                    compile(code, str(page), "exec", flags, dont_inherit=True), vars(module)
                )
                if runner and inspect.iscoroutine(result):
                    runner.run(result)
        yield vars(module)
        if runner:
            runner.run(_close(vars(module)))
    finally:
        del sys.modules[module.__name__]


def run_alone(block: Block, url: str, folder: Path) -> list[str]:
    """Runs a script or a test module in a process of its own; returns the lines of its output.

    Raises:
        AssertionError: it failed.
    """
    path = folder / f"test_{block.page.stem.replace('-', '_')}_{block.line}.py"
    path.write_text(_adapted(block.code, url, None), "utf-8")
    options = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function"]
    pytest = ["-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *(f"-o{option}" for option in options)]
    run = subprocess.run(
        [sys.executable, *(pytest if block.is_test_module else ["-W", "error"]), str(path)],
        env=os.environ | ENVIRONMENT | {"REDIS_URL": url},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


def checkable(page: Path) -> dict[str, str]:
    """The modules that mypy checks instead of the page, by their names. Each line has the number that it has on the page.

    The examples that share a namespace become one coroutine function, since they may await at their top level.
    """
    total = page.read_text("utf-8").count("\n") + 1
    stem = re.sub(r"\W", "_", "_".join(page.with_suffix("").parts[-2:]))
    blocks = blocks_of(page)
    modules = {f"{stem}_{block.line}": _placed([block], total, "") for block in blocks if block.stands_alone}
    if together := [block for block in blocks if not block.stands_alone]:
        lines = _placed(together, total, "    ").splitlines()
        lines[0] = "async def page() -> None:"
        modules[stem] = "\n".join(lines)
    return modules


def _placed(blocks: list[Block], total: int, indent: str) -> str:
    lines = [""] * total
    for block in blocks:
        code = block.code.splitlines()
        lines[block.line - 1 : block.line - 1 + len(code)] = [indent + line if line else "" for line in code]
    return "\n".join(lines)


def _adapted(code: str, url: str, prefix: str | None) -> str:
    code = code.replace(LOCAL_URL, url)
    return code if prefix is None else re.sub(r'prefix="[^"]*"', f'prefix="{prefix}"', code)


async def _close(names: dict[str, Any]) -> None:
    for value in {id(value): value for value in names.values()}.values():
        if type(value).__module__.startswith("redis_botsession."):
            close = getattr(value, "aclose", None) or getattr(value, "close", None)
            result = close() if close else None
            if inspect.isawaitable(result):
                await result
