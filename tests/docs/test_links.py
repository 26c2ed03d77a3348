"""The site builds without a warning: no page is missing, and every link within it leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ..support.pages import DOCS, ROOT


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-W",
            "--keep-going",
            "-b",
            "dummy",
            "-d",
            str(tmp_path),
            str(DOCS),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


URLS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
SITE, REPOSITORY = URLS["Documentation"], URLS["Homepage"]
#: Where the same files are, as they are and as a page shows them.
FILES = (f"{REPOSITORY}/blob/main/", REPOSITORY.replace("//github.com/", "//raw.githubusercontent.com/") + "/main/")
TEXTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]


def links_of(name: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text("utf-8"))


@pytest.mark.parametrize("name", TEXTS)
def test_links_of_top_level_texts_are_absolute(name: str) -> None:
    assert [link for link in links_of(name) if not link.startswith("https://")] == []


@pytest.mark.parametrize("name", TEXTS)
def test_links_to_own_pages_and_files_lead_somewhere(name: str) -> None:
    for link in links_of(name):
        if link.startswith(SITE):
            page = link.removeprefix(SITE).partition("#")[0]
            assert page == "" or (DOCS / page).with_suffix(".md").is_file(), link
        for base in FILES:
            if link.startswith(base):
                assert (ROOT / link.removeprefix(base)).is_file(), link


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 200
    is_long = [line for line in lines if len(line) > 120 and "](https://" not in line and not line.startswith("|")]
    assert is_long == []
