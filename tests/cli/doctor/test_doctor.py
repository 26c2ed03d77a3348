"""``botsession doctor`` as its user sees it: what it prints, and what it says when it cannot find out."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
import redis

from redis_botsession import SessionStore, cli
from redis_botsession.cli.doctor import Finding, Node, Report, Severity
from redis_botsession.cli.doctor.checks.check_ids import CHECKS
from redis_botsession.cli.doctor.render import Printer
from redis_botsession.embedded import LocalServer
from redis_botsession.testing.harness import PATIENCE

from ...support.redis_servers import SERVERS, locate_or_skip
from ..test_cli import BAD_URLS, HIDDEN

PASSWORD = "secret"  # noqa: S105 - of servers that live as long as a test
NEWEST = next(server for server in SERVERS if server.id == "redis-8.2")
Captured = pytest.CaptureFixture[str]


def doctor(*args: str) -> int:
    """Runs the command; a mistake in the arguments is an exit status, too."""
    try:
        return cli.main(["doctor", *args])
    except SystemExit as left:
        return int(left.code or 0)


def findings_of(report: Report) -> dict[str, Finding]:
    return {finding.id: finding for finding in report.findings}


def severities(report: Report) -> dict[str, str]:
    return {finding.id: finding.severity.label for finding in report.findings}


def as_user(url: str, name: str, password: str = PASSWORD) -> str:
    return urlsplit(url)._replace(netloc=f"{name}:{password}@{urlsplit(url).netloc}").geturl()


def fill(url: str, prefix: str, *values: str) -> None:
    """Makes a session with each of these values."""

    async def write() -> None:
        async with SessionStore.from_url(url, prefix=prefix) as store:
            for user, value in enumerate(values):
                await store.update(user, "c", {"value": value})

    asyncio.run(write())


@contextmanager
def server(*options: str, tcp: bool | int = True) -> Iterator[str]:
    """A server of the newest Redis with some options."""
    binary, env = locate_or_skip(NEWEST)
    with LocalServer(binary, env=env, tcp=tcp, options=options) as local:
        yield local.url


def port_with_bus() -> int:
    """A free port; the one 10,000 above, for the cluster bus, is free, too. (Redis 6.2 has no other place for it.)"""
    for port in range(23_000, 32_000):
        with suppress(OSError), socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port
    raise LookupError("no free ports")


def eventually(condition: Callable[[], object]) -> None:
    """Waits until a server says so, which it does not tell by itself."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- what cannot be looked at


