"""The state storages for pyTelegramBotAPI, as telebot calls them; on a real Redis."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from telebot.asyncio_storage import StateMemoryStorage as AsyncOracle
from telebot.states import State, StatesGroup
from telebot.storage import StateMemoryStorage as Oracle

from redis_botsession import MemorySessionStore, SerializationError, SessionStore, sync
from redis_botsession.adapters.telebot import AsyncBotSessionStorage, BotSessionStorage

CHAT, USER = -100, 42
BOT = 777


class Blocking:
    """A synchronous storage, for tests that await: so one test is for both."""

    def __init__(self, storage: BotSessionStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            return method(*arguments, **named)

        return call

    @asynccontextmanager
    async def get_interactive_data(self, *arguments: Any, **named: Any) -> AsyncIterator[Any]:
        with self._storage.get_interactive_data(*arguments, **named) as data:
            yield data


@pytest.fixture
async def store(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """What the storage writes to, seen by another process."""
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        yield store


@pytest.fixture(params=["async", "sync"])
async def storage(request: pytest.FixtureRequest, newest_url: str, prefix: str) -> AsyncIterator[Any]:
    """Both storages, with methods to await."""
    if request.param == "async":
        async with AsyncBotSessionStorage.from_url(newest_url, prefix=prefix, ttl=86_400) as ours:
            yield ours
    else:
        with BotSessionStorage.from_url(newest_url, prefix=prefix, ttl=86_400) as ours:
            yield Blocking(ours)


# What telebot calls


@pytest.mark.parametrize(("ours", "telebots"), [(AsyncBotSessionStorage, AsyncOracle), (BotSessionStorage, Oracle)])
def test_telebot_methods_take_what_telebots_own_take(ours: type, telebots: type) -> None:
    theirs = {name: method for name, method in vars(telebots).items() if not name.startswith("_")}
    assert len(theirs) == 8
    for name, method in theirs.items():
        mine = getattr(ours, name)
        assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(method), name
        expected = [(each.name, each.default) for each in inspect.signature(method).parameters.values()]
        assert [(each.name, each.default) for each in inspect.signature(mine).parameters.values()] == expected, name


class Mode(StatesGroup):
    expert = State()


@pytest.mark.parametrize(
    ("state", "stored"),
    [("name", "name"), (7, 7), (True, True), (None, None), ((1, "a"), (1, "a")), (Mode.expert, "Mode:expert")],
)
async def test_telebot_state_comes_back_with_its_type(storage: Any, state: Any, stored: Any) -> None:
    assert await storage.set_state(CHAT, USER, state) is True
    found = await storage.get_state(CHAT, USER)
    assert (type(found), found) == (type(stored), stored)


async def test_telebot_keys_and_values_come_back_with_their_types(storage: Any) -> None:
    data = {
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "price": Decimal("9.90"),
        5: {(1, 2): {"x"}},
        "5": b"",
        None: (),
        (1, "a"): None,
        ":state": "not the state",
        "": 1,
    }
    await storage.set_state(CHAT, USER, "s")
    for key, value in data.items():
        assert await storage.set_data(CHAT, USER, key, value) is True
    assert await storage.get_data(CHAT, USER) == data
    assert await storage.get_state(CHAT, USER) == "s"


async def test_telebot_what_get_data_gives_is_a_copy(storage: Any) -> None:
    await storage.set_state(CHAT, USER, "s")
    await storage.set_data(CHAT, USER, "cart", ["apple"])
    (await storage.get_data(CHAT, USER))["cart"].append("pear")
    assert await storage.get_data(CHAT, USER) == {"cart": ["apple"]}


async def test_telebot_data_need_a_state_first(storage: Any, store: SessionStore) -> None:
    with pytest.raises(RuntimeError, match=r"there is no state at .*\{42\}:-100\.b777.*set_state"):
        await storage.set_data(CHAT, USER, "k", 1, bot_id=BOT)
    assert await storage.save(CHAT, USER, {"k": 1}) is False
    assert await storage.reset_data(CHAT, USER) is False
    assert await storage.delete_state(CHAT, USER) is False
    assert await store.size() == 0


@pytest.mark.parametrize("how", ["set_state", "set_data", "save", "retrieve_data"])
async def test_telebot_what_cannot_be_stored_is_refused_and_nothing_is_written(
    storage: Any, store: SessionStore, how: str
) -> None:
    await storage.set_state(CHAT, USER, "s")
    await storage.set_data(CHAT, USER, "old", 1)
    before = await store.get(USER, CHAT)
    with pytest.raises(SerializationError):
        if how == "set_state":
            await storage.set_state(CHAT, USER, object())
        elif how == "set_data":
            await storage.set_data(CHAT, USER, "new", object())
        elif how == "save":
            await storage.save(CHAT, USER, {"new": 1, "bad": object()})
        else:
            async with storage.get_interactive_data(CHAT, USER) as data:
                data["new"] = 1
                data["bad"] = object()
    assert before is not None
    assert await store.get(USER, CHAT) == before


@pytest.mark.parametrize("data", [None, "text", [("a", 1)]])
async def test_telebot_data_that_are_no_dict_are_refused(storage: Any, data: Any) -> None:
    await storage.set_state(CHAT, USER, "s")
    with pytest.raises(TypeError, match="the data of a state are a dict, not"):
        await storage.save(CHAT, USER, data)
    assert await storage.get_data(CHAT, USER) == {}


async def test_telebot_user_id_that_is_none_is_refused(storage: Any) -> None:
    with pytest.raises(ValueError, match="user_id must not be empty"):
        await storage.set_state(CHAT, "", "s")
    with pytest.raises(TypeError, match="user_id must be str or int, not float"):
        await storage.get_state(CHAT, 4.2)


# Addresses

_ids = st.one_of(st.none(), st.just("none"), st.integers(-12, 12), st.text(st.sampled_from("1b.-%:ctn\ud800"), max_size=3))
_given = _ids.filter(lambda chat_or_user: chat_or_user != "")
_addresses = st.tuples(_given, _given, _ids, _ids, _ids)


def as_telebot_sees_it(address: tuple[Any, ...]) -> tuple[Any, ...]:
    """In its keys, numbers are text, and what is falsy beside the chat and the user is left out."""
    return tuple(None if part is None or (place > 1 and not part) else str(part) for place, part in enumerate(address))


@given(st.lists(_addresses, min_size=2, max_size=8, unique_by=as_telebot_sees_it))
def test_telebot_no_two_addresses_meet(different: list[tuple[Any, ...]]) -> None:
    async def fill() -> None:
        storage = AsyncBotSessionStorage(MemorySessionStore())
        for chat, user, *rest in different:
            await storage.set_state(chat, user, repr((chat, user, *rest)), *rest)
        for chat, user, *rest in different:
            assert await storage.get_state(chat, user, *rest) == repr((chat, user, *rest))

    asyncio.run(fill())


async def test_telebot_topic_and_a_bot_of_one_number_are_two(storage: Any) -> None:
    # In telebot's own storages, these are one.
    await storage.set_state(CHAT, USER, "topic", message_thread_id=7)
    await storage.set_state(CHAT, USER, "bot", bot_id=7)
    assert await storage.get_state(CHAT, USER, message_thread_id=7) == "topic"


async def test_telebot_session_is_found_by_user_and_clears_with_the_user(storage: Any, store: SessionStore) -> None:
    await storage.set_state(CHAT, USER, "a", bot_id=BOT, business_connection_id="bc", message_thread_id=5)
    await storage.set_state(USER, USER, "b", bot_id=BOT)
    assert sorted(await store.channels(USER)) == ["-100.b777.cbc.t5", "42.b777"]
    assert await store.clear(USER) == 2
    assert await storage.get_state(USER, USER, bot_id=BOT) is None


# retrieve_data


async def test_telebot_two_handlers_at_once_keep_each_others_changes(storage: Any) -> None:
    await storage.set_state(CHAT, USER, "s")
    await storage.save(CHAT, USER, {"cart": ["apple"], "old": 1, "same": [1]})
    async with storage.get_interactive_data(CHAT, USER) as first, storage.get_interactive_data(CHAT, USER) as second:
        first["cart"].append("pear")
        del second["old"]
        second["new"] = 2
    assert await storage.get_data(CHAT, USER) == {"cart": ["apple", "pear"], "new": 2, "same": [1]}
    assert await storage.get_state(CHAT, USER) == "s"


async def test_telebot_what_is_written_inside_of_retrieve_data_stays(storage: Any) -> None:
    await storage.set_state(CHAT, USER, "s")
    await storage.save(CHAT, USER, {"before": 1, "other": 2})
    async with storage.get_interactive_data(CHAT, USER) as data:
        await storage.set_data(CHAT, USER, "added", 3)
        await storage.set_state(CHAT, USER, "next")
        data["mine"] = 4
    assert await storage.get_data(CHAT, USER) == {"before": 1, "other": 2, "added": 3, "mine": 4}
    assert await storage.get_state(CHAT, USER) == "next"

    async with storage.get_interactive_data(CHAT, USER) as data:
        await storage.reset_data(CHAT, USER)
        data["mine"] = 5
    assert await storage.get_data(CHAT, USER) == {"mine": 5}


async def test_telebot_retrieve_data_keeps_a_deleted_record_deleted(
    storage: Any, store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    await storage.set_state(CHAT, USER, "s")
    await storage.set_data(CHAT, USER, "secret", "hunter2")
    async with storage.get_interactive_data(CHAT, USER) as data:
        await storage.delete_state(CHAT, USER)
        data["secret"] += "!"
    assert await store.get(USER, CHAT) is None
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("redis_botsession.adapters.telebot", logging.WARNING)
    assert f"{{42}}:{CHAT} was deleted" in record.getMessage()
    assert "hunter2" not in record.getMessage()


async def test_telebot_does_not_write_into_a_successor(storage: Any) -> None:
    await storage.set_state(CHAT, USER, "s")
    async with storage.get_interactive_data(CHAT, USER) as data:
        data["old"] = 1
        await storage.delete_state(CHAT, USER)
        await storage.set_state(CHAT, USER, "anew")
    assert await storage.get_data(CHAT, USER) == {}
    assert await storage.get_state(CHAT, USER) == "anew"


async def test_telebot_retrieve_data_saves_to_a_record_made_inside(storage: Any) -> None:
    async with storage.get_interactive_data(CHAT, USER) as data:
        await storage.set_state(CHAT, USER, "s")
        data["name"] = "Ada"
    assert await storage.get_data(CHAT, USER) == {"name": "Ada"}
    assert await storage.get_state(CHAT, USER) == "s"


async def test_telebot_without_a_record_retrieve_data_creates_none_and_says_so(
    storage: Any, store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with storage.get_interactive_data(CHAT, USER) as data:
        assert data == {}
    assert caplog.messages == []
    async with storage.get_interactive_data(CHAT, USER) as data:
        data["name"] = "Ada"
    assert await store.size() == 0
    assert ["never set" in message for message in caplog.messages] == [True]


async def test_telebot_exception_in_retrieve_data_goes_on_and_saves_nothing(storage: Any) -> None:
    await storage.set_state(CHAT, USER, "s")
    await storage.set_data(CHAT, USER, "cart", ["apple"])
    with pytest.raises(ZeroDivisionError):
        async with storage.get_interactive_data(CHAT, USER) as data:
            data["cart"].append(1 / 0)
    with pytest.raises(ZeroDivisionError):
        async with storage.get_interactive_data(CHAT, USER) as data:
            data["cart"].append("pear")
            data["half"] = 1 / 0
    assert await storage.get_data(CHAT, USER) == {"cart": ["apple"]}


async def test_telebot_retrieve_data_that_reads_renews_the_ttl_only(storage: Any, store: SessionStore, newest_url: str) -> None:
    await storage.set_state(CHAT, USER, "s")
    await storage.set_data(CHAT, USER, "name", "Ada")
    before = await store.get(USER, CHAT)
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        await client.pexpire(store.key(USER, CHAT), 60_000)
        async with storage.get_interactive_data(CHAT, USER) as data:
            assert data == {"name": "Ada"}
        assert await client.pttl(store.key(USER, CHAT)) > 86_000_000
    assert before is not None
    assert await store.get(USER, CHAT) == before


def test_telebot_data_can_be_read_without_with(newest_url: str, prefix: str) -> None:
    # Programs do so with telebot's own for threads.
    with BotSessionStorage.from_url(newest_url, prefix=prefix) as storage:
        storage.set_state(CHAT, USER, "s")
        storage.set_data(CHAT, USER, "name", "Ada")
        assert storage.get_interactive_data(CHAT, USER).data == {"name": "Ada"}


# Stores


@pytest.mark.parametrize(("options", "least"), [({}, -1), ({"ttl": 3600}, 3_500_000), ({"ttl": None}, -1)])
async def test_from_url_keeps_records_unless_given_a_ttl(
    newest_url: str, prefix: str, options: dict[str, Any], least: int
) -> None:
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        with BotSessionStorage.from_url(newest_url, prefix=prefix, **options) as blocking:
            blocking.set_state(CHAT, USER, "s")
            assert blocking.get_data(CHAT, USER) == {}
        async with AsyncBotSessionStorage.from_url(newest_url, prefix=prefix, **options) as storage:
            await storage.set_state(CHAT, USER + 1, "s")
            async with storage.get_interactive_data(CHAT, USER + 1) as data:
                assert data == {}
        for user in (USER, USER + 1):
            left = await client.pttl(f"{prefix}{{{user}}}:{CHAT}")
            assert least <= left <= max(least * 1.1, -1)


async def test_telebot_store_of_ones_own_stays_open(newest_url: str, prefix: str, store: SessionStore) -> None:
    async with AsyncBotSessionStorage(store) as storage:
        await storage.set_state(CHAT, USER, "s")
    assert await storage.get_state(CHAT, USER) == "s"
    with sync.SessionStore.from_url(newest_url, prefix=prefix) as own:
        with BotSessionStorage(own) as blocking:
            assert blocking.get_state(CHAT, USER) == "s"
        assert blocking.get_state(CHAT, USER) == "s"


async def test_telebot_store_of_a_url_is_closed_with_the_storage(newest_url: str, prefix: str) -> None:
    async with AsyncBotSessionStorage.from_url(newest_url, prefix=prefix) as storage:
        await storage.set_state(CHAT, USER, "s")
    with pytest.raises(Exception, match="closed"):
        await storage.get_state(CHAT, USER)
    with BotSessionStorage.from_url(newest_url, prefix=prefix) as blocking:
        assert blocking.get_state(CHAT, USER) == "s"
    with pytest.raises(Exception, match="closed"):
        blocking.get_state(CHAT, USER)


async def test_telebot_wrong_kind_of_store_is_refused(newest_url: str, store: SessionStore) -> None:
    with pytest.raises(
        TypeError, match=r"not redis_botsession\.store\.SessionStore \(for AsyncTeleBot: AsyncBotSessionStorage"
    ):
        BotSessionStorage(store)  # type: ignore[arg-type]  # on purpose
    with (
        sync.SessionStore.from_url(newest_url) as blocking,
        pytest.raises(TypeError, match=r"not redis_botsession\.sync\.SessionStore \(for TeleBot: BotSessionStorage"),
    ):
        AsyncBotSessionStorage(blocking)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match=r"not builtins\.str"):
        AsyncBotSessionStorage(newest_url)  # type: ignore[arg-type]  # on purpose
