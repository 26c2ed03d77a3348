"""aiogram's storage on a store of sessions: what a handler sees, one TTL, nothing lost, every store."""

from __future__ import annotations

import asyncio
import enum
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import fakeredis
import pytest
import redis.asyncio
from aiogram import enums
from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.memory import MemoryStorage

from redis_botsession import BotSession, BotSessionStore, MemorySessionStore, SerializationError, SessionError, SessionStore
from redis_botsession.adapters._ids import STATE
from redis_botsession.adapters.aiogram import BotSessionStorage, aiogram_codec, ids_of, key_of

KEY = StorageKey(bot_id=777, chat_id=-42, user_id=42)


class Form(StatesGroup):
    name = State()
    email = State()


class Step(enum.StrEnum):
    NAME = "step:name"


@pytest.fixture
async def newest(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """A store on the newest Redis."""
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        yield store


@pytest.fixture
def storage(newest: SessionStore) -> BotSessionStorage:
    """The storage on it."""
    return BotSessionStorage(newest)


@pytest.fixture
def context(storage: BotSessionStorage) -> FSMContext:
    """What a handler has."""
    return FSMContext(storage, KEY)


@pytest.fixture
async def redis_client(newest_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A look from outside."""
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        yield client


async def redis_keys(url: str, prefix: str) -> list[bytes]:
    """All keys that the test has in Redis."""
    async with redis.asyncio.Redis.from_url(url) as client:
        return [key async for key in client.scan_iter(match=f"{prefix}*")]


async def stored(store: BotSessionStore, key: StorageKey = KEY) -> dict[str, Any]:
    """What the session holds."""
    session = await store.get(*ids_of(key))
    assert session is not None
    return session.data


# --- what a handler sees


async def test_aiogram_every_part_of_a_storage_key_is_kept_apart(storage: BotSessionStorage, newest: SessionStore) -> None:
    parts = (1, 12), (-1, 1), (1, 11), (None, 0, 1), (None, "", "1", "a.b"), ("default", "", "1", "t1")
    keys = [StorageKey(*values) for values in itertools.product(*parts)]
    assert len(keys) == 384
    await asyncio.gather(*(storage.set_data(key, {"mine": n}) for n, key in enumerate(keys)))
    await asyncio.gather(*(storage.set_state(key, f"state {n}") for n, key in enumerate(keys)))
    assert await asyncio.gather(*map(storage.get_data, keys)) == [{"mine": n} for n in range(len(keys))]
    assert await asyncio.gather(*map(storage.get_state, keys)) == [f"state {n}" for n in range(len(keys))]
    assert {key_of(*ids) async for ids in newest.scan()} == {*keys}


@pytest.mark.parametrize("state", ["text", Step.NAME, Form.name, State("name", "Form")])
async def test_aiogram_state_comes_back_as_text(state: str | State, context: FSMContext, newest: SessionStore) -> None:
    await context.set_state(state)
    expected = "Form:name" if isinstance(state, State) else str(state)
    assert await context.get_state() == expected
    assert type(await context.get_state()) is str
    assert await stored(newest) == {STATE: expected}


@pytest.mark.parametrize("state", [7, Form, b"text"])
async def test_aiogram_what_is_no_state_is_refused(state: Any, context: FSMContext, newest: SessionStore) -> None:
    with pytest.raises(TypeError, match="a state is a State, a str or None, not "):
        await context.set_state(state)
    assert await newest.size() == 0


@pytest.mark.parametrize("data", [None, [("a", 1)], "ab", 7, {"a"}, MappingProxyType({"a": 1})], ids=repr)
async def test_set_data_takes_dicts_alone_as_aiograms_own(data: Any, storage: BotSessionStorage, newest: SessionStore) -> None:
    await storage.set_data(KEY, {"there": 1})
    for one in (MemoryStorage(), storage):
        with pytest.raises(DataNotDictLikeError, match=f"must be a dict or dict-like object, got {type(data).__name__}"):
            await one.set_data(KEY, data)
    assert await stored(newest) == {"there": 1}


@pytest.mark.parametrize("data", [MappingProxyType({"a": 1}), [("a", 1)], {("a", 1)}], ids=repr)
async def test_update_data_takes_what_aiograms_own_takes(data: Any, storage: BotSessionStorage) -> None:
    for one in (MemoryStorage(), storage):
        await one.set_data(KEY, {"there": 1})
        assert await one.update_data(KEY, data) == {"there": 1, "a": 1}


@pytest.mark.parametrize("data", [None, "ab", 7, ["abc"], [1]], ids=repr)
async def test_update_data_refuses_the_rest(data: Any, storage: BotSessionStorage, newest: SessionStore) -> None:
    with pytest.raises((TypeError, ValueError)):
        await MemoryStorage().update_data(KEY, data)
    with pytest.raises(DataNotDictLikeError, match=f"got {type(data).__name__}"):
        await storage.update_data(KEY, data)
    assert await newest.size() == 0


async def test_aiogram_what_cannot_be_stored_is_refused_and_nothing_is_written(
    context: FSMContext, newest: SessionStore
) -> None:
    await context.set_data({"there": 1})
    for write in (context.set_data, context.update_data):
        with pytest.raises(SerializationError) as refused:
            await write({"a": 1, "cart": [{"price": object()}]})
        assert refused.value.path == "cart[0].price"
        with pytest.raises(SerializationError):
            await write({object(): 1})  # type: ignore[dict-item] # on purpose
    assert await stored(newest) == {"there": 1}


async def test_aiogram_what_is_returned_is_the_callers(context: FSMContext) -> None:
    mine: dict[str, Any] = {"nested": {"list": [1]}}
    await context.set_data(mine)
    mine["nested"]["list"].append("changed after it was set")
    for data in (await context.get_data(), await context.update_data(), await context.update_data(other=1)):
        data["nested"]["list"].append("changed after it was read")
        data["new"] = True
    (await context.get_value("nested", {}))["list"].append("changed after it was read")
    assert await context.get_data() == {"nested": {"list": [1]}, "other": 1}


async def test_aiogram_default_is_the_callers_too(context: FSMContext) -> None:
    default: list[int] = []
    value = await context.get_value("none", default)
    assert value == []
    assert value is not default
    assert await context.get_value("none") is None
    await context.set_data({"none": None})
    assert await context.get_value("none", default) is None, "it is there"


async def test_update_data_takes_keywords_and_gives_all_that_is_there(context: FSMContext) -> None:
    await context.set_state(Form.name)
    assert await context.update_data({"a": 1, "b": 1}, b=2, c=3) == {"a": 1, "b": 1, "c": 3}
    assert await context.update_data(d=(4,)) == {"a": 1, "b": 1, "c": 3, "d": (4,)}
    assert await context.get_state() == Form.name.state


async def test_aiogram_nothing_is_made_of_nothing(context: FSMContext, newest_url: str, prefix: str) -> None:
    assert await context.update_data() == {}
    await context.set_data({})
    await context.set_state(None)
    assert await context.get_data() == {}
    assert await redis_keys(newest_url, prefix) == []


@pytest.mark.parametrize("state_first", [True, False])
async def test_aiogram_after_clear_nothing_is_left_in_redis(
    state_first: bool, context: FSMContext, newest_url: str, prefix: str
) -> None:
    await context.set_state(Form.name)
    await context.update_data(a=1, b={"c": 2})
    assert len(await redis_keys(newest_url, prefix)) == 2, "one session, one index"
    if state_first:
        await context.clear()
    else:
        await context.set_data({})
        assert await context.get_state() == Form.name.state
        await context.set_state()
    assert await redis_keys(newest_url, prefix) == []


# --- one session, one TTL


@pytest.mark.parametrize(
    "use", ["get_state", "get_data", "get_value", "set_state", "set_data", "update_data", "update nothing"]
)
async def test_aiogram_each_use_renews_the_one_ttl(
    use: str, context: FSMContext, newest: SessionStore, redis_client: redis.asyncio.Redis
) -> None:
    await context.set_state(Form.name)
    await context.set_data({"a": 1})
    key = newest.key(*ids_of(KEY))
    await redis_client.expire(key, 60)
    arguments = {"get_value": ("a",), "set_state": (Form.email,), "set_data": ({"b": 2},), "update_data": ({"b": 2},)}
    await getattr(context, "update_data" if use == "update nothing" else use)(*arguments.get(use, ()))
    assert timedelta(hours=23) < timedelta(seconds=await redis_client.ttl(key)) <= timedelta(days=1)


@pytest.mark.parametrize(("options", "expected"), [({}, -1), ({"ttl": None}, -1), ({"ttl": timedelta(minutes=10)}, 600)])
async def test_from_url_keeps_sessions_unless_given_a_ttl(
    options: dict[str, Any], expected: int, newest_url: str, prefix: str, redis_client: redis.asyncio.Redis
) -> None:
    storage = BotSessionStorage.from_url(newest_url, prefix=prefix, **options)
    try:
        await storage.set_state(KEY, "text")
        await storage.update_data(KEY, {"a": 1})
        assert await storage.get_data(KEY) == {"a": 1}
        assert expected - 60 < await redis_client.ttl(storage.store.key(*ids_of(KEY))) <= expected
    finally:
        await storage.close()


async def test_get_data_of_a_session_without_ttl_starts_none(
    newest_url: str, prefix: str, redis_client: redis.asyncio.Redis
) -> None:
    # As botsession migrate writes sessions that had no TTL at their source.
    async with SessionStore.from_url(newest_url, prefix=prefix, ttl=None) as migrated:
        await migrated.update(*ids_of(KEY), {"paid_until": "2030-01-01"})
    storage = BotSessionStorage.from_url(newest_url, prefix=prefix)
    try:
        assert await storage.get_data(KEY) == {"paid_until": "2030-01-01"}
        assert await redis_client.ttl(storage.store.key(*ids_of(KEY))) == -1
    finally:
        await storage.close()


# --- at once


async def test_update_data_is_one_command(context: FSMContext, redis_client: redis.asyncio.Redis) -> None:
    await context.set_state(Form.name)
    await context.update_data(first=True)
    await redis_client.config_resetstat()
    for n in range(10):
        assert await context.update_data({str(n): n}) == {"first": True, **{str(m): m for m in range(n + 1)}}
    stats = await redis_client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    # The HGETALL is the script's own.
    assert (calls["evalsha"], calls["hgetall"]) == (10, 10)
    assert not calls.keys() & {"eval", "get", "set", "hget", "hmset", "multi", "watch"}


async def test_aiogram_update_data_returns_the_data_right_after_it(storage: BotSessionStorage) -> None:
    merged = await asyncio.gather(*(storage.update_data(KEY, {"last": n, str(n): n}) for n in range(50)))
    assert [data["last"] for data in merged] == [*range(50)]
    assert sorted(map(len, merged)) == [*range(2, 52)], "each has one key more than another"


@pytest.mark.parametrize("first", ["state", "data"])
async def test_set_data_and_set_state_at_once_keep_each_other(first: str, storage: BotSessionStorage) -> None:
    for n in range(20):
        writes = [storage.set_state(KEY, f"state {n}"), storage.set_data(KEY, {"round": n})]
        await asyncio.gather(*writes if first == "state" else writes[::-1])
        assert (await storage.get_state(KEY), await storage.get_data(KEY)) == (f"state {n}", {"round": n})


async def test_set_state_none_and_update_data_at_once_keep_each_other(storage: BotSessionStorage) -> None:
    for n in range(20):
        await storage.set_state(KEY, "text")
        await asyncio.gather(storage.set_state(KEY, None), storage.update_data(KEY, {str(n): n}), storage.set_state(KEY, None))
        assert await storage.get_state(KEY) is None
        assert await storage.get_data(KEY) == {str(m): m for m in range(n + 1)}


WORKER = """
import asyncio, sys
from aiogram.fsm.storage.base import DefaultKeyBuilder, StorageKey
from aiogram.fsm.storage.redis import RedisStorage
from redis_botsession.adapters.aiogram import BotSessionStorage

url, prefix, worker = sys.argv[1:]
key = StorageKey(bot_id=777, chat_id=-42, user_id=42)

async def main():
    for storage in (
        RedisStorage.from_url(url, key_builder=DefaultKeyBuilder(prefix=f"{prefix}aiogram")),
        BotSessionStorage.from_url(url, prefix=prefix),
    ):
        await storage.get_data(key)
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(storage.update_data(key, {f"{worker}-{n}": n}) for n in range(50)))
        print("done", flush=True)
        sys.stdin.readline()
        print(len(await storage.get_data(key)), flush=True)
        await storage.close()

asyncio.run(main())
"""


async def test_aiogram_all_that_two_processes_update_at_once_is_kept(newest_url: str, prefix: str) -> None:
    pipe = subprocess.PIPE
    lines = [(sys.executable, "-c", WORKER, newest_url, prefix, str(worker)) for worker in range(2)]
    workers = [await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe) for line in lines]

    async def heard(go_on: bytes = b"") -> list[bytes]:
        """What each process says next; then both go on at once."""
        said = [await worker.stdout.readline() for worker in workers if worker.stdout is not None]
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(go_on)
        return said

    async def kept() -> int:
        """How many of 100 keys are there after both have set 50 each, at once."""
        assert await heard(b"go\n") == [b"ready\n"] * 2
        assert await heard(b"go\n") == [b"done\n"] * 2
        first, second = map(int, await heard())
        assert first == second
        return first

    of_aiograms_own = await kept()
    print(f"of 100 updates, aiogram's RedisStorage kept {of_aiograms_own}")  # noqa: T201 - to compare: pytest -s
    assert await kept() == 100
    await asyncio.gather(*(worker.communicate() for worker in workers))
    assert [worker.returncode for worker in workers] == [0, 0]


# --- stores and types


@pytest.fixture(params=["url", "client", "fakeredis", "memory"])
async def any_store(request: pytest.FixtureRequest, newest_url: str, prefix: str) -> AsyncIterator[BotSessionStore]:
    """Each kind of store."""
    client = fakeredis.FakeAsyncRedis() if request.param == "fakeredis" else redis.asyncio.Redis.from_url(newest_url)
    stores: dict[str, Callable[[], BotSessionStore]] = {
        "url": lambda: SessionStore.from_url(newest_url, prefix=prefix),
        "memory": MemorySessionStore,
    }
    async with client, stores.get(request.param, lambda: SessionStore(client, prefix=prefix))() as store:
        yield store


async def round_of_a_handler(storage: BotSessionStorage) -> None:
    """A handler's way with a session: through all methods, and nothing is left."""
    context = FSMContext(storage, KEY)
    await context.set_state(Form.name)
    assert await context.update_data(name="Ada", born=datetime(1815, 12, 10, tzinfo=UTC)) == {
        "name": "Ada",
        "born": datetime(1815, 12, 10, tzinfo=UTC),
    }
    await context.set_state(Form.email)
    assert (await context.get_state(), await context.get_value("name")) == ("Form:email", "Ada")
    await context.set_data({"email": ("ada", "example.org")})
    assert await context.get_data() == {"email": ("ada", "example.org")}
    assert [key_of(*ids) async for ids in storage.store.scan()] == [KEY]
    await context.clear()
    assert (await context.get_state(), await context.get_data()) == (None, {})
    assert await storage.store.size() == 0


async def test_aiogram_works_on_every_kind_of_store(any_store: BotSessionStore) -> None:
    await round_of_a_handler(BotSessionStorage(any_store))


async def test_aiogram_works_on_every_server(store: SessionStore) -> None:
    await round_of_a_handler(BotSessionStorage(store))


async def test_aiogram_aiograms_enums_come_back_as_they_are(newest_url: str, prefix: str) -> None:
    members = {name: [*getattr(enums, name)] for name in enums.__all__}
    storage = BotSessionStorage.from_url(newest_url, prefix=prefix)
    try:
        await storage.update_data(KEY, members)
        data = await storage.get_data(KEY)
    finally:
        await storage.close()
    assert data == members
    assert all(type(member) is getattr(enums, name) for name in members for member in data[name])


async def test_aiogram_codec_of_ones_own_counts(newest_url: str, prefix: str, context: FSMContext) -> None:
    with pytest.raises(SerializationError, match=r"cannot store kind: no encoding for ContentType; .*Codec\.register"):
        await context.update_data(kind=enums.ContentType.PHOTO)
    codec = aiogram_codec()
    codec.register(Step)
    storage = BotSessionStorage.from_url(newest_url, prefix=prefix, codec=codec)
    try:
        await storage.set_data(KEY, {"kind": enums.ContentType.PHOTO, "step": Step.NAME})
        assert await storage.get_value(KEY, "step") is Step.NAME
        assert await storage.get_value(KEY, "kind") is enums.ContentType.PHOTO
    finally:
        await storage.close()


async def test_aiogram_close_closes_what_it_made_and_nothing_else(newest_url: str, prefix: str, newest: SessionStore) -> None:
    made = BotSessionStorage.from_url(newest_url, prefix=prefix)
    await made.set_state(KEY, "text")
    await made.close()
    await made.close()
    with pytest.raises(SessionError):
        await made.get_state(KEY)
    given_one = BotSessionStorage(newest)
    await given_one.close()
    assert await given_one.get_state(KEY) == "text"


def test_aiogram_what_is_no_store_is_refused() -> None:
    for wrong in (fakeredis.FakeAsyncRedis(), "redis://localhost", None):
        with pytest.raises(TypeError, match="needs a BotSessionStore, not "):
            BotSessionStorage(wrong)  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError):
        BotSessionStorage.from_url("redis://localhost", state_ttl=60)  # type: ignore[call-arg] # on purpose


async def test_aiogram_tells_sessions_of_other_kinds_apart(storage: BotSessionStorage, newest: SessionStore) -> None:
    await storage.set_state(KEY, "text")
    await newest.set(42, "shop", BotSession("42", "shop", {"cart": []}))
    found = {ids async for ids in newest.scan()}
    assert found == {ids_of(KEY), ("42", "shop")}
    with pytest.raises(ValueError, match="shop"):
        key_of("42", "shop")
    assert await newest.clear(42) == 2
    assert await storage.get_state(KEY) is None
