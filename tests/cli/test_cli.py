"""The command line, as its user sees it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import redis_botsession
from redis_botsession import cli

HIDDEN = "s3cret"


def botsession(*args: str, without: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs it with nothing on its input; ``without`` is a module that is not installed."""
    hide = f"sys.modules[{without!r}] = None; " if without else ""
    code = f"import sys; {hide}from redis_botsession.cli import main; sys.exit(main(sys.argv[1:]))"
    clean = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *args],
        input="",
        capture_output=True,
        text=True,
        env=clean | env,
        check=False,
    )


def test_cli_alone_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_cli_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"botsession {redis_botsession.__version__}\n"


def test_cli_python_dash_m_is_the_same() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "redis_botsession", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"botsession {redis_botsession.__version__}\n"


@pytest.mark.parametrize("args", [["nonsense"], ["demo", "--nonsense"], ["demo", "--user", ""], ["demo", "--channel", ""]])
def test_cli_mistake_in_the_arguments_is_explained(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(args)
    assert left.value.code == 2
    assert "usage: botsession" in capsys.readouterr().err


def test_cli_loads_neither_rich_nor_fakeredis() -> None:
    code = "import sys; before = set(sys.modules); import redis_botsession.cli; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"rich", "fakeredis", "lupa"} & {name.split(".")[0] for name in run.stdout.split()}
    assert "redis_botsession.cli.demo" not in run.stdout


def test_cli_without_rich_it_names_the_extra() -> None:
    run = botsession("demo", without="rich")
    assert (run.returncode, run.stdout) == (1, "")
    assert 'pip install "redis-botsession[demo]"' in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("missing", ["fakeredis", "lupa"])
def test_cli_with_neither_a_server_nor_fakeredis_it_names_the_extra(missing: str) -> None:
    run = botsession("demo", without=missing, BOTSESSION_REDIS_SERVER="/nonexistent")
    assert (run.returncode, run.stdout) == (1, "")
    assert 'pip install "redis-botsession[demo]"' in run.stderr
    assert len(run.stderr.splitlines()) == 1


#: None of them leads to a Redis.
BAD_URLS = [
    # Port 1 is reserved; no server listens there.
    f"redis://:{HIDDEN}@127.0.0.1:1/0",
    f"rediss://user:{HIDDEN}@127.0.0.1:1/0",
    f"unix:///nonexistent/redis.sock?password={HIDDEN}",
    f"redis://user:{HIDDEN}#1@127.0.0.1:1/0",
    f"redis://user:1/{HIDDEN}@127.0.0.1:1/0",
    f"redis://user:1?{HIDDEN}@127.0.0.1:1/0",
    f"unix://user:1/{HIDDEN}@/nonexistent/redis.sock",
    f"redis://127.0.0.1:1/0?password={HIDDEN}&nonsense=1",
    f"http://user:{HIDDEN}@127.0.0.1:1/0",
    f"{HIDDEN}@127.0.0.1:1",
    f"redis://user:{HIDDEN}@127.0.0.1:99999/0",
    f"redis://user:{HIDDEN}@[127.0.0.1/0",
]


@pytest.mark.parametrize("url", BAD_URLS)
@pytest.mark.parametrize("how", ["option", "environment"])
def test_cli_redis_that_cannot_be_reached_is_one_line_without_the_password(url: str, how: str) -> None:
    run = botsession("demo", "--url", url) if how == "option" else botsession("demo", REDIS_URL=url)
    assert (run.returncode, run.stdout) == (1, "")
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("botsession demo: ")
    assert HIDDEN not in run.stderr
