"""Cancelled waiters and closed leases: no lease stays held, and no queue entry and no subscription remains."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio

from redis_botsession import SessionError, SessionStore
from redis_botsession.leases import Leases
from redis_botsession.testing.harness import eventually

from .holders import LeaseOnServer, LeaseUser, has_keys, lease_user


@pytest.mark.parametrize("is_free", [True, False], ids=["free", "held by another"])
@pytest.mark.parametrize("kind", ["url", "client"])
async def test_lease_cancelled_waiter_leaves_nothing_behind(
    is_free: bool, kind: str, newest_url: str, prefix: str, there: LeaseUser, server: LeaseOnServer
) -> None:
    asyncio.get_running_loop().set_debug(True)
    got = 0
    async with (
        redis.asyncio.Redis.from_url(newest_url) as client,
        SessionStore.from_url(newest_url, prefix=prefix) if kind == "url" else SessionStore(client, prefix=prefix) as store,
    ):
        here = LeaseUser(store, 600)
        for steps in range(0, 120, 3):
            free = asyncio.Event()
            holding = None if is_free else there.wants(free.wait)
            if holding is not None:
                await eventually(lambda: has_keys(server.client, server.key.decode(), 1))
            first, second = here.wants(), here.wants()
            for step in range(steps):
                if step == steps // 2:
                    free.set()
                await asyncio.sleep(0)
            got += first.done()
            first.cancel()
            await asyncio.wait([first])
            free.set()
            # A lease that the cancelled task left held would block these two.
            await second
            await there.wants()
            if holding is not None:
                await holding
        await here.leases.aclose()
        assert here.leases._queues == {}
    assert 0 < got < 40, "tasks must be cancelled before and after they have the lease"
    assert await server.client.exists(server.key) == 0
    await there.leases.aclose()
    assert not await server.client.pubsub_channels(f"{prefix}*")


async def test_lease_waiter_cancelled_when_woken_wakes_the_next(here: LeaseUser) -> None:
    async with here.leases.hold("u", "c"):
        first, second = here.wants(), here.wants()
        await asyncio.sleep(0)
    # The release has passed the lease to the first task, which has not run since.
    first.cancel()
    await second
    assert first.cancelled()
    assert here.leases._queues == {}


async def test_lease_waiter_cancelled_at_its_turn_passes_it_on(here: LeaseUser, monkeypatch: pytest.MonkeyPatch) -> None:
    give_back = here.leases._give_back

    async def give_back_and_cancel(*args: Any) -> None:
        await give_back(*args)
        late.cancel()

    monkeypatch.setattr(here.leases, "_give_back", give_back_and_cancel)
    async with here.leases.hold("u", "c"):
        late = here.wants()
        await asyncio.sleep(0)
    # The cancelled task has not run yet, so it is still in the queue.
    async with here.leases.hold("u", "c"):
        await asyncio.wait([late])
        assert here.store.commands.keys.lease("u", "c") in here.leases._queues


async def test_lease_aclose_refuses_new_and_waiting_tasks(here: LeaseUser, there: LeaseUser, server: LeaseOnServer) -> None:
    done = asyncio.Event()
    async with there.leases.hold("u", "c"):
        waiting = [here.wants() for _ in range(3)]
        holding = here.wants(done.wait, user="v")
        await server.is_waited_for()
        closing = asyncio.create_task(here.leases.aclose())
        for one in waiting:
            with pytest.raises(SessionError, match="these leases are closed"):
                await one
        with pytest.raises(SessionError, match="these leases are closed"):
            await here.leases.hold("u", "c").__aenter__()
        assert not closing.done(), "close waits for a task that holds a lease"
        done.set()
        await closing
        assert holding.done()
        assert await has_keys(server.client, f"{here.store.key('v', 'c')[:-2]}*", 0)
    await here.leases.aclose()
    assert await here.store.get("u", "c") is None, "the store stays open"


async def test_lease_aclose_works_at_any_step_of_acquiring(here: LeaseUser, server: LeaseOnServer) -> None:
    refused = 0
    for steps in range(0, 60, 2):
        leases = Leases(here.store, lease=600)
        holding = leases.hold("u", "c")
        task = asyncio.create_task(holding.__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            await holding.__aexit__(None, None, None)
            continue
        await leases.aclose()
        with pytest.raises(SessionError, match="these leases are closed"):
            await task
        refused += 1
        assert await server.token() == b""
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert refused > 3


async def test_lease_aclose_stops_waiting_for_holders(
    newest_url: str, prefix: str, server: LeaseOnServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_botsession.leases.CLOSING", 0.01)
    async with lease_user(newest_url, prefix, lease=0.2) as here:
        entered, done = asyncio.Event(), asyncio.Event()

        async def hold_on() -> None:
            entered.set()
            await done.wait()

        holding = here.wants(hold_on)
        await entered.wait()
        await here.leases.aclose()
        assert "was held when leases were closed" in caplog.text
        assert asyncio.all_tasks() == {asyncio.current_task(), holding}
        await eventually(lambda: has_keys(server.client, server.key.decode(), 0))
        done.set()
        await holding


async def test_lease_aclose_works_in_a_task_that_holds_one(here: LeaseUser, monkeypatch: pytest.MonkeyPatch) -> None:
    # An hour, which the test would exceed if the task waited for itself.
    monkeypatch.setattr("redis_botsession.leases.CLOSING", 3600)
    async with here.leases.hold("u", "c"):
        await here.leases.aclose()


async def test_lease_of_a_closed_store_is_left_to_expire(
    newest_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = SessionStore.from_url(newest_url, prefix=prefix)
    leases = Leases(store)
    async with leases.hold("u", "c"):
        await store.aclose()
    assert "cannot be released, it expires in 30 s at most: this store is closed" in caplog.text
    with pytest.raises(SessionError, match="closed"):
        await leases.hold("u", "c").__aenter__()
    await leases.aclose()
