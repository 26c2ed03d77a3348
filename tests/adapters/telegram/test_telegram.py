"""The persistence for python-telegram-bot: real applications, on a real Redis, one after the other and side by side."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis.asyncio
from telegram.ext import (
    ContextTypes,
    PersistenceInput,
)

from redis_botsession import CorruptSession, MemorySessionStore, SerializationError, SessionStore
from redis_botsession.adapters.telegram import BotSessionPersistence
from redis_botsession.testing.harness import eventually, load

from ...store.test_custom_store import SQLiteStore
from ...support.telegram_application import BOT, Transport, handle, message, running, typed, write

EVERYTHING = {
    "text": "ä",
    42: "int",
    (1, (2, "x")): ("tuple", ("nested", [("in a list",)])),
    None: None,
    True: {1, (2, 3)},
    2.5: datetime(2026, 11, 22, tzinfo=UTC),
    ":colon": {"nested": {(1, 2): (3,)}},
    b"bytes": frozenset({1}),
}


@pytest.fixture
async def store(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """What the persistence writes to; without TTL, as that of ``from_url``."""
    async with SessionStore.from_url(newest_url, prefix=prefix, ttl=None) as store:
        yield store


@pytest.fixture
def persistence(newest_url: str, prefix: str) -> BotSessionPersistence:
    return BotSessionPersistence.from_url(newest_url, prefix=prefix)


# --- What is kept


async def test_persistence_all_data_survive_a_restart_with_their_types(newest_url: str, prefix: str) -> None:
    def fill(context: Any) -> None:
        context.user_data.update(EVERYTHING)
        context.chat_data.update({("a", 1): [1, (2,)]})
        context.bot_data.update({7: ("seven",)})

    async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix)) as app:
        await handle(app, message("hello", user=42, chat=-100), fill)

    async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix)) as app:
        assert set(app.user_data) == {42}
        assert set(app.chat_data) == {-100}
        assert typed(app.user_data[42]) == typed(EVERYTHING)
        assert typed(app.chat_data[-100]) == typed({("a", 1): [1, (2,)]})
        assert typed(app.bot_data) == typed({7: ("seven",)})


async def test_persistence_where_things_are(persistence: BotSessionPersistence, store: SessionStore) -> None:
    async with running(persistence) as app:
        await handle(app, message("x", user=42), lambda context: context.user_data.update(a=1))
        await handle(app, message("x", user=42), lambda context: context.chat_data.update(b=2))
        await handle(app, message("x", user=43), lambda context: context.user_data.update(c=3))
        await handle(app, message("x", user=43), lambda context: context.bot_data.update(d=4))
    found = {ids async for ids in store.scan()}
    assert found == {("42", "777.user_data"), ("42", "777.chat_data"), ("43", "777.user_data"), ("bot.777", "bot_data")}
    assert (await load(store, 42, "777.user_data")).data == {"a": 1}

    # All data of the user are removed at once, and no other user's.
    assert await store.clear(42) == 2
    async with running(persistence) as app:
        assert dict(app.user_data) == {43: {"c": 3}}
        assert not app.chat_data
        assert app.bot_data == {"d": 4}


async def test_persistence_without_preload_loads_when_needed(newest_url: str, prefix: str) -> None:
    async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix)) as app:
        for user in (1, 2):
            await handle(app, message("x", user=user), lambda context: context.user_data.update(name="Ada", seen=[1]))
            await handle(app, message("x", user=user), lambda context: context.chat_data.update(n=1))

    async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix, preload=False)) as app:
        assert not app.user_data
        assert not app.chat_data
        await handle(app, message("x", user=1), lambda context: context.user_data["seen"].append(2))
        assert dict(app.user_data) == {1: {"name": "Ada", "seen": [1, 2]}}
        assert dict(app.chat_data) == {1: {"n": 1}}

    async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix)) as app:
        assert dict(app.user_data) == {1: {"name": "Ada", "seen": [1, 2]}, 2: {"name": "Ada", "seen": [1]}}


async def test_persistence_keeps_bots_on_one_prefix_apart(newest_url: str, prefix: str) -> None:
    other = {**BOT, "id": 888}
    async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix)) as app:
        await handle(app, message("x"), lambda context: context.user_data.update(a=1))
        await handle(app, message("x"), lambda context: context.bot_data.update(b=1))
    async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix), transport=Transport(other)) as app:
        await handle(app, message("x"), lambda context: context.user_data.update(a=2))
        assert app.bot_data == {}
    successor = BotSessionPersistence.from_url(newest_url, prefix=prefix, bot_id=777)
    async with running(successor, transport=Transport(other)) as app:
        assert dict(app.user_data) == {42: {"a": 1}}
        assert app.bot_data == {"b": 1}


async def test_persistence_only_what_is_to_be_stored_is_stored(newest_url: str, prefix: str, store: SessionStore) -> None:
    persistence = BotSessionPersistence.from_url(newest_url, prefix=prefix, store_data=PersistenceInput(chat_data=False))
    async with running(persistence) as app:
        await handle(app, message("x"), lambda context: (context.user_data.update(a=1), context.chat_data.update(b=1)))
        assert dict(app.chat_data) == {42: {"b": 1}}
    assert [ids async for ids in store.scan()] == [("42", "777.user_data")]


async def test_persistence_renews_a_ttl_and_has_none_by_default(newest_url: str, prefix: str) -> None:
    key = f"{prefix}{{42}}:777.user_data"
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix)) as app:
            await handle(app, message("x"), lambda context: context.user_data.update(a=1))
        assert await client.ttl(key) == -1

        async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix, ttl=1000)) as app:
            # Only reads.
            await handle(app, message("x"), lambda context: context.user_data["a"])
            assert 990 <= await client.ttl(key) <= 1000


async def test_persistence_one_damaged_session_keeps_nobody_else_from_the_bot(
    newest_url: str, prefix: str, persistence: BotSessionPersistence, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(persistence) as app:
        for user in (1, 2):
            await handle(app, message("x", user=user), lambda context: context.user_data.update(private="s"))
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        await client.hset(f"{prefix}{{1}}:777.user_data", "private", b"\xc1")

    async with running(persistence) as app:
        assert set(app.user_data) == {2}
        assert "'private' does not decode" in caplog.text
        await handle(app, message("x", user=2), lambda context: context.user_data.update(a=1))
        with pytest.raises(CorruptSession):
            await handle(app, message("x", user=1), lambda context: pytest.fail("it is not handled without its data"))


async def test_persistence_everybody_is_loaded_at_the_start(persistence: BotSessionPersistence, store: SessionStore) -> None:
    users, foreign = range(1, 601), [("nobody", "777.user_data"), ("1", "778.user_data"), ("1", "chat")]
    await asyncio.gather(*(store.update(user, "777.user_data", {"n": user}) for user in users))
    await asyncio.gather(*(store.update(*ids, {"n": 0}) for ids in foreign))
    async with running(persistence) as app:
        assert dict(app.user_data) == {user: {"n": user} for user in users}


async def test_persistence_store_of_ones_own_kind_keeps_all_of_it() -> None:
    store = SQLiteStore(ttl=None)
    async with running(BotSessionPersistence(store)) as app:
        await handle(app, message("x"), lambda context: context.user_data.update(EVERYTHING))
        await handle(app, message("x"), lambda context: context.user_data.pop("text"))
    left = {key: value for key, value in EVERYTHING.items() if key != "text"}
    async with running(BotSessionPersistence(store)) as app:
        assert typed(app.user_data[42]) == typed(left)
        await store.update(42, "777.user_data", {"theirs": 1})
        await handle(app, message("x"), lambda context: context.user_data.update(mine=1))
    async with running(BotSessionPersistence(store)) as app:
        assert typed(app.user_data[42]) == typed({**left, "theirs": 1, "mine": 1})
    await store.aclose()


# --- What is written


async def calls_of(client: redis.asyncio.Redis) -> dict[str, int]:
    stats: dict[str, Any] = await client.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "hset", "hdel", "unlink")}


async def test_persistence_nothing_is_written_when_nothing_has_changed(
    newest_url: str, persistence: BotSessionPersistence
) -> None:
    async with running(persistence) as app, redis.asyncio.Redis.from_url(newest_url) as client:
        await handle(app, message("x"), lambda context: context.user_data.update(a=[1], b={2}))
        await handle(app, message("x"), lambda context: context.bot_data.update({(1,): {"x": (1, 2)}}))
        assert await write(app) == []

        before = await calls_of(client)
        for _ in range(3):
            await handle(app, message("x"), lambda context: context.user_data.update(a=[1], b={2}))
            assert await write(app) == []
        assert await calls_of(client) == before

        await handle(app, message("x"), lambda context: context.user_data["a"].append(2))
        assert await write(app) == []
        assert (await calls_of(client))["evalsha"] == before["evalsha"] + 1


async def test_persistence_what_others_have_packed_otherwise_is_no_change(
    newest_url: str, prefix: str, persistence: BotSessionPersistence, store: SessionStore
) -> None:
    await store.update(42, "777.user_data", {"a": 1, "b": 1})
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        # 1, in two bytes more than it needs.
        await client.hset(f"{prefix}{{42}}:777.user_data", "a", b"\xcd\x00\x01")
    before = await load(store, 42, "777.user_data")
    async with running(persistence) as app:
        await handle(app, message("x"), lambda context: context.user_data.update(a=1))
        assert await write(app) == []
        assert await load(store, 42, "777.user_data") == before
        # So a change of theirs is not taken for one of ours.
        await store.update(42, "777.user_data", {"a": 2})
        await handle(app, message("x"), lambda context: context.user_data.update(b=2))
    assert (await load(store, 42, "777.user_data")).data == {"a": 2, "b": 2}


async def test_persistence_changes_are_written_at_intervals(newest_url: str, prefix: str, store: SessionStore) -> None:
    async def is_written() -> bool:
        return await store.get(42, "777.user_data") is not None

    async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix, update_interval=0.01)) as app:
        await app.start()
        await handle(app, message("x"), lambda context: context.user_data.update(a=1))
        await eventually(is_written)
        await app.stop()


async def test_persistence_value_that_cannot_be_stored_is_told_and_blocks_nobody(
    persistence: BotSessionPersistence, store: SessionStore
) -> None:
    async with running(persistence) as app:
        await handle(app, message("x", user=1), lambda context: context.user_data.update(fine=1, wrong=[complex(1)]))
        await handle(app, message("x", user=2), lambda context: context.user_data.update(fine=2))
        (error,) = await write(app)
        assert isinstance(error, SerializationError)
        assert (error.path, error.key) == ("wrong[0]", store.key(1, "777.user_data"))
        assert await store.get(1, "777.user_data") is None
        assert (await load(store, 2, "777.user_data")).data == {"fine": 2}

        # It is not tried for ever, nor does it keep the user from being served.
        assert await write(app) == []
        await store.update(1, "777.user_data", {"other": 5})
        await handle(app, message("x", user=1), lambda context: context.user_data.pop("wrong"))
        assert await write(app) == []
        assert (await load(store, 1, "777.user_data")).data == {"fine": 1, "other": 5}


async def test_persistence_key_that_cannot_be_stored_is_told_too(persistence: BotSessionPersistence) -> None:
    async with running(persistence) as app:
        await handle(app, message("x"), lambda context: context.user_data.update({complex(1): 1, "a": 1}))
        (error,) = await write(app)
        assert isinstance(error, SerializationError)
        await handle(app, message("x"), lambda context: context.user_data.pop(complex(1)))
        assert await write(app) == []
    async with running(persistence) as app:
        assert dict(app.user_data) == {42: {"a": 1}}


async def test_persistence_other_types_of_data_are_refused(persistence: BotSessionPersistence) -> None:
    class Mine:
        pass

    async with running(persistence, context_types=ContextTypes(user_data=Mine)) as app:
        with pytest.raises(TypeError, match="keeps dicts, not Mine"):
            await handle(app, message("x"), lambda _: None)


# --- The store


async def test_persistence_shutdown_closes_and_start_opens_its_store(
    newest_url: str, prefix: str, persistence: BotSessionPersistence
) -> None:
    before = asyncio.all_tasks()
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        await client.ping()
        connections = len(await client.client_list())
        for n in range(3):
            async with running(persistence) as app:
                await app.start()
                await handle(app, message("x"), lambda context: context.user_data.update(n=context.user_data.get("n", 0) + 1))
                await app.stop()
            assert asyncio.all_tasks() == before
            assert len(await client.client_list()) == connections
            assert dict(app.user_data) == {42: {"n": n + 1}}
    gc.collect()


async def test_persistence_shutdown_leaves_a_given_store_open(store: SessionStore) -> None:
    async with running(BotSessionPersistence(store)) as app:
        await handle(app, message("x"), lambda context: context.user_data.update(a=1))
    assert (await load(store, 42, "777.user_data")).data == {"a": 1}


async def test_persistence_what_is_no_store_and_no_bot_is_told() -> None:
    with pytest.raises(TypeError, match=r"from_url"):
        BotSessionPersistence("redis://localhost")  # type: ignore[arg-type] # what is tested
    with pytest.raises(RuntimeError, match="bot_id="):
        await BotSessionPersistence(MemorySessionStore(cleanup_interval=None)).get_user_data()
