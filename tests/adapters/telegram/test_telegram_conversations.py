"""The persistence for python-telegram-bot: conversations and callback data, from one start to the next; on a real Redis."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from typing import Any

import pytest
from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.ext import (
    CallbackQueryHandler,
    CommandHandler,
    ConversationHandler,
    InvalidCallbackData,
    MessageHandler,
    filters,
)

from redis_botsession import Codec, MemorySessionStore, SerializationError, SessionStore
from redis_botsession.adapters.telegram import BotSessionPersistence
from redis_botsession.testing.harness import load

from ...support.telegram_application import App, feed, message, press, running, typed, write


class Step(enum.Enum):
    NAME = 1
    EMAIL = 2


@pytest.fixture
async def store(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """What the persistence writes to; without TTL, as that of ``from_url``."""
    async with SessionStore.from_url(newest_url, prefix=prefix, ttl=None) as store:
        yield store


@pytest.fixture
def persistence(newest_url: str, prefix: str) -> BotSessionPersistence:
    return BotSessionPersistence.from_url(newest_url, prefix=prefix)


# --- Conversations


def conversation(**options: Any) -> ConversationHandler[Any]:
    async def ask(_: Any, __: Any) -> Step:
        return Step.NAME

    async def name(update: Any, context: Any) -> Step:
        context.user_data["name"] = update.effective_message.text
        return Step.EMAIL

    async def email(update: Any, context: Any) -> int:
        context.user_data["email"] = update.effective_message.text
        return ConversationHandler.END

    text = filters.TEXT & ~filters.COMMAND
    return ConversationHandler(
        [CommandHandler("start", ask)],
        {Step.NAME: [MessageHandler(text, name)], Step.EMAIL: [MessageHandler(text, email)]},
        [],
        name="onboarding",
        persistent=True,
        **options,
    )


def with_steps(newest_url: str, prefix: str) -> BotSessionPersistence:
    codec = Codec()
    codec.register(Step)
    return BotSessionPersistence.from_url(newest_url, prefix=prefix, codec=codec)


@pytest.mark.parametrize("options", [{}, {"per_chat": False}, {"per_user": False}], ids=["both", "per_user", "per_chat"])
async def test_conversations_conversation_goes_on_after_a_restart(
    options: dict[str, bool], newest_url: str, prefix: str, store: SessionStore
) -> None:
    for text in ("/start", "Ada", "ada@example.org"):
        async with running(with_steps(newest_url, prefix), conversation(**options)) as app:
            await feed(app, message(text, user=42, chat=-5))
            await feed(app, message("not in a conversation", user=43, chat=-6))
    async with running(with_steps(newest_url, prefix), conversation(**options)) as app:
        assert dict(app.user_data) == {42: {"name": "Ada", "email": "ada@example.org"}}
    # The one that has ended leaves nothing behind.
    assert await store.channels("bot.777.conversations.onboarding") == []


# Inline messages have no chat, whatever that warning says.
@pytest.mark.filterwarnings("ignore:If 'per_message=True' is used, 'per_chat=True'")
async def test_conversations_conversation_of_a_message_goes_on_after_a_restart(persistence: BotSessionPersistence) -> None:
    heard: list[str] = []

    async def first(_: Any, __: Any) -> tuple[str, int]:
        return ("page", 2)

    async def second(update: Any, _: Any) -> int:
        heard.append(update.callback_query.data)
        return ConversationHandler.END

    def pages(**options: Any) -> ConversationHandler[Any]:
        return ConversationHandler(
            [CallbackQueryHandler(first, "open")],
            {("page", 2): [CallbackQueryHandler(second, "next")]},
            [],
            name="pages",
            persistent=True,
            per_message=True,
            **options,
        )

    for options, message_id in (({}, 10), ({"per_chat": False}, None)):
        async with running(persistence, pages(**options)) as app:
            await feed(app, press("open", message_id))
        async with running(persistence, pages(**options)) as app:
            # Another message's is another conversation.
            await feed(app, press("next", 11))
            assert heard == []
            await feed(app, press("next", message_id))
        assert heard == ["next"]
        heard.clear()


async def test_conversations_nested_conversations_go_on_after_a_restart(
    newest_url: str, prefix: str, store: SessionStore
) -> None:
    says: list[str] = []

    def goes_to(state: Any, *words: str) -> Any:
        async def callback(*_: Any) -> Any:
            says.extend(words)
            return state

        return callback

    def nested() -> ConversationHandler[Any]:
        text = filters.TEXT & ~filters.COMMAND
        inner: ConversationHandler[Any] = ConversationHandler(
            [CommandHandler("inner", goes_to(5))],
            {5: [MessageHandler(text, goes_to(6, "inner"))], 6: [CommandHandler("done", goes_to(7, "inner done"))]},
            [],
            map_to_parent={7: "outer again"},
            name="inner",
            persistent=True,
        )
        return ConversationHandler(
            [CommandHandler("outer", goes_to("in"))],
            {"in": [inner], "outer again": [MessageHandler(text, goes_to(ConversationHandler.END, "outer done"))]},
            [],
            name="outer",
            persistent=True,
        )

    for text in ("/outer", "/inner", "hello", "/done", "bye"):
        async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix), nested()) as app:
            await feed(app, message(text))
    assert says == ["inner", "inner done", "outer done"]
    assert [ids async for ids in store.scan()] == []


async def test_conversations_keys_and_states_keep_their_types(persistence: BotSessionPersistence) -> None:
    states: dict[tuple[int | str, ...], object] = {
        (1, 2): 0,
        (1, 2, 3): "state",
        (1, 2, "3"): ("a", (1,)),
        ("1", 2, 3): b"x",
        (-1, 23): frozenset({1}),
        (-12, 3): True,
    }
    async with running(persistence):
        await asyncio.gather(*(persistence.update_conversation("a", key, state) for key, state in states.items()))
        await persistence.update_conversation("a.b", (1, 2), 9)
        found = await persistence.get_conversations("a")
        assert sorted(map(typed, found.items()), key=repr) == sorted(map(typed, states.items()), key=repr)
        assert await persistence.get_conversations("a.b") == {(1, 2): 9}
        assert await persistence.get_conversations("b") == {}

        await persistence.update_conversation("a", (1, 2), None)
        await persistence.update_conversation("a", (1, 2, 3), ConversationHandler.END)
        assert set(await persistence.get_conversations("a")) == set(states) - {(1, 2), (1, 2, 3)}


# --- Callback data


async def send_buttons(app: App, *data: Any) -> list[str]:
    """Sends a keyboard; gives what Telegram is sent as the data of its buttons."""
    buttons = [[InlineKeyboardButton("b", callback_data=item) for item in data]]
    await app.bot.send_message(1, "choose", reply_markup=InlineKeyboardMarkup(buttons))
    transport: Any = app.bot.request
    (row,) = transport.sent[-1]["reply_markup"]["inline_keyboard"]
    return [button["callback_data"] for button in row]


async def pressed(app: App, data: str) -> Any:
    """What the handler of a button sees."""
    update = Update.de_json(press(data, 10), app.bot)
    app.bot.insert_callback_data(update)  # as the updater does
    assert update.callback_query is not None
    return update.callback_query


async def test_conversations_callback_data_survive_a_restart(newest_url: str, prefix: str, store: SessionStore) -> None:
    def persistence() -> BotSessionPersistence:
        return BotSessionPersistence.from_url(newest_url, prefix=prefix)

    async with running(persistence(), arbitrary_callback_data=True) as app:
        first, second = await send_buttons(app, ("buy", {"n": (1, 2)}), 7)
        (third,) = await send_buttons(app, {"x"})
    async with running(persistence(), arbitrary_callback_data=True) as app:
        query = await pressed(app, first)
        assert query.data == ("buy", {"n": (1, 2)})
        assert (await pressed(app, second)).data == 7
    async with running(persistence(), arbitrary_callback_data=True) as app:
        # What was dropped is dropped, and found by the query of before.
        app.bot.callback_data_cache.drop_data(query)  # as context.drop_callback_data does
    async with running(persistence(), arbitrary_callback_data=True) as app:
        assert isinstance((await pressed(app, first)).data, InvalidCallbackData)
        assert (await pressed(app, third)).data == {"x"}
    stored = (await load(store, "bot.777", "callback_data")).data
    assert sum(name.startswith("keyboard ") for name in stored) == 1


async def test_conversations_callback_data_come_back_as_what_they_were(newest_url: str, prefix: str) -> None:
    persistence = BotSessionPersistence(MemorySessionStore(cleanup_interval=None), bot_id=1)
    assert await persistence.get_callback_data() is None
    keyboards: list[tuple[str, float, dict[str, Any]]] = [("u1", 1.5, {"b1": (1,)}), ("u2", 2.5, {"b2": [2], "b3": None})]
    await persistence.update_callback_data((keyboards, {"q1": "u1"}))
    found = await persistence.get_callback_data()
    assert typed(found) == typed((keyboards, {"q1": "u1"}))
    await persistence.update_callback_data(([], {}))
    assert await persistence.get_callback_data() is None


async def test_conversations_callback_data_of_two_processes_are_kept(newest_url: str, prefix: str) -> None:
    first, second = (BotSessionPersistence.from_url(newest_url, prefix=prefix) for _ in range(2))
    async with running(first, arbitrary_callback_data=2) as one, running(second, arbitrary_callback_data=2) as two:
        (old,) = await send_buttons(one, "old")
        (theirs,) = await send_buttons(two, "theirs")
        assert await write(one) + await write(two) == []
        await send_buttons(one, "newer")
        (newest,) = await send_buttons(one, "newest")
        assert await write(one) + await write(two) == []
        async with running(BotSessionPersistence.from_url(newest_url, prefix=prefix), arbitrary_callback_data=9) as third:
            assert isinstance((await pressed(third, old)).data, InvalidCallbackData)
            assert (await pressed(third, theirs)).data == "theirs"
            assert (await pressed(third, newest)).data == "newest"


async def test_conversations_one_bad_button_costs_itself_alone(persistence: BotSessionPersistence) -> None:
    async with running(persistence, arbitrary_callback_data=True) as app:
        await send_buttons(app, complex(1))
        (fine,) = await send_buttons(app, "fine")
        (error,) = await write(app)
        assert isinstance(error, SerializationError)
    async with running(persistence, arbitrary_callback_data=True) as app:
        assert (await pressed(app, fine)).data == "fine"
