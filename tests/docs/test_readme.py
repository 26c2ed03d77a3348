"""The examples of the README run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from redis_botsession import MemorySessionStore

README = Path(__file__).parents[2] / "README.md"
# Those for other frameworks run in test_recipes.py.
TEXT = re.sub(r"^## Other frameworks\n.*?(?=^## )", "", README.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def is_script(example: str) -> bool:
    return "asyncio.run(" in example


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


def test_the_bot_works_and_goes_on_where_it_was(newest_url: str) -> None:
    (bot,) = filter(is_script, EXAMPLES)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", bot], env=os.environ | {"REDIS_URL": newest_url}, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert outputs == [
        ["message 1, so far: hello", "message 2, so far: hello again"],
        ["message 3, so far: hello again hello", "message 4, so far: hello again hello again"],
    ]


def test_the_other_examples_run_in_their_order(newest_url: str) -> None:
    # dataclasses look their module up.
    names: dict[str, Any] = {"__name__": __name__, "MyStore": MemorySessionStore}
    with asyncio.Runner() as runner:
        for example in EXAMPLES:
            if not is_script(example):
                code = compile(
                    example.replace("redis://localhost:6379/0", newest_url), str(README), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                )
                runner.run(_execute(code, names))
    assert issubclass(names["TestMyStore"], names["StoreContract"])


async def _execute(code: CodeType, names: dict[str, Any]) -> None:
    result = eval(code, names)  # noqa: S307 - the README is ours
    if inspect.iscoroutine(result):
        await result


@pytest.mark.parametrize("path", re.findall(r"`(tests/[\w/]+\.py)`", README.read_text("utf-8")))
def test_the_tests_that_the_readme_names_exist(path: str) -> None:
    assert (README.parent / path).is_file()
