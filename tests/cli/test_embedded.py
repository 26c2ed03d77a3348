"""The local server: found, started, stopped, and its data kept."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
import redis

from redis_botsession import SessionStore
from redis_botsession.embedded import SERVER_VARIABLE, LocalServer, ServerFailed, ServerNotFound, find_server, server_version
from redis_botsession.testing.harness import eventually, load


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_local_server_variable_names_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = find_server()
    assert (server_version(found) or ()) >= (6, 2)
    link = tmp_path / "my-redis"
    link.symlink_to(found)
    monkeypatch.setenv(SERVER_VARIABLE, str(link))
    assert find_server() == link


def test_local_server_variable_that_names_no_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "/nowhere/redis-server")
    with pytest.raises(ServerNotFound, match="/nowhere/redis-server"):
        LocalServer()


def test_local_server_server_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.14 sha=0:0'\n")
    old.chmod(0o755)
    assert server_version(old) == (5, 0, 14)
    monkeypatch.setenv(SERVER_VARIABLE, str(old))
    with pytest.raises(ServerNotFound, match=r"6\.2"):
        find_server()


def test_local_server_leaves_nothing_after_stop() -> None:
    server = LocalServer()
    with server:
        pid = server.pid
        folder = Path(server.url.removeprefix("unix://").split("?")[0]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        with pytest.raises(RuntimeError, match="running"):
            server.start()
    assert not is_alive(pid)
    assert not folder.exists()
    server.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.pid


def test_local_server_server_that_does_not_start_says_why() -> None:
    with pytest.raises(ServerFailed, match="no-such-option"), LocalServer(options=["--no-such-option", "1"]):
        pass


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_local_server_data_outlives_the_server(how: signal.Signals, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with LocalServer(data=data) as server:
        async with SessionStore.from_url(server.url) as store:
            await store.update("u", "c", {"n": 1})
        os.kill(server.pid, how)
    with LocalServer(data=data) as server:
        async with SessionStore.from_url(server.url) as store:
            assert (await load(store)).data == {"n": 1}


def test_local_server_two_servers_never_share_data(tmp_path: Path) -> None:
    with LocalServer(data=tmp_path) as first:
        with pytest.raises(ServerFailed, match="in use"), LocalServer(data=tmp_path):
            pass
        with redis.Redis.from_url(first.url) as client:
            assert client.ping()


ORPHAN = """
import os, sys
from redis_botsession.embedded import LocalServer
server = LocalServer(data=sys.argv[1])
server.start()
server._watchdog.kill()  # as a machine that has run out of memory may do
print(server.pid, server.url, flush=True)
os.kill(os.getpid(), 9)
"""


OWNER = """
import os, signal, sys
from redis_botsession.embedded import LocalServer
server = LocalServer(data=sys.argv[1])
server.start()
print(server.pid, server.url, flush=True)
how = sys.argv[2]
if how != "return":
    os.kill(os.getpid(), getattr(signal, how))
    signal.pause()
"""


@pytest.mark.parametrize("how", ["return", "SIGTERM", "SIGKILL"])
async def test_local_server_ends_with_its_owner(how: str, tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), how, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    pid, url = (await owner.stdout.readline()).decode().split()
    folder = Path(url.removeprefix("unix://").split("?")[0]).parent
    assert await owner.wait() == {"return": 0, "SIGTERM": -signal.SIGTERM, "SIGKILL": -signal.SIGKILL}[how]

    async def has_gone() -> bool:
        return not is_alive(int(pid)) and not folder.exists()

    await eventually(has_gone)


async def test_local_server_stops_one_that_was_left_behind(tmp_path: Path) -> None:
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", ORPHAN, str(tmp_path), stdout=asyncio.subprocess.PIPE)
    assert killed.stdout is not None
    pid, url = (await killed.stdout.readline()).decode().split()
    orphan, folder = int(pid), Path(url.removeprefix("unix://").split("?")[0]).parent
    assert folder.is_dir()
    assert await killed.wait() == -signal.SIGKILL
    assert is_alive(orphan)
    with LocalServer(data=tmp_path) as server:

        async def has_gone() -> bool:
            # It ends after closing its data, and its new parent may take a moment to reap it.
            return not is_alive(orphan)

        await eventually(has_gone)
        assert not folder.exists()
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
