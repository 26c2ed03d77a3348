"""The Python examples of the README and of every page run, against a real server."""

from __future__ import annotations

import queue
import re
from pathlib import Path

import pytest

from redis_botsession.testing import StoreContract

from ..support.pages import DOCS, ROOT, Block, blocks_of, name_of, pages, run_alone, run_page

EXAMPLES = [page for page in pages() if blocks_of(page)]
ALONE = [block for page in EXAMPLES for block in blocks_of(page) if block.stands_alone and block.is_run]


def test_pages_have_examples() -> None:
    assert len(EXAMPLES) >= 15
    for section in ("start", "guides", "how-to"):
        assert any(page.parent == DOCS / section for page in EXAMPLES), section


def test_pages_keep_few_examples_from_being_run() -> None:
    assert sum(not block.is_run for page in EXAMPLES for block in blocks_of(page)) <= 5


# discord.py imports it for voice; Python 3.13 has none.
@pytest.mark.filterwarnings("ignore:'audioop' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("page", EXAMPLES, ids=name_of)
def test_page_examples_run_in_their_order(page: Path, empty_url: str, slack_posts: queue.Queue[tuple[str, str]]) -> None:
    run_page(page, empty_url)
    assert slack_posts.empty()


@pytest.mark.parametrize("block", ALONE, ids=lambda block: f"{name_of(block.page)}:{block.line}")
def test_page_scripts_and_test_modules_succeed(block: Block, empty_url: str, tmp_path: Path) -> None:
    assert run_alone(block, empty_url, tmp_path)


def test_first_bot_goes_on_where_it_was(empty_url: str, tmp_path: Path) -> None:
    (bot,) = (block for block in ALONE if block.page == DOCS / "start" / "first-bot.md" and "SessionMiddleware" in block.code)
    assert [run_alone(bot, empty_url, tmp_path) for _ in range(2)] == [
        ["message 1, so far: hello", "message 2, so far: hello again"],
        ["message 3, so far: hello again hello", "message 4, so far: hello again hello again"],
    ]


def test_own_store_page_uses_the_contract(empty_url: str) -> None:
    names = run_page(DOCS / "how-to" / "own-store.md", empty_url)
    assert issubclass(names["TestMyStore"], StoreContract)


@pytest.mark.parametrize(
    ("page", "path"),
    [
        (page, path)
        for page in DOCS.rglob("*.md")
        for path in re.findall(r"`((?:tests|examples|lua)/[\w/.]*)`", page.read_text("utf-8"))
    ],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_page_names_files_that_exist(page: Path, path: str) -> None:
    assert (ROOT / path).exists(), name_of(page)
