"""``botsession migrate`` on real servers: what the real libraries have written is there for the adapters, once, and in time."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import DefaultKeyBuilder, StorageKey
from aiogram.fsm.storage.redis import RedisEventIsolation, RedisStorage
from telebot.asyncio_storage import StateRedisStorage as AsyncTelebotStorage
from telebot.storage import StateRedisStorage as TelebotStorage

from redis_botsession import BotSession, SessionStore, cli
from redis_botsession.adapters.aiogram import BotSessionStorage
from redis_botsession.adapters.telebot import AsyncBotSessionStorage
from redis_botsession.cli.migrate import engine
from redis_botsession.cli.migrate.reader import Reader
from redis_botsession.cli.migrate.sources.base import Found, Unit

from .migrating import BOT, SECRET, Client, Migrate, calls, counts, dump, json_session, ttl_ms

BUSINESS = "BYZ0bR4hmEkJEAAAPMW5uE-VGVY"
#: The keys of aiogram that tell all there is.
WITH_ALL: dict[str, Any] = {"with_bot_id": True, "with_business_connection_id": True, "with_destiny": True}
ASK_ALL = ("--with-bot-id", "--with-business-connection-id", "--with-destiny")


class Form(StatesGroup):
    name = State()


# --- What the libraries have written


async def test_migrate_sessions_of_aiogram_are_there_for_its_adapter(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    builder = DefaultKeyBuilder(prefix=source_prefix, **WITH_ALL)
    old, new = RedisStorage(source, builder), BotSessionStorage(target)
    keys = [
        StorageKey(BOT, 42, 42),
        StorageKey(BOT, -100, 42),
        StorageKey(BOT, -100, 42, thread_id=5),
        StorageKey(BOT, 42, 42, business_connection_id=BUSINESS),
        StorageKey(BOT, 42, 42, destiny="aiogd:context:x"),
        StorageKey(BOT + 1, 42, 42),
    ]
    for n, key in enumerate(keys):
        await old.set_state(key, Form.name)
        await old.set_data(key, {"n": n, ":colon": [1.5, None, {"a": "é"}]})
    only_state, only_data = StorageKey(BOT, 1, 1), StorageKey(BOT, 2, 2)
    await old.set_state(only_state, "s")
    await old.set_data(only_data, {"d": True})
    keys += [only_state, only_data]

    async with RedisEventIsolation(source, builder).lock(keys[0]):
        status, report = await migrate("aiogram", *ASK_ALL)

    assert (status, report["counts"]) == (0, counts(migrated=len(keys)))
    assert (await new.get_state(keys[0]), (await new.get_data(keys[0]))["n"]) == (Form.name.state, 0)
    for key in keys:
        assert await new.get_state(key) == await old.get_state(key)
        assert await new.get_data(key) == await old.get_data(key)
    assert await target.size() == len(keys)


async def test_source_aiogram_by_default_with_a_given_bot(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    old, new = RedisStorage(source, DefaultKeyBuilder(prefix=source_prefix)), BotSessionStorage(target)
    keys = [StorageKey(BOT, -100, 42), StorageKey(BOT, -100, 42, thread_id=5), StorageKey(BOT, 42, 42)]
    for n, key in enumerate(keys):
        await old.update_data(key, {"n": n})
    assert (await migrate("aiogram", "--bot-id", str(BOT)))[1]["counts"] == counts(migrated=3)
    assert [await new.get_data(key) for key in keys] == [{"n": n} for n in range(3)]


async def test_migrate_of_several_bots_the_one_that_was_asked_for(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    old = RedisStorage(source, DefaultKeyBuilder(prefix=source_prefix, with_bot_id=True))
    for bot in (BOT, BOT + 1):
        await old.set_state(StorageKey(bot, 42, 42), "s")
    assert (await migrate("aiogram", "--with-bot-id", "--bot-id", str(BOT)))[1]["counts"] == counts(migrated=1)
    assert await BotSessionStorage(target).get_state(StorageKey(BOT, 42, 42)) == "s"


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_migrate_states_of_telebot_are_there_for_its_adapter(
    migrate: Migrate, empty_url: str, target: SessionStore, source_prefix: str, kind: str
) -> None:
    new = AsyncBotSessionStorage(target)
    places: list[dict[str, Any]] = [
        {"chat_id": 42, "user_id": 42, "bot_id": BOT},
        {"chat_id": -100, "user_id": 42, "bot_id": BOT},
        {"chat_id": -100, "user_id": 42, "bot_id": BOT, "message_thread_id": 5},
        {"chat_id": 42, "user_id": 42, "bot_id": BOT, "business_connection_id": BUSINESS},
        {"chat_id": 42, "user_id": 42, "bot_id": BOT + 1},
    ]
    data: dict[str, Any] = {"name": "Ada", ":colon": [1.5, None, {"a": "é"}]}
    if kind == "async":
        old = AsyncTelebotStorage(redis_url=empty_url, prefix=source_prefix)
        for place in places:
            await old.set_state(state="Form:name", **place)
            await old.save(data=data, **place)
        await old.redis.aclose()
    else:
        blocking = TelebotStorage(redis_url=empty_url, prefix=source_prefix)
        for place in places:
            blocking.set_state(state="Form:name", **place)
            for key, value in data.items():
                blocking.set_data(key=key, value=value, **place)
        blocking.redis.close()

    status, report = await migrate("telebot")

    assert (status, report["counts"]) == (0, counts(migrated=len(places)))
    for place in places:
        assert await new.get_state(**place) == "Form:name"
        assert await new.get_data(**place) == data


async def test_migrate_all_users_of_a_chat_of_telebot_before_4_23_are_there(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    chat = {"42": {"state": "Form:name", "data": {"n": 1}}, "43": {"state": "Form:name", "data": {}}}
    await source.set(f"{source_prefix}-100", json.dumps(chat))
    assert (await migrate("old-telebot", "--bot-id", str(BOT)))[1]["counts"] == counts(migrated=2)
    new = AsyncBotSessionStorage(target)
    assert await new.get_data(-100, 42, bot_id=BOT) == {"n": 1}
    assert await new.get_state(-100, 43, bot_id=BOT) == "Form:name"


async def test_migrate_json_of_the_example_under_the_same_prefix_as_the_store(
    migrate: Migrate, source: Client, target: SessionStore, prefix: str
) -> None:
    created, deadline = datetime(2024, 5, 6, 7, 8, 9, 123_000, UTC), datetime.now(UTC) + timedelta(hours=1)
    data = {"step": "name", "n": 2**60}
    await source.set(f"{prefix}a:b:c", json_session("a:b", "c", data=data), ex=86_400)
    await source.set(f"{prefix}42:7", json_session("42", "7", data=data, expiresAt=deadline.isoformat()), ex=3_600)
    # What the store has there already is nothing that is not understood.
    await target.update("own", "c", {"n": 1})

    status, report = await migrate("json", "--source-prefix", prefix)

    assert (status, report["counts"]) == (0, counts(migrated=2))
    rolling, fixed = await target.get("a:b", "c"), await target.get(42, 7)
    assert rolling is not None
    assert fixed is not None
    assert rolling.data == fixed.data == data
    assert rolling.created_at == fixed.created_at == created
    assert (rolling.expires_at, fixed.expires_at) == (None, deadline)
    assert sorted([ids async for ids in target.scan()]) == [("42", "7"), ("a:b", "c"), ("own", "c")]
    assert await target.clear("42") == 1


# --- How long they live


async def test_migrate_what_is_left_of_a_ttl_is_kept(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    builder = DefaultKeyBuilder(prefix=source_prefix)
    old = RedisStorage(source, builder, state_ttl=100, data_ttl=2_000)
    both, state, forever = (StorageKey(BOT, 42, n) for n in (1, 2, 3))
    for key in (both, state, forever):
        await old.set_state(key, "s")
    await old.set_data(both, {"n": 1})
    await source.set(builder.build(forever, "data"), '{"n": 1}')
    data_left = await source.pttl(builder.build(both, "data"))
    state_left = await source.pttl(builder.build(state, "state"))

    assert (await migrate("aiogram", "--bot-id", str(BOT)))[1]["counts"] == counts(migrated=3)

    channel = f"{BOT}.42"
    # The longer one of the two; and never longer than it was.
    assert 100_000 < await ttl_ms(source, target, "1", channel) <= data_left
    assert 0 < await ttl_ms(source, target, "2", channel) <= state_left
    assert await ttl_ms(source, target, "3", channel) == -1
    # From the next write on, it is as long as the bot's store says.
    await BotSessionStorage(target).set_state(state, "t")
    assert await ttl_ms(source, target, "2", channel) > state_left


async def test_migrate_reports_sessions_without_a_ttl(
    migrate: Migrate, source: Client, source_prefix: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for user, ttl in ((1, None), (2, None), (3, 200_000)):
        await source.set(f"{source_prefix}:42:{user}:state", "s", px=ttl)
    assert (await migrate("aiogram", "--bot-id", str(BOT), "--dry-run"))[1]["without_ttl"] == 2
    assert (await migrate("aiogram", "--bot-id", str(BOT), "--dry-run", "--ttl", "1000"))[1]["without_ttl"] == 0
    line = ["migrate", "aiogram", "--url", migrate.url, "--source-prefix", source_prefix, "--prefix", prefix]
    assert await asyncio.to_thread(cli.main, [*line, "--bot-id", str(BOT)]) == 0
    assert "2 of these have no TTL: to keep them, the bot needs ttl=None" in capsys.readouterr().out


async def test_migrate_that_finds_nothing_is_no_success(migrate: Migrate, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = await migrate("aiogram", "--bot-id", str(BOT))
    assert status == 1
    assert report["status"] == "done"
    assert "--source-prefix" in report["error"]
    assert f"{migrate.source_prefix}:*" in report["error"]


async def test_migrate_sessions_without_a_ttl_can_be_given_one(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    old = RedisStorage(source, DefaultKeyBuilder(prefix=source_prefix))
    await old.set_state(StorageKey(BOT, 42, 1), "s")
    await source.set(f"{source_prefix}:42:2:state", "s", px=200_000)
    assert (await migrate("aiogram", "--bot-id", str(BOT), "--ttl", "1000"))[1]["counts"] == counts(migrated=2)
    assert 200_000 < await ttl_ms(source, target, "1", f"{BOT}.42") <= 1_000_000
    assert 0 < await ttl_ms(source, target, "2", f"{BOT}.42") <= 200_000


async def test_migrate_what_has_expired_is_left_out(
    migrate: Migrate, empty_url: str, source_prefix: str, target: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = Reader.scan
    with redis.Redis.from_url(empty_url) as client:
        client.set(f"{source_prefix}42:7", json_session("42", "7", expiresAt="2024-05-06T07:08:09Z"))
        client.set(f"{source_prefix}42:8", json_session("42", "8"))

        async def expires_then(self: Reader, cursor: int) -> tuple[int, list[bytes]]:
            found = await scan(self, cursor)
            client.delete(f"{source_prefix}42:8")
            return found

        monkeypatch.setattr(Reader, "scan", expires_then)
        assert (await migrate("json"))[1]["counts"] == counts(expired=2)
    assert await target.size() == 0


async def test_migrate_life_that_ends_before_it_is_written_is_not_begun_anew(
    migrate: Migrate, empty_url: str, source_prefix: str, target: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The TTL counts from when it was read, not from when it is written."""
    read, passed = Reader.read, 0.0

    async def takes_200_seconds(self: Reader, units: list[Unit]) -> list[list[Found]]:
        nonlocal passed
        passed = 200.0
        return await read(self, units)

    monkeypatch.setattr(Reader, "read", takes_200_seconds)
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))
    with redis.Redis.from_url(empty_url) as client:
        client.set(f"{source_prefix}42:1", json_session("42", "1"), ex=100)
        client.set(f"{source_prefix}42:2", json_session("42", "2"), ex=300)
        assert (await migrate("json"))[1]["counts"] == counts(migrated=1, expired=1)
        assert 0 < client.pttl(target.key("42", "2")) <= 100_000


