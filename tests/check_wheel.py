"""Builds the sdist and, from it, the wheel; installs the wheel into a new environment, and runs the contract there.

Run ``python -m tests.check_wheel``. It works outside of the checkout, so that no file can be taken from there.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
ADAPTERS = sorted(path.stem for path in (ROOT / "redis_botsession" / "adapters").glob("[!_]*.py"))
SCRIPTS = {f"lua/{path.relative_to(ROOT / 'lua')}" for path in (ROOT / "lua").rglob("*.lua")}

INSTALLED_TESTS = """
import pytest
import redis_botsession
from pathlib import Path
from redis_botsession import MemorySessionStore, SessionStore
from redis_botsession.embedded import LocalServer
from redis_botsession.testing import StoreContract


class TestMemory(StoreContract):
    def make_store(self, **options):
        return MemorySessionStore(**options)


class TestEmbedded(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self):
        with LocalServer() as server:
            self.url = server.url
            yield

    def make_store(self, **options):
        return SessionStore.from_url(self.url, **options)


def test_this_is_the_wheel():
    package = Path(redis_botsession.__file__).parent
    assert "site-packages" in package.parts
    assert (package / "py.typed").is_file()
    assert (package / "lua" / "write.lua").is_file()
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(work), str(ROOT)], check=True, stdout=subprocess.DEVNULL)
        (sdist,), (wheel,) = work.glob("*.tar.gz"), work.glob("*.whl")
        with tarfile.open(sdist) as archive:
            in_sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        with zipfile.ZipFile(wheel) as content:
            in_wheel = set(content.namelist())
        assert in_sdist >= SCRIPTS, SCRIPTS - in_sdist
        assert {f"redis_botsession/{name}" for name in SCRIPTS} <= in_wheel
        assert not [name for name in in_wheel if name.startswith("tests")]

        venv.create(work / "venv", with_pip=True)
        python = work / "venv" / "bin" / "python"
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # First without extras, because the required dependencies alone must be enough.
        subprocess.run([*pip, str(wheel)], check=True)
        subprocess.run([str(python), "-c", "import redis_botsession; redis_botsession.memory_store()"], check=True, cwd=work)
        subprocess.run([str(work / "venv" / "bin" / "botsession"), "--version"], check=True, cwd=work)
        subprocess.run([*pip, f"{wheel}[embedded,testing,adapters]"], check=True)
        for adapter in ADAPTERS:
            # Each in a new process, because no adapter may depend on what another one imports.
            subprocess.run([str(python), "-c", f"import redis_botsession.adapters.{adapter}"], check=True, cwd=work)
        (work / "test_installed.py").write_text(INSTALLED_TESTS, "utf-8")
        subprocess.run([str(python), "-m", "pytest", "-q", "test_installed.py"], check=True, cwd=work)


if __name__ == "__main__":
    main()
