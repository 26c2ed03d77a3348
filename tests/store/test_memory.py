"""What only the store in memory has: a clock that can be given, its clean-up, its end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from datetime import UTC, datetime, timedelta

import pytest

from redis_botsession import BotSession, MemorySessionStore, SessionError, SessionGone, memory_store
from redis_botsession.testing.harness import eventually, load


class Clock:
    """A clock that a test moves, and that counts how often it is read."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now

    async def looked_at(self) -> None:
        """Waits until somebody else looks."""
        before = self.looks

        async def has_looked() -> bool:
            return self.looks > before

        await eventually(has_looked)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemorySessionStore:
    return MemorySessionStore(ttl=100, clock=clock, cleanup_interval=None)


async def test_memory_uses_the_given_clock_only(store: MemorySessionStore, clock: Clock) -> None:
    await store.update("u", "c", {"n": 1})
    session = await load(store)
    assert session.created_at == session.updated_at == datetime(2026, 1, 1, tzinfo=UTC)
    clock.now += 99
    assert await store.get("u", "c", touch=True)
    clock.now += 99
    await store.update("u", "c", {"n": 2}, create=False)
    clock.now += 99
    assert (await load(store)).data == {"n": 2}
    clock.now += 1
    assert await store.get("u", "c") is None
    assert await store.size() == 0


async def test_memory_expires_at_follows_the_given_clock(store: MemorySessionStore, clock: Clock) -> None:
    deadline = datetime.fromtimestamp(clock.now + 150, UTC)
    await store.set("u", "c", BotSession("u", "c", expires_at=deadline))
    clock.now += 149
    assert await store.touch("u", "c")
    await store.update("u", "c", {"n": 1})
    clock.now += 1
    with pytest.raises(SessionGone):
        await store.update("u", "c", {"n": 1}, create=False)


async def test_memory_versions_grow_when_the_clock_goes_back(store: MemorySessionStore, clock: Clock) -> None:
    versions = []
    for n in range(5):
        versions.append(await store.update("u", "c", {"n": n}))
        await store.delete("u", "c")
        clock.now -= 10
    assert versions == sorted(set(versions))


async def test_memory_cleanup_removes_expired_sessions(store: MemorySessionStore, clock: Clock) -> None:
    for n in range(10):
        await store.update("u", n, {"n": n})
    clock.now += 50
    await store.update("u", "late", {"n": 1})
    assert store.cleanup() == 0
    clock.now += 50
    assert store.cleanup() == 10
    assert store.cleanup() == 0
    assert await store.channels("u") == ["late"]


async def test_memory_cleanup_runs_by_itself_until_destroy(clock: Clock) -> None:
    store = memory_store(ttl=1, clock=clock, cleanup_interval=0.001)
    for n in range(3):
        await store.update("u", n, {"n": n})
        clock.now += 2
        # No call uses the store, so the clean-up reads the clock.
        await clock.looked_at()
        assert store.cleanup() == 0
    store.destroy()
    await store.update("u", "c", {"n": 1})
    clock.now += 2
    looks = clock.looks
    # Fifty times the interval.
    await asyncio.sleep(0.05)
    assert clock.looks == looks
    assert store.cleanup() == 1


async def test_memory_cleanup_does_not_keep_the_store_alive() -> None:
    store = memory_store(cleanup_interval=0.001)
    await store.update("u", "c", {"n": 1})
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None


def test_memory_works_in_several_event_loops(clock: Clock) -> None:
    store = memory_store(clock=clock, cleanup_interval=0.001, ttl=1)
    asyncio.run(store.update("u", "a", {"n": 1}))
    asyncio.run(store.update("u", "b", {"n": 1}))
    clock.now += 2

    async def look_once_and_wait() -> None:
        await store.size()
        await store.update("u", "c", {"n": 1})
        clock.now += 2
        await clock.looked_at()

    asyncio.run(look_once_and_wait())
    assert store.cleanup() == 0


async def test_memory_refuses_calls_when_closed() -> None:
    async with memory_store() as store:
        await store.update("u", "c", {"n": 1})
    with pytest.raises(SessionError, match="closed"):
        await store.get("u", "c")


async def test_memory_destroy_leaves_sessions_readable() -> None:
    store = memory_store()
    await store.update("u", "c", {"n": 1})
    store.destroy()
    store.destroy()
    assert (await load(store)).data == {"n": 1}


@pytest.mark.parametrize("interval", [0, -1.0])
def test_memory_refuses_a_bad_cleanup_interval(interval: float) -> None:
    with pytest.raises(ValueError, match="cleanup_interval"):
        memory_store(cleanup_interval=interval)


def test_memory_refuses_a_bad_ttl() -> None:
    with pytest.raises(ValueError, match="ttl"):
        memory_store(ttl=timedelta(0))
