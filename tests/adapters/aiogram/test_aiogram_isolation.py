"""aiogram's isolation of events by leases: real dispatchers, as in two processes, on one Redis; no network."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import redis.asyncio
from aiogram import Bot, Dispatcher, Router
from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.base import BaseEventIsolation, StorageKey
from aiogram.fsm.storage.memory import DisabledEventIsolation
from aiogram.types import Chat, Message, Update, User
from aiogram_dialog import setup_dialogs
from aiogram_dialog.test_tools import BotClient
from aiogram_dialog.test_tools.keyboard import InlineButtonTextLocator

from redis_botsession import MemorySessionStore, SessionError, SessionStore
from redis_botsession.adapters.aiogram import BotSessionIsolation, BotSessionStorage, ids_of
from redis_botsession.testing.harness import eventually

from ...store.test_custom_store import SQLiteStore
from .test_aiogram_scenes import Offline, dialogs, scenes

BOT_ID = 777
LONG_AGO = datetime(1815, 12, 10, tzinfo=UTC)
Handler = Callable[[Message, FSMContext], Awaitable[None]]


def key_of_user(user: int) -> StorageKey:
    return StorageKey(bot_id=BOT_ID, chat_id=user, user_id=user)


class Process:
    """A dispatcher with connections of its own.

    Attributes:
        dispatcher: It.
        said: What the bot has said.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        session = Offline()
        self.said = session.texts
        self._bot = Bot(f"{BOT_ID}:token", session=session)
        self._ids = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def running(
        cls, url: str, prefix: str, *routers: Router, isolation: BaseEventIsolation | None = None
    ) -> AsyncIterator[Process]:
        """From its start to its end."""
        storage = BotSessionStorage.from_url(url, prefix=prefix)
        dispatcher = Dispatcher(storage=storage, events_isolation=isolation or storage.create_isolation(lease=600))
        dispatcher.include_routers(*routers)
        await dispatcher.emit_startup()
        process = cls(dispatcher)
        try:
            yield process
        finally:
            await dispatcher.emit_shutdown()

    async def gets(self, text: str = "hello", user: int = 42) -> None:
        """Handles a message."""
        message = Message(
            message_id=next(self._ids),
            date=LONG_AGO,
            chat=Chat(id=user, type="private"),
            from_user=User(id=user, is_bot=False, first_name="Ada"),
            text=text,
        )
        await self.dispatcher.feed_update(self._bot, Update(update_id=next(self._ids), message=message))


def router_of(handler: Handler) -> Router:
    router = Router()
    router.message.register(handler)
    return router


class Lease:
    """What the server knows of the lease of a user."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str, user: int = 42) -> None:
        self.client = client
        self.key = SessionStore(client, prefix=prefix).key(*ids_of(key_of_user(user))) + ":lock"

    async def is_held(self) -> bool:
        return bool(await self.client.exists(self.key))

    async def is_awaited(self) -> bool:
        stored = await self.client.get(self.key)
        return str(stored).endswith("+'")


@pytest.fixture
async def client(newest_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A look from outside."""
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        yield client


@pytest.fixture
def lease(client: redis.asyncio.Redis, prefix: str) -> Lease:
    """That of user 42."""
    return Lease(client, prefix)


# --- two processes


async def test_isolation_orders_one_users_messages_of_two_processes(newest_url: str, prefix: str, lease: Lease) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def slow(message: Message, state: FSMContext) -> None:
        entered.set()
        await go_on.wait()
        await state.update_data(by="slow")
        order.append("slow")

    async def quick(message: Message, state: FSMContext) -> None:
        # What the other has written is there: the session is loaded when it is its turn.
        order.append(f"quick, after {await state.get_value('by')}")

    async with (
        Process.running(newest_url, prefix, router_of(slow)) as one,
        Process.running(newest_url, prefix, router_of(quick)) as other,
    ):
        first = asyncio.create_task(one.gets())
        await entered.wait()
        second = asyncio.create_task(other.gets())
        await eventually(lease.is_awaited)
        assert order == []
        go_on.set()
        await asyncio.gather(first, second)
    assert order == ["slow", "quick, after slow"]
    assert not await lease.is_held()


