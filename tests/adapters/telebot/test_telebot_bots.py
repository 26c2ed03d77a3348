"""Real bots of pyTelegramBotAPI with our state storages: fed with updates, on a real Redis, without Telegram."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from telebot import TeleBot, apihelper, asyncio_filters, asyncio_helper, custom_filters
from telebot.async_telebot import AsyncTeleBot
from telebot.states import State, StatesGroup
from telebot.states.asyncio.middleware import StateMiddleware as AsyncStateMiddleware
from telebot.states.sync.middleware import StateMiddleware
from telebot.types import Update
from telebot.util import CustomRequestResponse

from redis_botsession import SessionStore, sync
from redis_botsession.adapters.telebot import AsyncBotSessionStorage, BotSessionStorage
from redis_botsession.testing.harness import PATIENCE

TOKEN = "777:test"  # noqa: S105 - no bot has it
CHAT, USER = -100, 42

Feed = Callable[..., Any]
# telebot has some types, but these have none.
make_update: Any = Update.de_json
Response: Any = CustomRequestResponse
AsyncStateFilter: Any = asyncio_filters.StateFilter
StateFilter: Any = custom_filters.StateFilter


class Form(StatesGroup):
    name = State()
    age = State()


def said(text: str, user: int = USER, **more: Any) -> Any:
    """The update of a message."""
    sender = {"id": user, "is_bot": False, "first_name": "Ada"}
    message = {"message_id": 1, "date": 0, "chat": {"id": CHAT, "type": "supergroup"}, "from": sender, "text": text, **more}
    kind = "business_message" if "business_connection_id" in more else "message"
    return make_update({"update_id": 1, kind: message})


def reactions_counted() -> Any:
    """An update that comes from no user."""
    counted = {"chat": {"id": CHAT, "type": "supergroup"}, "message_id": 1, "date": 0, "reactions": []}
    return make_update({"update_id": 1, "message_reaction_count": counted})


class Failures(list[Exception]):
    """What handlers have raised; telebot would only log it."""

    def handle(self, exception: Exception) -> bool:
        self.append(exception)
        return True


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the bots have sent."""
    texts: list[str] = []

    def answer(params: dict[str, Any]) -> dict[str, Any]:
        texts.append(params["text"])
        return {"message_id": 2, "date": 0, "chat": {"id": CHAT, "type": "supergroup"}, "text": params["text"]}

    def send(method: str, url: str, *, params: dict[str, Any], **_: Any) -> Any:
        return Response(json.dumps({"ok": True, "result": answer(params)}))

    async def send_async(token: str, url: str, *, params: dict[str, Any], **_: Any) -> Any:
        return answer(params)

    monkeypatch.setattr(apihelper, "CUSTOM_REQUEST_SENDER", send)
    monkeypatch.setattr(asyncio_helper, "_process_request", send_async)
    return texts


@asynccontextmanager
async def async_bot(url: str, prefix: str) -> AsyncIterator[Feed]:
    """An application with an AsyncTeleBot: what takes its updates."""
    async with AsyncBotSessionStorage.from_url(url, prefix=prefix) as storage:
        failures: Any = Failures()
        bot: Any = AsyncTeleBot(TOKEN, state_storage=storage, exception_handler=failures)
        bot.add_custom_filter(AsyncStateFilter(bot))
        bot.setup_middleware(AsyncStateMiddleware(bot))

        async def start(message: Any, state: Any) -> None:
            await state.set(Form.name)
            await state.add_data(asked=1)
            await bot.send_message(message.chat.id, "name?")

        async def cancel(message: Any, state: Any) -> None:
            async with state.data() as data:
                data["cancelled"] = True
                await state.delete()
            await bot.send_message(message.chat.id, "cancelled")

        async def take_name(message: Any, state: Any) -> None:
            async with state.data() as data:
                data["name"] = message.text
                data["asked"] += 1
            await state.set(Form.age)
            await bot.send_message(message.chat.id, "age?")

        async def take_age(message: Any, state: Any) -> None:
            async with state.data() as data:
                data["age"] = int(message.text)
                await bot.send_message(message.chat.id, f"{data['name']}, {data['age']}, {data['asked']}")
            await state.delete()

        async def other(message: Any) -> None:
            await bot.send_message(message.chat.id, "/start?")

        async def count(message: Any) -> None:
            await bot.send_message(message.chat.id, "counted")

        bot.register_message_handler(start, commands=["start"])
        bot.register_message_handler(cancel, commands=["cancel"], state="*")
        bot.register_message_handler(take_name, state=Form.name)
        bot.register_business_message_handler(take_name, state=Form.name)
        bot.register_message_handler(take_age, state=[Form.age])
        bot.register_message_handler(other)
        bot.register_message_reaction_count_handler(count, state="*")

        async def feed(*updates: Any) -> list[Exception]:
            failures.clear()
            await bot.process_new_updates([*updates])
            return [*failures]

        yield feed


