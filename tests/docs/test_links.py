"""The site builds without a warning: no page is missing, and every link within it leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


def test_readme_has_absolute_links_only() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