async def test_isolation_messages_of_different_users_are_handled_at_once(newest_url: str, prefix: str) -> None:
    all_are_in = asyncio.Barrier(6)

    async def meet(message: Message, state: FSMContext) -> None:
        await all_are_in.wait()

    async with (
        Process.running(newest_url, prefix, router_of(meet)) as one,
        Process.running(newest_url, prefix, router_of(meet)) as other,
    ):
        await asyncio.gather(*(process.gets(user=user + n) for user in range(1, 4) for n, process in ((0, one), (10, other))))


async def count(message: Message, state: FSMContext) -> None:
    """What is lost where two handle messages of one user at once."""
    data = await state.get_data()
    await state.set_data({"count": data.get("count", 0) + 1})


@pytest.mark.parametrize("is_isolated", [True, False], ids=["isolated", "not isolated"])
async def test_isolation_counting_messages(is_isolated: bool, newest_url: str, prefix: str) -> None:
    isolation = None if is_isolated else DisabledEventIsolation()
    async with (
        Process.running(newest_url, prefix, router_of(count), isolation=isolation) as one,
        Process.running(newest_url, prefix, router_of(count), isolation=isolation) as other,
    ):
        await asyncio.gather(*(process.gets(user=user) for process in (one, other) for user in (42, 43) for _ in range(50)))
        counts = [(await one.dispatcher.storage.get_data(key_of_user(user)))["count"] for user in (42, 43)]
    if is_isolated:
        assert counts == [100, 100]
    else:
        assert max(counts) < 100


async def test_isolation_messages_of_one_process_are_handled_in_order(newest_url: str, prefix: str) -> None:
    order: list[str | None] = []

    async def note(message: Message, state: FSMContext) -> None:
        await state.update_data(last=message.text)
        order.append(message.text)

    async with Process.running(newest_url, prefix, router_of(note)) as process:
        await asyncio.gather(*(process.gets(str(n)) for n in range(30)))
    assert order == [str(n) for n in range(30)]


async def test_isolation_handler_that_fails_gives_its_lease_back(newest_url: str, prefix: str, lease: Lease) -> None:
    async def fail(message: Message, state: FSMContext) -> None:
        assert await lease.is_held()
        raise LookupError("on purpose")

    async with Process.running(newest_url, prefix, router_of(fail)) as process:
        with pytest.raises(LookupError, match="on purpose"):
            await process.gets()
        assert not await lease.is_held()


# --- the end of a process


@pytest.mark.parametrize("kind", ["of the storage", "own store"])
async def test_isolation_process_that_ends_lets_its_handlers_end(kind: str, newest_url: str, prefix: str, lease: Lease) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    stored: list[Any] = []

    async def slow(message: Message, state: FSMContext) -> None:
        entered.set()
        await go_on.wait()
        if kind == "of the storage":
            stored.append(await state.update_data(done=True))

    own = BotSessionIsolation.from_url(newest_url, prefix=prefix) if kind == "own store" else None
    async with Process.running(newest_url, prefix, router_of(slow), isolation=own) as process:
        handling = asyncio.create_task(process.gets())
        waiting = asyncio.create_task(process.gets())
        await entered.wait()
        ending = asyncio.create_task(process.dispatcher.emit_shutdown())
        with pytest.raises(SessionError, match="these leases are closed"):
            await waiting
        assert await lease.is_held()
        assert not ending.done()
        go_on.set()
        await asyncio.gather(handling, ending)
        assert not await lease.is_held()
        assert stored == ([{"done": True}] if kind == "of the storage" else [])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_isolation_store_that_was_given_stays_open(newest_url: str, prefix: str) -> None:
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        storage = BotSessionStorage(store)
        for isolation in (BotSessionIsolation(store), storage.create_isolation()):
            async with isolation.lock(key_of_user(42)):
                await storage.set_state(key_of_user(42), "in between")
            await isolation.close()
        await storage.close()
        assert await store.get(*ids_of(key_of_user(42))) is not None


