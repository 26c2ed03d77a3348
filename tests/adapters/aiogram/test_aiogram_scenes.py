"""aiogram's dispatcher, its scenes, and aiogram_dialog on sessions in Redis: real updates, no network; and what is stored."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
import redis.asyncio
from aiogram import Bot, Dispatcher, F, Router
from aiogram.client.session.base import BaseSession
from aiogram.enums import ContentType
from aiogram.filters import Command, StateFilter
from aiogram.fsm.context import FSMContext
from aiogram.fsm.scene import Scene, SceneRegistry, on
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.strategy import FSMStrategy
from aiogram.methods import SendMessage, TelegramMethod
from aiogram.types import CallbackQuery, Chat, Message, Update, User
from aiogram_dialog import Dialog, DialogManager, StartMode, Window, setup_dialogs
from aiogram_dialog.test_tools import BotClient, MockMessageManager
from aiogram_dialog.test_tools.keyboard import InlineButtonTextLocator
from aiogram_dialog.widgets.kbd import Button, Cancel, Start
from aiogram_dialog.widgets.text import Const, Format

from redis_botsession import SessionError, SessionStore
from redis_botsession.adapters._ids import STATE
from redis_botsession.adapters.aiogram import BotSessionStorage, aiogram_codec, ids_of, key_of

BOT_ID = 777
USER = User(id=42, is_bot=False, first_name="Ada")
PRIVATE = Chat(id=42, type="private")
GROUP = Chat(id=-100, type="supergroup")
PRIVATE_KEY = StorageKey(BOT_ID, 42, 42)
LONG_AGO = datetime(1815, 12, 10, tzinfo=UTC)


class Offline(BaseSession):
    """A bot's session without a network; what it was to send is in ``texts``."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    async def close(self) -> None:
        """Nothing is open."""

    async def make_request(
        self,
        bot: Bot,
        method: TelegramMethod[Any],
        timeout: int | None = None,  # noqa: ASYNC109 - aiogram calls it so
    ) -> Any:
        if not isinstance(method, SendMessage):
            return True
        self.texts.append(method.text)
        return Message(message_id=1, date=LONG_AGO, chat=Chat(id=int(method.chat_id), type="private"), text=method.text)

    async def stream_content(self, *_: Any, **__: Any) -> AsyncIterator[bytes]:  # type: ignore[override] # never called
        raise NotImplementedError
        yield b""


class Talk:
    """One who writes to dispatchers, and what the bot says."""

    def __init__(self) -> None:
        self.session = Offline()
        self.bot = Bot(f"{BOT_ID}:token", session=self.session)
        self._ids = itertools.count(1)

    async def say(self, dispatcher: Dispatcher, text: str, *, chat: Chat = PRIVATE, **details: Any) -> str | None:
        """Feeds a message through the dispatcher; what the bot says to it."""
        kind = "business_message" if "business_connection_id" in details else "message"
        message = Message(message_id=next(self._ids), date=LONG_AGO, chat=chat, from_user=USER, text=text, **details)
        before = len(self.session.texts)
        await dispatcher.feed_update(self.bot, Update.model_validate({"update_id": next(self._ids), kind: message}))
        said = self.session.texts[before:]
        return said[0] if said else None


@pytest.fixture
def talk() -> Talk:
    """One who writes."""
    return Talk()