@contextmanager
def sync_bot(url: str, prefix: str) -> Iterator[Feed]:
    """The same with a TeleBot."""
    with BotSessionStorage.from_url(url, prefix=prefix) as storage:
        failures: Any = Failures()
        bot: Any = TeleBot(TOKEN, state_storage=storage, exception_handler=failures, threaded=False, use_class_middlewares=True)
        bot.add_custom_filter(StateFilter(bot))
        bot.setup_middleware(StateMiddleware(bot))

        def start(message: Any, state: Any) -> None:
            state.set(Form.name)
            state.add_data(asked=1)
            bot.send_message(message.chat.id, "name?")

        def cancel(message: Any, state: Any) -> None:
            with state.data() as data:
                data["cancelled"] = True
                state.delete()
            bot.send_message(message.chat.id, "cancelled")

        def take_name(message: Any, state: Any) -> None:
            with state.data() as data:
                data["name"] = message.text
                data["asked"] += 1
            state.set(Form.age)
            bot.send_message(message.chat.id, "age?")

        def take_age(message: Any, state: Any) -> None:
            with state.data() as data:
                data["age"] = int(message.text)
                bot.send_message(message.chat.id, f"{data['name']}, {data['age']}, {data['asked']}")
            state.delete()

        def other(message: Any) -> None:
            bot.send_message(message.chat.id, "/start?")

        def count(message: Any) -> None:
            bot.send_message(message.chat.id, "counted")

        bot.register_message_handler(start, commands=["start"])
        bot.register_message_handler(cancel, commands=["cancel"], state="*")
        bot.register_message_handler(take_name, state=Form.name)
        bot.register_business_message_handler(take_name, state=Form.name)
        bot.register_message_handler(take_age, state=[Form.age])
        bot.register_message_handler(other)
        bot.register_message_reaction_count_handler(count, state="*")

        async def feed(*updates: Any) -> list[Exception]:
            failures.clear()
            bot.process_new_updates([*updates])
            return [*failures]

        yield feed


