"""The contract: expiry, removal and listing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from .._session.record import BotSession
from .._store.base import BotSessionStore
from ..errors import SessionGone, VersionConflict
from .harness import HOUR, Harness, check, gone, load


class LifetimeContract(Harness):
    """Sessions end when they should, and no sooner."""

    # --- expiry

    @check(ttl=0.1)
    async def test_store_sessions_expire(self, store: BotSessionStore) -> None:
        version = await store.update("u", "c", {"n": 1})
        await gone(store, "u", "c")
        assert await store.channels("u") == []
        assert await store.size() == 0
        assert await store.touch("u", "c") is False
        assert await store.delete("u", "c") is False
        with pytest.raises(SessionGone):
            await store.update("u", "c", {"n": 2}, create=False)
        with pytest.raises(VersionConflict):
            await store.update("u", "c", {"n": 2}, expected_version=version)
        assert await store.update("u", "c", {"m": 1}) > version

    @check(ttl=timedelta(hours=1))
    async def test_store_writes_and_touches_renew_the_ttl(self, store: BotSessionStore) -> None:
        renewals: dict[str, Callable[[], Awaitable[Any]]] = {
            "update": lambda: store.update("u", "update", {"n": 2}),
            "set": lambda: store.set("u", "set", BotSession("u", "set")),
            "touch": lambda: store.touch("u", "touch"),
            "get": lambda: store.get("u", "get", touch=True),
        }
        for channel in [*renewals, "control"]:
            await store.update("u", channel, {"n": 1})
            assert await store.touch("u", channel, 2.0)
        await asyncio.gather(*(renew() for renew in renewals.values()))
        await gone(store, "u", "control")
        assert sorted(await store.channels("u")) == sorted(renewals)

    @check(ttl=3600)
    async def test_store_reads_do_not_renew_the_ttl(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"n": 1})
        await store.touch("u", "c", 0.1)
        await gone(store, "u", "c")

    @check(ttl=None)
    async def test_store_no_ttl_no_expiry(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"n": 1})
        await store.update("u", "control", {"n": 1}, expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
        await gone(store, "u", "control")
        assert await store.channels("u") == ["c"]

    @check(ttl=0.2)
    async def test_store_expires_at_is_not_moved_by_the_rolling_ttl(self, store: BotSessionStore) -> None:
        deadline = datetime.now(UTC) + HOUR
        await store.update("u", "c", {"n": 1}, expires_at=deadline)
        await store.update("u", "control", {"n": 1})
        await store.update("u", "c", {"n": 2})
        await store.touch("u", "c")
        await gone(store, "u", "control")
        session = await load(store)
        assert (session.data, session.expires_at) == ({"n": 2}, deadline)
        await store.update("u", "c", {}, expires_at=None)
        await gone(store, "u", "c")

    @check(ttl=3600)
    async def test_store_expires_at_holds_through_writes_and_touches(self, store: BotSessionStore) -> None:
        await store.set("u", "c", BotSession("u", "c", expires_at=datetime.now(UTC) + timedelta(seconds=2)))
        await store.update("u", "c", {"n": 1}, create=False)
        assert await store.touch("u", "c", 3600)
        await gone(store, "u", "c")

    @check()
    async def test_store_deadline_that_has_passed_removes_the_session(self, store: BotSessionStore) -> None:
        past = datetime.now(UTC) - HOUR
        writes: list[Callable[[], Awaitable[int]]] = [
            lambda: store.set("u", "c", BotSession("u", "c", {"n": 1}, expires_at=past)),
            lambda: store.update("u", "c", {"n": 1}, expires_at=past),
        ]
        for write in writes:
            assert await write() == 0
            await store.update("u", "c", {"n": 1})
            assert await write() == 0
            assert await store.get("u", "c") is None
            assert await store.channels("u") == []
        version = await store.update("u", "c", {"n": 1})
        with pytest.raises(VersionConflict):
            await store.set("u", "c", BotSession("u", "c", expires_at=past), expected_version=version + 1)
        assert await store.get("u", "c") is not None

    @check()
    async def test_store_bad_ttls_are_refused(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"n": 1})
        for ttl in (0, -1, float("nan"), float("inf"), timedelta(0), timedelta.max):
            with pytest.raises(ValueError, match="ttl"):
                await store.touch("u", "c", ttl)
        for wrong in ("60", True):
            with pytest.raises(TypeError):
                await store.touch("u", "c", cast("Any", wrong))
        assert await store.get("u", "c") is not None

    # --- delete, clear, channels, scan

    @check()
    async def test_store_delete(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"n": 1})
        await store.update("u", "d", {"n": 1})
        assert await store.delete("u", "c") is True
        assert await store.delete("u", "c") is False
        assert await store.get("u", "c") is None
        assert await store.channels("u") == ["d"]
        await store.update("u", "c", {"m": 1})
        assert (await load(store)).data == {"m": 1}

    @check()
    async def test_clear_takes_all_of_one_user(self, store: BotSessionStore) -> None:
        for n in range(1203):
            await store.update("u", n, {"n": n})
        await store.update("v", "c", {"n": 1})
        assert await store.clear("u") == 1203
        assert await store.clear("u") == 0
        assert await store.channels("u") == []
        assert [ids async for ids in store.scan()] == [("v", "c")]

    @check()
    async def test_scan_gives_every_session_once(self, store: BotSessionStore) -> None:
        expected = {(str(user), str(channel)) for user in range(40) for channel in range(40)}
        await asyncio.gather(*(store.update(*ids, {"n": 1}) for ids in expected))
        found = [ids async for ids in store.scan()]
        assert len(found) == len(expected) == await store.size()
        assert set(found) == expected