@pytest.fixture
async def store(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """A look at what is stored."""
    async with SessionStore.from_url(newest_url, prefix=prefix, codec=aiogram_codec()) as store:
        yield store


@asynccontextmanager
async def running(url: str, prefix: str, *routers: Router, **options: Any) -> AsyncIterator[Dispatcher]:
    """A dispatcher with connections of its own, as in a process of its own."""
    dispatcher = Dispatcher(storage=BotSessionStorage.from_url(url, prefix=prefix, ttl=86_400), **options)
    dispatcher.include_routers(*routers)
    await dispatcher.emit_startup()
    try:
        yield dispatcher
    finally:
        await dispatcher.emit_shutdown()


async def everything(store: SessionStore) -> dict[StorageKey, dict[str, Any]]:
    """What is stored, by aiogram's keys."""
    found = {}
    async for ids in store.scan():
        session = await store.get(*ids)
        assert session is not None
        found[key_of(*ids)] = session.data
    return found


# --- a conversation


class Form(StatesGroup):
    name = State()
    email = State()


def registration() -> Router:
    """Asks for name and email, and counts."""
    router = Router()

    @router.message(Command("start"))
    async def start(message: Message, state: FSMContext) -> None:
        await state.set_state(Form.name)
        await state.set_data({"since": LONG_AGO, "tries": (0,)})
        await message.answer("Your name?")

    @router.message(Form.name)
    async def name(message: Message, state: FSMContext) -> None:
        await state.update_data(name=message.text, kind=message.content_type)
        await state.set_state(Form.email)
        await message.answer("Your email?")

    @router.message(Form.email, F.text.contains("@"))
    async def email(message: Message, state: FSMContext) -> None:
        data = await state.update_data(email=message.text)
        await state.clear()
        await message.answer(f"{data['name']} <{data['email']}> since {data['since']:%Y}")

    @router.message(Form.email)
    async def no_email(message: Message, state: FSMContext) -> None:
        (tries,) = await state.get_value("tries", (0,))
        await state.update_data(tries=(tries + 1,))
        await message.answer(f"No email, {tries + 1}")

    @router.message(StateFilter(None), F.text.startswith("set "))
    async def put(message: Message, state: FSMContext) -> None:
        assert message.text is not None
        await state.update_data({message.text[4:]: True})

    @router.business_message()
    async def business(message: Message, state: FSMContext) -> None:
        await state.update_data(said=message.text)

    return router


async def test_aiogram_conversation_goes_on_in_another_process(
    newest_url: str, prefix: str, store: SessionStore, talk: Talk
) -> None:
    async with (
        running(newest_url, prefix, registration()) as one,
        running(newest_url, prefix, registration()) as other,
    ):
        plain = {"since": LONG_AGO, "tries": (0,)}
        assert await talk.say(one, "/start") == "Your name?"
        assert await everything(store) == {PRIVATE_KEY: {STATE: "Form:name", **plain}}
        assert await talk.say(other, "Ada") == "Your email?"
        assert await talk.say(one, "none") == "No email, 1"
        assert await talk.say(other, "none") == "No email, 2"
        assert await everything(store) == {
            PRIVATE_KEY: {STATE: "Form:email", "name": "Ada", "kind": ContentType.TEXT, **plain, "tries": (2,)}
        }
        assert await talk.say(one, "ada@example.org") == "Ada <ada@example.org> since 1815"
        assert await everything(store) == {}
        assert await talk.say(other, "Ada") is None, "the conversation is over, for all"


async def test_aiogram_what_two_dispatchers_handle_at_once_is_all_kept(
    newest_url: str, prefix: str, store: SessionStore, talk: Talk
) -> None:
    async with (
        running(newest_url, prefix, registration()) as one,
        running(newest_url, prefix, registration()) as other,
    ):
        await asyncio.gather(*(talk.say((one, other)[n % 2], f"set {n}") for n in range(100)))
    assert await everything(store) == {PRIVATE_KEY: {str(n): True for n in range(100)}}


async def test_aiogram_each_place_where_a_user_writes_is_a_session(
    newest_url: str, prefix: str, store: SessionStore, talk: Talk
) -> None:
    places: dict[StorageKey, dict[str, Any]] = {
        PRIVATE_KEY: {},
        StorageKey(BOT_ID, -100, 42): {"chat": GROUP},
        StorageKey(BOT_ID, -100, 42, 5): {"chat": GROUP, "message_thread_id": 5, "is_topic_message": True},
        StorageKey(BOT_ID, -100, 42, 6): {"chat": GROUP, "message_thread_id": 6, "is_topic_message": True},
        StorageKey(BOT_ID, 42, 42, None, "biz"): {"business_connection_id": "biz"},
    }
    async with running(newest_url, prefix, registration(), fsm_strategy=FSMStrategy.USER_IN_TOPIC) as dispatcher:
        for n, place in enumerate(places.values()):
            await talk.say(dispatcher, f"set {n}", **place)
    mine = [{str(n): True} for n in range(len(places) - 1)]
    assert await everything(store) == dict(zip(places, [*mine, {"said": "set 4"}], strict=True))
    assert await store.clear(USER.id) == len(places)


async def test_aiogram_dispatcher_closes_its_storage_at_its_end(newest_url: str, prefix: str, talk: Talk) -> None:
    async with running(newest_url, prefix, registration()) as dispatcher:
        await talk.say(dispatcher, "/start")
    with pytest.raises(SessionError):
        await dispatcher.storage.get_state(PRIVATE_KEY)


# --- scenes


class Lobby(Scene, state="lobby"):
    @on.message.enter()
    async def enter(self, message: Message, state: FSMContext) -> None:
        mine: dict[Any, Any] = {"visits": await state.get_value("visits", 0) + 1, 7: [LONG_AGO]}
        data = await state.update_data(mine)
        await message.answer(f"Lobby, visit {data['visits']}")

    @on.message(F.text == "quiz")
    async def to_quiz(self, message: Message) -> None:
        await self.wizard.goto(Quiz)

    @on.message(F.text == "exit")
    async def leave(self, message: Message) -> None:
        await self.wizard.exit()

    @on.message.exit()
    async def exit(self, message: Message, state: FSMContext) -> None:
        await state.set_data({})
        await message.answer("Bye")


class Quiz(Scene, state="quiz", reset_data_on_enter=True):
    @on.message.enter()
    async def enter(self, message: Message) -> None:
        await message.answer("Six times seven?")

    @on.message(F.text == "back")
    async def to_lobby(self, message: Message) -> None:
        await self.wizard.back()

    @on.message()
    async def answer(self, message: Message) -> None:
        data = await self.wizard.update_data(answers=[*await self.wizard.get_value("answers", []), message.text])
        await message.answer(f"{len(data['answers'])} answers")


def scenes() -> Router:
    """A lobby and a quiz."""
    router = Router()
    router.message.register(Lobby.as_handler(), Command("start"))
    SceneRegistry(router).add(Lobby, Quiz)
    return router


async def test_aiogram_scenes_and_their_history_go_on_in_another_process(
    newest_url: str, prefix: str, store: SessionStore, talk: Talk
) -> None:
    history = StorageKey(BOT_ID, 42, 42, destiny="scenes_history")
    lobby = {"visits": 1, 7: [LONG_AGO]}
    async with running(newest_url, prefix, scenes()) as one:
        assert await talk.say(one, "/start") == "Lobby, visit 1"
        assert await talk.say(one, "quiz") == "Six times seven?"
        assert await talk.say(one, "41") == "1 answers"
        stored = await everything(store)
        assert stored[PRIVATE_KEY] == {STATE: "quiz", "answers": ["41"]}
        # The history also records that a user came from no scene with /start.
        assert stored[history]["history"][-1] == {"state": "lobby", "data": lobby}
        assert stored.keys() == {PRIVATE_KEY, history}
    async with running(newest_url, prefix, scenes()) as other:
        assert await talk.say(other, "42") == "2 answers"
        assert await talk.say(other, "back") == "Lobby, visit 2"
        stored = await everything(store)
        assert stored[PRIVATE_KEY] == {STATE: "lobby", "visits": 2, ":i7": [LONG_AGO]}
        assert await talk.say(other, "exit") == "Bye"
    assert await everything(store) == {}


# --- aiogram_dialog


class Main(StatesGroup):
    counter = State()


class Sub(StatesGroup):
    dates = State()


async def count(query: CallbackQuery, button: Button, manager: DialogManager) -> None:
    """Counts, and keeps what JSON would lose."""
    data: dict[Any, Any] = manager.dialog_data
    data["count"] = data.get("count", 0) + 1
    data.setdefault("days", {})[data["count"]] = date(2026, 1, data["count"])
    data["price"] = Decimal("9.99") * data["count"]


async def shown(dialog_manager: DialogManager, **_: Any) -> dict[str, Any]:
    """What the windows show."""
    started: Any = dialog_manager.start_data or {}
    data = dialog_manager.dialog_data
    return {"count": data.get("count", 0), "price": data.get("price", 0), "since": started.get("since")}


def dialogs() -> tuple[list[Router], MockMessageManager]:
    """A counter, and a dialog on top of it."""
    counter = Dialog(
        Window(
            Format("{count} for {price}"),
            Button(Const("more"), id="more", on_click=count),
            Start(Const("since"), id="since", state=Sub.dates, data={"since": LONG_AGO}),
            Cancel(Const("done")),
            state=Main.counter,
            getter=shown,
        )
    )
    dates = Dialog(Window(Format("since {since:%d %B %Y}"), Cancel(Const("back")), state=Sub.dates, getter=shown))
    router = Router()

    @router.message(Command("start"))
    async def start(message: Message, dialog_manager: DialogManager) -> None:
        await dialog_manager.start(Main.counter, mode=StartMode.RESET_STACK)

    return [router, counter, dates], MockMessageManager()  # type: ignore[no-untyped-call] # of aiogram_dialog


@asynccontextmanager
async def running_dialogs(url: str, prefix: str, bot: Bot) -> AsyncIterator[tuple[BotClient, MockMessageManager]]:
    """A dispatcher with dialogs; a client that writes and clicks, and what it is shown."""
    routers, messages = dialogs()
    async with AsyncExitStack() as stack:
        dispatcher = await stack.enter_async_context(running(url, prefix, *routers))
        setup_dialogs(dispatcher, message_manager=messages)
        yield BotClient(dispatcher, user_id=42, chat_id=42, bot=bot), messages


@pytest.fixture
def distinct_intents(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiogram_dialog draws ids from 100 in each second: one in a hundred tests that start two dialogs would fail."""
    intents = map("intent{}".format, itertools.count())
    monkeypatch.setattr("aiogram_dialog.api.entities.stack.new_id", lambda: next(intents))


def of_dialog(kind: str, stored: dict[StorageKey, dict[str, Any]]) -> list[dict[str, Any]]:
    """The sessions that are stacks, or contexts."""
    return [data for key, data in stored.items() if key.destiny.startswith(f"aiogd:{kind}:")]


@pytest.mark.usefixtures("distinct_intents")
async def test_aiogram_dialogs_go_on_in_another_process(newest_url: str, prefix: str, store: SessionStore, talk: Talk) -> None:
    async def click(client: BotClient, messages: MockMessageManager, message: Message, button: str) -> Message:
        await client.click(message, InlineButtonTextLocator(button))
        return messages.last_message()

    async with running_dialogs(newest_url, prefix, talk.bot) as (client, messages):
        await client.send("/start")
        window = messages.last_message()
        assert window.text == "0 for 0"
        window = await click(client, messages, window, "more")
        assert window.text == "1 for 9.99"
        (context,) = of_dialog("context", await everything(store))
        assert context["state"] == "Main:counter"
        assert context["dialog_data"] == {"count": 1, "days": {1: date(2026, 1, 1)}, "price": Decimal("9.99")}

    async with running_dialogs(newest_url, prefix, talk.bot) as (client, messages):
        window = await click(client, messages, window, "more")
        assert window.text == "2 for 19.98"
        window = await click(client, messages, window, "since")
        assert window.text == "since 10 December 1815"
        stored = await everything(store)
        assert sorted(context["state"] for context in of_dialog("context", stored)) == ["Main:counter", "Sub:dates"]
        (stack,) = of_dialog("stack", stored)
        assert len(stack["intents"]) == 2
        window = await click(client, messages, window, "back")
        assert window.text == "2 for 19.98"
        (context,) = of_dialog("context", await everything(store))
        assert context["dialog_data"]["days"] == {1: date(2026, 1, 1), 2: date(2026, 1, 2)}
        await click(client, messages, window, "done")
        stored = await everything(store)
        assert of_dialog("context", stored) == []
        assert [stack["intents"] for stack in of_dialog("stack", stored)] in ([], [[]])


async def test_aiogram_every_dialog_session_has_a_ttl(newest_url: str, prefix: str, store: SessionStore, talk: Talk) -> None:
    async with running_dialogs(newest_url, prefix, talk.bot) as (client, _):
        await client.send("/start")
    async with redis.asyncio.Redis.from_url(newest_url) as redis_client:
        ttls = [await redis_client.ttl(store.key(*ids_of(key))) for key in await everything(store)]
    assert len(ttls) == 2
    assert all(ttl > 0 for ttl in ttls)