@pytest.fixture(params=["async", "sync"])
def application(request: pytest.FixtureRequest, newest_url: str, prefix: str) -> Callable[[], Any]:
    """Starts the bot; each has connections of its own, as each process has."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Feed]:
        if request.param == "async":
            async with async_bot(newest_url, prefix) as feed:
                yield feed
        else:
            with sync_bot(newest_url, prefix) as feed:
                yield feed

    return start


async def test_telebot_flow_goes_on_after_a_restart(
    application: Callable[[], Any], sent: list[str], newest_url: str, prefix: str
) -> None:
    async with application() as feed:
        assert await feed(said("hi")) == []
        assert await feed(said("/start")) == []
        assert await feed(said("Ada")) == []
    async with application() as feed:
        assert await feed(said("36", user=USER + 1)) == []
        assert await feed(said("36")) == []
        assert await feed(said("36")) == []
    assert sent == ["/start?", "name?", "age?", "/start?", "Ada, 36, 2", "/start?"]
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        assert await store.size() == 0


async def test_telebot_exception_reaches_the_bots_handler_and_the_flow_can_go_on(
    application: Callable[[], Any], sent: list[str]
) -> None:
    async with application() as feed:
        await feed(said("/start"))
        await feed(said("Ada"))
        # telebot's own storages swallow it.
        assert [type(error) for error in await feed(said("old"))] == [ValueError]
        assert await feed(said("36")) == []
    assert sent == ["name?", "age?", "Ada, 36, 2"]


async def test_telebot_deleting_inside_of_retrieve_data_ends_the_flow(application: Callable[[], Any], sent: list[str]) -> None:
    async with application() as feed:
        await feed(said("/start"))
        assert await feed(said("/cancel")) == []
        assert await feed(said("Ada")) == []
    assert sent == ["name?", "cancelled", "/start?"]


async def test_telebot_topics_and_business_chats_have_flows_of_their_own(
    application: Callable[[], Any], sent: list[str]
) -> None:
    topic: dict[str, Any] = {"message_thread_id": 777, "is_topic_message": True}
    async with application() as feed:
        await feed(said("/start"))
        await feed(said("Ada", **topic))
        await feed(said("Ada", business_connection_id="bc"))
        await feed(said("/start", **topic))
        await feed(said("Bob", **topic))
        await feed(said("Ada"))
    assert sent == ["name?", "/start?", "name?", "age?", "age?"]


async def test_telebot_update_of_no_user_has_no_state(application: Callable[[], Any], sent: list[str]) -> None:
    async with application() as feed:
        await feed(said("/start"))
        assert await feed(reactions_counted()) == []
    assert sent == ["name?"]


def test_telebot_eight_threads_of_a_bot_lose_nothing(sent: list[str], newest_url: str, prefix: str) -> None:
    threads, rounds = 8, 25
    with BotSessionStorage.from_url(newest_url, prefix=prefix) as storage:
        failures: Any = Failures()
        bot: Any = TeleBot(TOKEN, state_storage=storage, num_threads=threads, exception_handler=failures)
        bot.set_state(USER, Form.name, CHAT)
        together = threading.Barrier(threads, timeout=PATIENCE)
        done = threading.Semaphore(0)

        def add(message: Any) -> None:
            together.wait()
            for n in range(rounds):
                bot.add_data(USER, CHAT, **{f"{message.text}-{n}": n})
                with bot.retrieve_data(USER, CHAT) as data:
                    data[f"{message.text}-again-{n}"] = n
            done.release()

        bot.register_message_handler(add)

        bot.process_new_updates([said(str(thread)) for thread in range(threads)])
        try:
            for _ in range(threads):
                assert done.acquire(timeout=PATIENCE), failures
        finally:
            bot.stop_bot()
        assert failures == []
        expected = {f"{thread}-{n}": n for thread in range(threads) for n in range(rounds)}
        expected |= {f"{thread}-again-{n}": n for thread in range(threads) for n in range(rounds)}
        assert bot.retrieve_data(USER, CHAT).data == expected
        assert bot.get_state(USER, CHAT) == "Form:name"


ASYNC_WORKER = """
import asyncio, sys
from telebot.async_telebot import AsyncTeleBot
from redis_botsession.adapters.telebot import AsyncBotSessionStorage

async def main(url, prefix, worker):
    async with AsyncBotSessionStorage.from_url(url, prefix=prefix) as storage:
        bot = AsyncTeleBot("777:test", state_storage=storage)
        await bot.set_state(42, "s", -100)
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(bot.add_data(42, -100, **{f"{worker}-{n}": n}) for n in range(50)))

asyncio.run(main(*sys.argv[1:]))
"""
SYNC_WORKER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from telebot import TeleBot
from redis_botsession.adapters.telebot import BotSessionStorage

url, prefix, worker = sys.argv[1:]
with BotSessionStorage.from_url(url, prefix=prefix) as storage, ThreadPoolExecutor(8) as threads:
    bot = TeleBot("777:test", state_storage=storage, threaded=False)
    bot.set_state(42, "s", -100)
    print("ready", flush=True)
    sys.stdin.readline()
    list(threads.map(lambda n: bot.add_data(42, -100, **{f"{worker}-{n}": n}), range(50)))
"""


@pytest.mark.parametrize("worker", [ASYNC_WORKER, SYNC_WORKER], ids=["async", "sync"])
async def test_telebot_two_processes_lose_nothing(worker: str, newest_url: str, prefix: str) -> None:
    pipe = asyncio.subprocess.PIPE
    commands = [(sys.executable, "-c", worker, newest_url, prefix, str(n)) for n in range(2)]
    workers = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for command in commands]
    for process in workers:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    await asyncio.gather(*(process.communicate(b"go\n") for process in workers))
    assert [process.returncode for process in workers] == [0, 0]
    with sync.SessionStore.from_url(newest_url, prefix=prefix) as store:
        data = BotSessionStorage(store).get_data(CHAT, USER, bot_id=777)
    assert data == {f"{n}-{added}": added for n in range(2) for added in range(50)}