# --- Again


async def test_migrate_run_twice_changes_nothing(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    old, new = RedisStorage(source, DefaultKeyBuilder(prefix=source_prefix)), BotSessionStorage(target)
    mine, theirs = StorageKey(BOT, 42, 1), StorageKey(BOT, 42, 2)
    for key in (mine, theirs):
        await old.set_state(key, "s")
        await old.set_data(key, {"n": 1})
    asked = ("aiogram", "--bot-id", str(BOT))
    await migrate(*asked)
    await new.update_data(mine, {"n": 2})
    before = await dump(source)

    assert (await migrate(*asked))[1]["counts"] == counts(there=2, changed=1)
    assert await dump(source) == before

    assert (await migrate(*asked, "--overwrite"))[1]["counts"] == counts(migrated=2)
    assert await new.get_data(mine) == {"n": 1}


async def test_migrate_dry_run_counts_the_same_and_writes_nothing(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    await source.set(f"{source_prefix}42:1", json_session("42", "1"))
    await source.set(f"{source_prefix}42:2", json_session("42", "2"))
    await source.set(f"{source_prefix}42:3", json_session("42", "3", data={"n": 1}))
    await source.set(f"{source_prefix}42:4", json_session("42", "4", data={"text": "x" * 200}))
    await source.set(f"{source_prefix}42:5", SECRET)
    await source.set(f"{source_prefix}nonsense", SECRET)
    await target.set(42, 2, BotSession("42", "2"))
    await target.set(42, 3, BotSession("42", "3", {"n": 2}))
    before, called = await dump(source), await calls(source)
    asked = ("json", "--delete-source", "--max-bytes", "100")

    status, dry = await migrate(*asked, "--dry-run")

    now = await calls(source)
    more = {name for name, count in now.items() if count > called.get(name, 0)}
    # (A store's connection makes its scripts known, which is no data; no script is run.)
    asking = {"client|setinfo", "hello", "echo", "ping", "script|load", "info", "dbsize", "scan"}
    assert more <= asking | {"get", "pttl", "hgetall", "dump", "pexpiretime"}
    assert await dump(source) == before
    expected = counts(migrated=1, there=2, changed=1, failed=2, not_understood=1, deleted=2, kept=1)
    assert (status, dry["counts"], dry["dry_run"]) == (1, expected, True)
    assert (await migrate(*asked))[1]["counts"] == expected