URLS = [
    *BAD_URLS,
    f"redis://127.0.0.1:1/{HIDDEN}",
    f"redis://127.0.0.1:1/0?db={HIDDEN}",
    f"redis://127.0.0.1:1/0?socket_timeout={HIDDEN}",
    f"redis://:{HIDDEN}@no..host:1/0",
    f"redis://:{HIDDEN}@{'x' * 70}:1/0",
    f"redis+cluster://:{HIDDEN}@no..host:1/0",
    f"redis+sentinel://:{HIDDEN}@no..host:1/service",
    f"redis+cluster://user:{HIDDEN}@127.0.0.1:1,127.0.0.1:2/",
    f"redis+cluster://user:1/{HIDDEN}@127.0.0.1:1,127.0.0.1:2/",
    f"redis+sentinel://user:{HIDDEN}@127.0.0.1:1/service",
    f"redis+sentinel://127.0.0.1:1/service?sentinel_password={HIDDEN}",
    f"redis+sentinel://user:{HIDDEN}@127.0.0.1:1/",
    f"redis+nonsense://user:{HIDDEN}@127.0.0.1:1/",
    f"redis://user:{HIDDEN},x@127.0.0.1:1,127.0.0.1:2/0",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("how", ["option", "environment"])
def test_doctor_what_cannot_be_reached_is_one_line_without_the_password(
    url: str, how: str, capsys: Captured, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("REDIS_URL", url if how == "environment" else "redis://127.0.0.1:1/1")
    args = ("--url", url) if how == "option" else ()
    assert doctor(*args) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("botsession doctor: ")
    assert len(said.err.splitlines()) == 1
    assert HIDDEN not in said.err + caplog.text

    assert doctor(*args, "--json") == 3
    said = capsys.readouterr()
    assert said.err == ""
    failure = json.loads(said.out)
    assert (failure["status"], failure["exit_status"]) == ("unknown", 3)
    assert failure["error"]
    assert HIDDEN not in said.out + caplog.text


def test_doctor_wrong_password(url: str, capsys: Captured, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with redis.Redis.from_url(url) as client:
        client.acl_setuser("locked", enabled=True, passwords=["+another"])
        try:
            for wrong in (as_user(url, "locked", HIDDEN), as_user(url, "", HIDDEN)):
                assert doctor("--url", wrong) == 3
                said = capsys.readouterr()
                assert (said.out, len(said.err.splitlines())) == ("", 1)
                assert "password" in said.err.lower()
                assert HIDDEN not in said.err + caplog.text
        finally:
            client.acl_deluser("locked")


def test_doctor_password_that_is_missing(capsys: Captured) -> None:
    with server("--requirepass", HIDDEN) as url:
        assert doctor("--url", url) == 3
        assert "uthentication" in capsys.readouterr().err
        assert doctor("--url", as_user(url, "", HIDDEN), "--json") == 1
        said = capsys.readouterr()
        assert HIDDEN not in said.out + said.err
        assert json.loads(said.out)["target"] == url


def test_doctor_server_that_never_answers(capsys: Captured) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert doctor("--url", f"redis://:{HIDDEN}@127.0.0.1:{silent.getsockname()[1]}/0", "--timeout", "0.1") == 3
    assert HIDDEN not in capsys.readouterr().err


def test_doctor_database_that_is_refused(newest_url: str, prefix: str, capsys: Captured) -> None:
    with redis.Redis.from_url(newest_url) as client:
        client.acl_setuser("limited", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all", "-select"])
        try:
            assert doctor("--url", as_user(newest_url, "limited").removesuffix("0") + "1") == 3
        finally:
            client.acl_deluser("limited")
    assert "select" in capsys.readouterr().err


def test_doctor_one_that_is_no_cluster(newest_url: str, capsys: Captured) -> None:
    assert doctor("--url", newest_url.replace("redis:", "redis+cluster:").removesuffix("0")) == 3
    assert "node of a cluster" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["--nonsense"],
        [f"redis://:{HIDDEN}@127.0.0.1:1/0"],
        [f"--ulr=redis://:{HIDDEN}@127.0.0.1:1/0"],
        ["--sample", "-1"],
        ["--sample", f"redis://:{HIDDEN}@127.0.0.1:1/0"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--prefix", "a*"],
        ["--url"],
    ],
)
def test_doctor_mistake_in_the_arguments_is_no_critical_finding(args: list[str], capsys: Captured) -> None:
    assert doctor(*args) == 3
    said = capsys.readouterr()
    assert (said.out, HIDDEN in said.err) == ("", False)
    assert "usage: botsession doctor" in said.err


def test_doctor_help_names_the_exit_statuses(capsys: Captured) -> None:
    assert doctor("--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0 all well" in said
    assert "3 it could not find out" in said


# --- what is printed


def test_doctor_json(newest_url: str, prefix: str, capsys: Captured) -> None:
    assert doctor("--url", newest_url, "--prefix", prefix, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["exit_status"], report["target"]) == ("warning", 1, newest_url)
    assert report["prefix"] == prefix
    assert report["nodes"][0]["product"] == "Redis"
    worst_first = [finding["severity"] for finding in report["findings"]]
    assert worst_first == sorted(worst_first, key=["critical", "warning", "info", "ok"].index)
    assert {name: worst_first.count(name) for name in report["counts"]} == report["counts"]
    assert all(finding["advice"] and finding["why"] for finding in report["findings"] if finding["severity"] != "ok")


def test_doctor_environment_names_the_server(newest_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("REDIS_URL", newest_url)
    assert doctor() == 1
    assert urlsplit(newest_url).netloc in capsys.readouterr().out


EVIL = "\x1b[31m[bold]\u202e\n"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("rich", [False, True])
def test_doctor_what_a_server_sends_is_escaped(
    terminal: bool, rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    if not rich:
        monkeypatch.setitem(sys.modules, "rich", None)
    findings = tuple(Finding(f"id{n}", severity, EVIL, EVIL, EVIL) for n, severity in enumerate(reversed(Severity)))
    Printer(as_json=False).show(Report("", "", (Node("host:1", EVIL, EVIL, "primary", EVIL),), findings))
    Printer(as_json=False).fail(EVIL)
    said = capsys.readouterr()
    shown = said.out.replace("\x1b[1m", "").replace("\x1b[1;", "\x1b[").replace("\x1b[0m", "").replace("\x1b[2m", "")
    assert "\x1b[31m[bold]" not in said.out
    assert "\x1b" not in shown
    assert "\u202e" not in said.out + said.err
    assert r"\x1b[31m[bold]\u202e\n" in said.out
    assert r"\x1b[31m[bold]\u202e\n" in said.err


def test_doctor_colours_on_a_terminal_only(newest_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert doctor("--url", newest_url) == 1
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert doctor("--url", newest_url) == 1
    assert "\x1b[" in capsys.readouterr().out


def test_doctor_ignore_leaves_checks_out_of_report_and_status(capsys: Captured) -> None:
    with server("--appendonly", "yes", "--maxmemory", "1gb") as url:
        assert doctor("--url", url, "--json") == 1
        (warning,) = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["severity"] == "warning"]
        assert warning["id"] == "user"
        assert doctor("--url", url, "--json", "--ignore", "user,clock-skew") == 0
        left = {each["id"] for each in json.loads(capsys.readouterr().out)["findings"]}
    assert not left & {"user", "clock-skew"}
    assert left <= set(CHECKS)


def test_doctor_ignore_refuses_unknown_checks(capsys: Captured) -> None:
    assert doctor("--ignore", "usr") == 3
    message = capsys.readouterr().err
    assert "'usr'" in message
    assert "least-privilege-keys" in message