async def test_isolation_of_its_own_closes_its_store(newest_url: str, prefix: str) -> None:
    isolation = BotSessionIsolation.from_url(newest_url, prefix=prefix, max_connections=1)
    async with isolation.lock(key_of_user(42)):
        pass
    await isolation.close()
    with pytest.raises(SessionError, match="this store is closed"):
        await isolation.store.get("u", "c")


async def test_isolation_in_memory() -> None:
    storage = BotSessionStorage(MemorySessionStore())
    dispatcher = Dispatcher(storage=storage, events_isolation=storage.create_isolation())
    dispatcher.include_router(router_of(count))
    process = Process(dispatcher)
    await asyncio.gather(*(process.gets() for _ in range(20)))
    assert await storage.get_data(key_of_user(42)) == {"count": 20}


async def test_isolation_what_can_have_no_leases_is_refused() -> None:
    store: Any
    async with SQLiteStore() as store:
        for make in (BotSessionIsolation, lambda store: BotSessionStorage(store).create_isolation()):
            with pytest.raises(TypeError, match="leases need a SessionStore or MemorySessionStore, not SQLiteStore"):
                make(store)
    with pytest.raises(ValueError, match=r"at least 0\.1 s"):
        BotSessionIsolation(MemorySessionStore(), lease=0.01)


@pytest.mark.parametrize("part", ["bot_id", "chat_id", "user_id", "thread_id", "business_connection_id", "destiny"])
async def test_isolation_every_part_of_a_key_is_kept_apart(part: str, newest_url: str, prefix: str) -> None:
    mine = {"bot_id": 1, "chat_id": 2, "user_id": 3, "thread_id": 4, "business_connection_id": "b", "destiny": "d"}
    other = {**mine, part: "x" if isinstance(mine[part], str) else 99}
    isolation = BotSessionIsolation.from_url(newest_url, prefix=prefix)
    async with isolation.lock(StorageKey(**mine)), isolation.lock(StorageKey(**other)):  # type: ignore[arg-type] # str or int, as each is
        pass
    await isolation.close()


# --- scenes, and aiogram_dialog


async def test_isolation_scenes(newest_url: str, prefix: str) -> None:
    async with (
        Process.running(newest_url, prefix, scenes()) as one,
        Process.running(newest_url, prefix, scenes()) as other,
    ):
        await one.gets("/start")
        await other.gets("quiz")
        # Each appends to a list that it has read before.
        await asyncio.gather(*(process.gets(str(n)) for n in range(10) for process in (one, other)))
        assert sorted(one.said + other.said) == sorted(
            ["Lobby, visit 1", "Six times seven?", *(f"{n} answers" for n in range(1, 21))]
        )
        await one.gets("back")
        await other.gets("exit")
        assert (one.said[-1], other.said[-1]) == ("Lobby, visit 2", "Bye")


async def test_isolation_dialogs(newest_url: str, prefix: str, client: redis.asyncio.Redis) -> None:
    routers, messages = dialogs()
    async with Process.running(newest_url, prefix, *routers) as process:
        isolation = process.dispatcher.fsm.events_isolation
        setup_dialogs(process.dispatcher, message_manager=messages, events_isolation=isolation)
        bot = BotClient(process.dispatcher, user_id=42, chat_id=42, bot=Bot(f"{BOT_ID}:token", session=Offline()))
        await bot.send("/start")
        window = messages.last_message()
        await asyncio.gather(*(bot.click(window, InlineButtonTextLocator("more")) for _ in range(10)))
        # Each is added to what is there.
        assert messages.last_message().text == "10 for 99.90"
    assert [key async for key in client.scan_iter(f"{prefix}*:lock")] == []


async def test_isolation_one_who_would_wait_for_himself_is_told(newest_url: str, prefix: str) -> None:
    async def feeds(message: Message, state: FSMContext) -> None:
        await process.gets("again")

    async with Process.running(newest_url, prefix, router_of(feeds)) as process:
        with pytest.raises(RuntimeError, match="held by this task already"):
            await process.gets("/start")
