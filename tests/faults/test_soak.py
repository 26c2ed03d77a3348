"""Many tasks on few connections, cancelled at random, behind a proxy that makes faults: nobody gets another's session.

The environment says how much and with which dice: SOAK_OPERATIONS, SOAK_SEED.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from redis_botsession import BotSession, OutcomeUnknown, SessionStore
from redis_botsession.testing.harness import eventually

from ..support.proxy_random import FaultRates, RandomFaultProxy
from ..support.shifting_pipeline import ShiftingPipeline

OPERATIONS = int(os.environ.get("SOAK_OPERATIONS", "20000"))
SEED = os.environ.get("SOAK_SEED", "7")

pytestmark = pytest.mark.timeout(300 + OPERATIONS // 50)

# It is in the name of each test, so that a failure tells it.
with_seed = pytest.mark.parametrize("seed", [pytest.param(SEED, id=f"seed={SEED}")])

TASKS = 40
SHARED_USERS = [f"shared-{number}" for number in range(6)]
KEYS = [f"key-{number}" for number in range(5)]
CONNECTIONS = 2
MAX_BYTES = 32 << 20
#: Seconds after which a call is cancelled, at most; one of these. A round trip takes about one millisecond.
LATEST_CANCEL = (0.001, 0.005, 0.03)
#: Seconds within which a call has ended, whatever happens, and however many round trips and turns it takes.
PATIENCE = 60.0

CALM = {"split": 0.3, "delay": 0.05}
ROUGH = {
    "split": 0.3,
    "delay": 0.05,
    "surplus": 0.003,
    "duplicate": 0.003,
    "swallow": 0.002,
    "garbage": 0.002,
    "cut": 0.01,
    "refuse": 0.3,
}
# Only RESP3 has them.
PUSHES: dict[int, dict[str, float]] = {2: {}, 3: {"push": 0.1}}


def faults(shares: dict[str, float], protocol: int) -> FaultRates:
    return FaultRates(**shares, **PUSHES[protocol])


class Soak:
    """What tasks do with a store, and whether what they get is theirs.

    Args:
        store: What they use.
        seed: For the dice.
        errors: What may reach a caller besides a cancellation that it asked for.
        cancels: The share of the calls that are cancelled.
        is_in_order: Whether calls for one user reach the server in their order: no connection is lost.

    Attributes:
        ended: How many calls ended how.
        stray: What the event loop was told, since nobody else was.
    """

    def __init__(
        self,
        store: SessionStore,
        seed: str,
        *,
        errors: tuple[type[Exception], ...] = (),
        cancels: float = 1 / 3,
        is_in_order: bool = True,
    ) -> None:
        self.store = store
        self.seed = seed
        self.errors = errors
        self.cancels = cancels
        self.is_in_order = is_in_order
        self.ended: Counter[str] = Counter()
        self.stray: list[dict[str, Any]] = []
        self.tasks = 0

    async def run(self, operations: int) -> None:
        """Each task does its share. In another run, they are others and have other sessions, but the shared ones."""
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.stray.append(context))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    self.tasks += 1
                    group.create_task(Worker(self, self.tasks).run(operations // TASKS))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None


class Worker:
    """What one task does, with sessions that nobody else writes and with those that all share; and what it knows of them."""

    def __init__(self, soak: Soak, number: int) -> None:
        self.soak = soak
        self.name = f"task-{number}"
        self.dice = random.Random(f"{soak.seed}/{number}")  # noqa: S311 - a test that can be repeated
        self.written = 0
        self.sessions = [Known(f"own-{number}-{own}", is_own=True) for own in range(2)]
        self.sessions += [Known(user, is_own=False) for user in SHARED_USERS]

    async def run(self, operations: int) -> None:
        dice = self.dice
        kinds = (self.get, self.get_and_touch, self.update, self.modify, self.touch, self.replace)
        for _ in range(operations):
            known = dice.choice(self.sessions[:2] if dice.random() < 0.6 else self.sessions[2:])
            (do,) = dice.choices(kinds, (4, 3, 5, 2, 1, 1))
            await do(known)

    # --- operations

    async def get(self, known: Known, *, touch: bool = False) -> None:
        ended, session = await self.ending(lambda: self.soak.store.get(known.user, "c", touch=touch))
        if ended == "done":
            known.loaded(session)

    async def get_and_touch(self, known: Known) -> None:
        await self.get(known, touch=True)

    async def update(self, known: Known) -> None:
        key, value = self.dice.choice(KEYS), self.value(known)
        changes = {"me": known.user, key: value}
        before = known.version
        ended, version = await self.ending(lambda: self.soak.store.update(known.user, "c", changes))
        if ended == "done":
            assert version > before, f"{known.user}: version {version} after {before}"
            known.version = version
            known.wrote(key, value, settles=self.soak.is_in_order)
        elif ended == "unknown":
            known.may_have_written(key, value)

    async def modify(self, known: Known) -> None:
        key, value = self.dice.choice(KEYS), self.value(known)
        tried = False

        def change(session: BotSession) -> None:
            nonlocal tried
            tried = True
            known.loaded(session if session.version else None)
            session.data["me"] = known.user
            session.data[key] = value

        before = known.version
        ended, session = await self.ending(lambda: self.soak.store.modify(known.user, "c", change))
        if ended == "done":
            assert session.version > before, f"{known.user}: version {session.version} after {before}"
            assert session.data[key] == value
            known.wrote(key, value, settles=self.soak.is_in_order)
            known.loaded(session)
        elif ended == "unknown" and tried:
            known.may_have_written(key, value)

    async def touch(self, known: Known) -> None:
        ended, was_there = await self.ending(lambda: self.soak.store.touch(known.user, "c"))
        if ended == "done":
            known.was_there(was_there)

    async def replace(self, known: Known) -> None:
        """Deletes the session and makes it anew."""
        ended, was_there = await self.ending(lambda: self.soak.store.delete(known.user, "c"))
        if ended == "done":
            # One that was sent again finds nothing any more.
            if self.soak.is_in_order:
                known.was_there(was_there)
            known.deleted(settles=self.soak.is_in_order)
        else:
            known.may_have_deleted()
        await self.update(known)

    def value(self, known: Known) -> tuple[str, str, int, bytes]:
        """One that no other write has: mostly tiny, seldom over a megabyte."""
        self.written += 1
        roll = self.dice.random()
        size = self.dice.randrange(40)
        if roll < 0.05:
            size = self.dice.randrange(65_536)
        elif roll < 0.051:
            size = self.dice.randrange(1 << 20, 3 << 19)
        return (known.user, self.name, self.written, filler(self.written, size))

    async def ending(self, call: Callable[[], Awaitable[Any]]) -> tuple[str, Any]:
        """How a call ended, and with what: "done", "failed" (a write: nothing was written), "unknown"."""
        task = asyncio.ensure_future(call())
        is_to_be_cancelled = self.dice.random() < self.soak.cancels
        if is_to_be_cancelled:
            asyncio.get_running_loop().call_later(self.dice.random() * self.dice.choice(LATEST_CANCEL), task.cancel)
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done(), "a call hangs"
        if task.cancelled():
            assert is_to_be_cancelled, "a call was cancelled that nobody has cancelled"
            ended, result = "unknown", None
        elif (error := task.exception()) is None:
            ended, result = "done", task.result()
        elif isinstance(error, AssertionError):
            raise error
        else:
            assert isinstance(error, self.soak.errors), f"a call failed: {error!r}"
            ended, result = ("unknown" if isinstance(error, OutcomeUnknown) else "failed"), None
        self.soak.ended["cancelled" if task.cancelled() else ended] += 1
        return ended, result


class Known:
    """What one task knows of a session.

    Attributes:
        user: Whose it is.
        is_own: Whether nobody else writes it.
        version: The greatest that was seen.
        values: What was there last.
        maybe: What calls without an answer may have put there since, or may still put there; None: nothing.
    """

    def __init__(self, user: str, *, is_own: bool) -> None:
        self.user = user
        self.is_own = is_own
        self.version = 0
        self.values: dict[str, Any] = {}
        self.maybe: dict[str, list[Any]] = {key: [] for key in KEYS}

    @property
    def is_certain(self) -> bool:
        return not any(self.maybe.values())

    def wrote(self, key: str, value: Any, *, settles: bool) -> None:
        self.values[key] = value
        if settles:
            self.maybe[key].clear()

    def may_have_written(self, key: str, value: Any) -> None:
        self.maybe[key].append(value)

    def deleted(self, *, settles: bool) -> None:
        self.values = {}
        if settles:
            for values in self.maybe.values():
                values.clear()
        else:
            # It may have been sent twice, and the server may come to the first one last.
            self.may_have_deleted()

    def may_have_deleted(self) -> None:
        for values in self.maybe.values():
            values.append(None)

    def was_there(self, answer: Any) -> None:
        """Checks what a touch or a delete says."""
        assert type(answer) is bool, f"{self.user}: got {answer!r:.200}"
        if self.is_own and self.is_certain:
            assert answer is bool(self.values), f"{self.user}: {answer}, but it has {self.values!r:.200}"

    def loaded(self, session: BotSession | None) -> None:
        """Checks a session that has come."""
        data: dict[str, Any] = {}
        if session is not None:
            assert isinstance(session, BotSession), f"{self.user}: got {session!r:.200}"
            assert (session.user_id, session.channel_id) == (self.user, "c")
            assert session.version >= self.version, f"{self.user}: version {session.version} after {self.version}"
            self.version = session.version
            data = dict(session.data)
            assert data.pop("me") == self.user
            for user, name, number, fill in data.values():
                assert user == self.user, f"{self.user}: has a value that {name} wrote for {user}"
                assert fill == filler(number, len(fill)), f"{self.user}: a value of {name} is damaged"
        if self.is_own:
            for key in KEYS:
                value = data.get(key)
                assert value == self.values.get(key) or value in self.maybe[key], (
                    f"{self.user}: {key} is {value!r:.100}, was {self.values.get(key)!r:.100}, maybe {self.maybe[key]!r:.500}"
                )
            self.values = data


def filler(number: int, size: int) -> bytes:
    return b"%08d" % number * (size // 8)


# --- tests


@with_seed
@pytest.mark.parametrize("protocol", [2, 3])
async def test_soak_whoever_is_cancelled_nobody_else_notices(protocol: int, seed: str, newest_url: str, prefix: str) -> None:
    async with (
        RandomFaultProxy(newest_url, seed, faults(CALM, protocol)) as proxy,
        SessionStore.from_url(
            proxy.url, prefix=prefix, protocol=protocol, max_bytes=MAX_BYTES, max_connections=CONNECTIONS
        ) as store,
    ):
        soak = Soak(store, seed)
        await soak.run(OPERATIONS // 2)
        assert soak.ended.keys() == {"done", "cancelled"}
        assert proxy.made.keys() == CALM.keys() | PUSHES[protocol].keys()
        # The connections of the store, never made anew.
        assert proxy.connections == CONNECTIONS
        assert soak.stray == []


@with_seed
@pytest.mark.parametrize("protocol", [2, 3])
async def test_soak_late_replies_go_to_nobody(protocol: int, seed: str, newest_url: str, prefix: str) -> None:
    late = {"delay": 0.2, "longest_delay": 0.1}
    async with (
        RandomFaultProxy(newest_url, seed, faults({"split": 0.3}, protocol)) as proxy,
        SessionStore.from_url(
            proxy.url, prefix=prefix, protocol=protocol, max_bytes=MAX_BYTES, timeout=0.05, max_connections=CONNECTIONS
        ) as store,
    ):
        # Before replies come late, those to connecting, too, which may take no longer than a call.
        await asyncio.gather(*(store.get(n, "c") for n in range(100)))
        assert proxy.connections == CONNECTIONS
        proxy.faults = faults({**CALM, **late}, protocol)
        soak = Soak(store, seed, errors=(OutcomeUnknown, redis.TimeoutError))
        await soak.run(OPERATIONS // 20)
        assert soak.ended.keys() == {"done", "cancelled", "unknown", "failed"}
        assert proxy.connections == CONNECTIONS
        assert soak.stray == []


@with_seed
@pytest.mark.parametrize("protocol", [2, 3])
async def test_soak_whatever_becomes_of_the_replies_nobody_gets_anothers(
    protocol: int, seed: str, newest_url: str, prefix: str
) -> None:
    async with (
        RandomFaultProxy(newest_url, seed, faults(ROUGH, protocol)) as proxy,
        SessionStore.from_url(
            proxy.url, prefix=prefix, protocol=protocol, max_bytes=MAX_BYTES, timeout=5, socket_timeout=0.3
        ) as store,
    ):
        soak = Soak(store, seed, errors=(OutcomeUnknown, redis.ConnectionError, redis.TimeoutError), is_in_order=False)
        await soak.run(OPERATIONS // 4)
        assert proxy.made.keys() == ROUGH.keys() | PUSHES[protocol].keys()
        assert soak.ended.keys() >= {"done", "cancelled", "unknown"}
        assert soak.stray == []


@with_seed
async def test_soak_once_the_faults_are_over_there_are_no_errors_any_more(seed: str, newest_url: str, prefix: str) -> None:
    # All but what shows only after a silence.
    async with (
        RandomFaultProxy(newest_url, seed, faults({**ROUGH, "swallow": 0.0}, 3)) as proxy,
        SessionStore.from_url(proxy.url, prefix=prefix, protocol=3, max_bytes=MAX_BYTES) as store,
    ):
        soak = Soak(store, seed, errors=(OutcomeUnknown, redis.ConnectionError, redis.TimeoutError), is_in_order=False)
        await soak.run(TASKS * 10)
        proxy.faults = FaultRates()
        # Whoever is answered now was connected since.
        await asyncio.gather(*(store.get(user, "c") for user in SHARED_USERS), return_exceptions=True)
        connections = proxy.connections
        soak.errors = ()
        await soak.run(TASKS * 10)
        assert proxy.connections == connections


async def test_soak_errors_of_calls_made_together_are_not_left_to_the_event_loop(newest_url: str, prefix: str) -> None:
    stray: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
    async with (
        RandomFaultProxy(newest_url, SEED, FaultRates(refuse=1.0)) as proxy,
        SessionStore.from_url(proxy.url, prefix=prefix, timeout=0.1) as store,
    ):
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
            await store.get("u", "c", touch=True)
        cancelled = asyncio.create_task(store.get("u", "c", touch=True))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    gc.collect()
    assert stray == []


async def test_soak_closed_store_does_not_connect_for_cancelled_calls(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    before = asyncio.all_tasks()
    store = SessionStore.from_url("redis://127.0.0.1:1/0", prefix=prefix)
    call = asyncio.create_task(store.get("u", "c"))

    async def has_tried() -> bool:
        return "cannot connect" in caplog.text

    await eventually(has_tried)
    call.cancel()
    await store.aclose()
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() - before == set()


@with_seed
async def test_soak_scripts_that_are_flushed_again_and_again_harm_nobody(seed: str, url: str, prefix: str) -> None:
    flushes = 0

    async def flush() -> None:
        nonlocal flushes
        async with redis.asyncio.Redis.from_url(url) as client:
            while True:
                await client.script_flush()
                flushes += 1
                await asyncio.sleep(0.05)

    async with SessionStore.from_url(url, prefix=prefix, max_bytes=MAX_BYTES) as store:
        soak = Soak(store, seed)
        flushing = asyncio.create_task(flush())
        try:
            await soak.run(OPERATIONS // 20)
            while flushes < 10:
                await soak.run(TASKS * 5)
        finally:
            flushing.cancel()
            await asyncio.wait([flushing])
        assert flushing.cancelled()
        assert soak.ended.keys() == {"done", "cancelled"}
        assert soak.stray == []


@with_seed
async def test_soak_finds_a_connection_that_drops_cancelled_slots(
    seed: str, newest_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_botsession._transport.connection.Pipeline", ShiftingPipeline)
    async with SessionStore.from_url(newest_url, prefix=prefix, max_bytes=MAX_BYTES) as store:
        await Soak(store, seed, cancels=0).run(TASKS * 10)
        with pytest.raises(AssertionError):
            await Soak(store, seed).run(TASKS * 50)
