"""Many tasks on few connections, with random cancellations and faults: no task may get a reply that belongs to another one.

The environment variables SOAK_OPERATIONS (default 20000) and SOAK_SEED set the number of calls and the seed.
"""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import pytest
import redis
import redis.asyncio

from redis_botsession import OutcomeUnknown, SessionStore
from redis_botsession.testing.harness import eventually

from ..support.proxy_random import FaultRates, RandomFaultProxy
from ..support.shifting_pipeline import ShiftingPipeline
from .soak import SHARED_USERS, TASKS, Soak

OPERATIONS = int(os.environ.get("SOAK_OPERATIONS", "20000"))
SEED = os.environ.get("SOAK_SEED", "7")

pytestmark = pytest.mark.timeout(300 + OPERATIONS // 50)

# The seed is part of the test id, so that a failure can be repeated.
with_seed = pytest.mark.parametrize("seed", [pytest.param(SEED, id=f"seed={SEED}")])

CONNECTIONS = 2
MAX_BYTES = 32 << 20

#: Rates of faults after which every call still succeeds.
CALM = {"split": 0.3, "delay": 0.05}
#: Rates of faults that lose, add and damage replies, and cut connections.
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
# Rates of push messages, which exist in RESP3 only, by protocol.
PUSHES: dict[int, dict[str, float]] = {2: {}, 3: {"push": 0.1}}


def fault_rates(rates: dict[str, float], protocol: int) -> FaultRates:
    return FaultRates(**rates, **PUSHES[protocol])


@with_seed
@pytest.mark.parametrize("protocol", [2, 3])
async def test_soak_cancelled_calls_do_not_affect_others(protocol: int, seed: str, newest_url: str, prefix: str) -> None:
    async with (
        RandomFaultProxy(newest_url, seed, fault_rates(CALM, protocol)) as proxy,
        SessionStore.from_url(
            proxy.url, prefix=prefix, protocol=protocol, max_bytes=MAX_BYTES, max_connections=CONNECTIONS
        ) as store,
    ):
        soak = Soak(store, seed)
        await soak.run(OPERATIONS // 2)
        assert soak.ended.keys() == {"done", "cancelled"}
        assert proxy.made.keys() == CALM.keys() | PUSHES[protocol].keys()
        # No connection was replaced.
        assert proxy.connections == CONNECTIONS
        assert soak.stray == []


@with_seed
@pytest.mark.parametrize("protocol", [2, 3])
async def test_soak_replies_after_a_timeout_are_dropped(protocol: int, seed: str, newest_url: str, prefix: str) -> None:
    late = {"delay": 0.2, "longest_delay": 0.1}
    async with (
        RandomFaultProxy(newest_url, seed, fault_rates({"split": 0.3}, protocol)) as proxy,
        SessionStore.from_url(
            proxy.url, prefix=prefix, protocol=protocol, max_bytes=MAX_BYTES, timeout=0.05, max_connections=CONNECTIONS
        ) as store,
    ):
        # Connects before replies are delayed: connecting must not time out.
        await asyncio.gather(*(store.get(n, "c") for n in range(100)))
        assert proxy.connections == CONNECTIONS
        proxy.faults = fault_rates({**CALM, **late}, protocol)
        soak = Soak(store, seed, errors=(OutcomeUnknown, redis.TimeoutError))
        await soak.run(OPERATIONS // 20)
        assert soak.ended.keys() == {"done", "cancelled", "unknown", "failed"}
        assert proxy.connections == CONNECTIONS
        assert soak.stray == []


@with_seed
@pytest.mark.parametrize("protocol", [2, 3])
async def test_soak_faulty_replies_reach_no_other_caller(protocol: int, seed: str, newest_url: str, prefix: str) -> None:
    async with (
        RandomFaultProxy(newest_url, seed, fault_rates(ROUGH, protocol)) as proxy,
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
async def test_soak_has_no_errors_after_the_faults_end(seed: str, newest_url: str, prefix: str) -> None:
    # Without swallowed replies, which are noticed only after a silence.
    async with (
        RandomFaultProxy(newest_url, seed, fault_rates({**ROUGH, "swallow": 0.0}, 3)) as proxy,
        SessionStore.from_url(proxy.url, prefix=prefix, protocol=3, max_bytes=MAX_BYTES) as store,
    ):
        soak = Soak(store, seed, errors=(OutcomeUnknown, redis.ConnectionError, redis.TimeoutError), is_in_order=False)
        await soak.run(TASKS * 10)
        proxy.faults = FaultRates()
        # After this, the store has only connections without a fault.
        await asyncio.gather(*(store.get(user, "c") for user in SHARED_USERS), return_exceptions=True)
        connections = proxy.connections
        soak.errors = ()
        await soak.run(TASKS * 10)
        assert proxy.connections == connections


async def test_store_get_and_touch_leaves_no_error_to_the_event_loop(newest_url: str, prefix: str) -> None:
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


async def test_store_aclose_ends_connecting_for_cancelled_calls(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
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
async def test_soak_repeated_script_flush_causes_no_errors(seed: str, url: str, prefix: str) -> None:
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
async def test_soak_finds_a_pipeline_that_drops_cancelled_slots(
    seed: str, newest_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_botsession._transport.connection.Pipeline", ShiftingPipeline)
    async with SessionStore.from_url(newest_url, prefix=prefix, max_bytes=MAX_BYTES) as store:
        await Soak(store, seed, cancels=0).run(TASKS * 10)
        with pytest.raises(AssertionError):
            await Soak(store, seed).run(TASKS * 50)
