"""Four processes on one session: nothing is lost; on every server."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from redis_botsession import SessionStore, VersionConflict
from redis_botsession.testing.harness import load

PROCESSES = 4
EACH = 250

WORKER = """
import asyncio, sys
from redis_botsession import SessionStore, VersionConflict

task, url, prefix, worker, each, version = sys.argv[1], sys.argv[2], sys.argv[3], *map(int, sys.argv[4:])

async def compare_and_set(store, n):
    try:
        await store.update("u", "c", {"winner": f"{worker}-{n}"}, expected_version=version)
    except VersionConflict:
        return 0
    return 1

async def modify(store, n):
    def add(session):
        session.data["count"] = session.data.get("count", 0) + 1
    await store.modify("u", "c", add)
    return 1

async def update(store, n):
    await store.update("u", "c", {f"{worker}-{n}": n})
    return 1

async def handle(store, n):
    async with store.session("u", "c") as session:
        session.data[f"{worker}-{n}"] = {"nested": [n]}
        session.data.pop("start", None)
    return 1

async def main():
    async with SessionStore.from_url(url, prefix=prefix) as store:
        await store.size()
        print("ready", flush=True)
        sys.stdin.readline()
        print(sum(await asyncio.gather(*(globals()[task](store, n) for n in range(each)))))

asyncio.run(main())
"""


async def run_workers(task: str, url: str, prefix: str, each: int, version: int = 0) -> list[int]:
    """Runs ``task`` in each process, all starting together; gives what each counted."""
    arguments = [(sys.executable, "-c", WORKER, task, url, prefix, str(n), str(each), str(version)) for n in range(PROCESSES)]
    pipe = subprocess.PIPE
    workers = [await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe) for line in arguments]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    return [int(output) for output, _ in outputs]


async def test_update_keeps_a_thousand_changes_of_four_processes(url: str, prefix: str, store: SessionStore) -> None:
    assert await run_workers("update", url, prefix, EACH) == [EACH] * PROCESSES
    expected = {f"{worker}-{n}": n for worker in range(PROCESSES) for n in range(EACH)}
    assert len(expected) == 1000
    assert (await load(store)).data == expected


async def test_modify_counts_a_thousand_calls_of_four_processes(url: str, prefix: str, store: SessionStore) -> None:
    assert await run_workers("modify", url, prefix, EACH) == [EACH] * PROCESSES
    assert (await load(store)).data == {"count": 1000}


async def test_live_session_keeps_changes_of_a_thousand_handlers(url: str, prefix: str, store: SessionStore) -> None:
    await store.update("u", "c", {"start": True})
    assert await run_workers("handle", url, prefix, EACH) == [EACH] * PROCESSES
    expected = {f"{worker}-{n}": {"nested": [n]} for worker in range(PROCESSES) for n in range(EACH)}
    assert (await load(store)).data == expected


@pytest.mark.parametrize("start", ["new", "there"])
async def test_expected_version_lets_one_of_four_processes_win(start: str, url: str, prefix: str, store: SessionStore) -> None:
    version = await store.update("u", "c", {"n": 0}) if start == "there" else 0
    assert sum(await run_workers("compare_and_set", url, prefix, 50, version)) == 1
    with pytest.raises(VersionConflict):
        await store.update("u", "c", {}, expected_version=version)
