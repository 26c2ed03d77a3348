"""Applications of python-telegram-bot without a network, and updates to feed to them."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from telegram import Update
from telegram.ext import Application, BaseHandler, BasePersistence, MessageHandler, filters
from telegram.request import BaseRequest, RequestData

from redis_botsession import SessionStore

BOT = {"id": 777, "is_bot": True, "first_name": "Bot", "username": "test_bot"}
App = Application[Any, Any, Any, Any, Any, Any]
Json = dict[str, Any]
_numbers = count(1)


class Transport(BaseRequest):
    """Replies to the bot's requests in place of Telegram.

    Attributes:
        sent: The parameters of the messages that the bot sent.
    """

    def __init__(self, bot: dict[str, Any] = BOT) -> None:
        self._bot = bot
        self.sent: list[dict[str, Any]] = []

    @property
    def read_timeout(self) -> float | None:
        return 1.0

    async def initialize(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    async def do_request(self, url: str, method: str, request_data: RequestData | None = None, *_: Any, **__: Any) -> Any:
        result: dict[str, Any] = self._bot
        if url.endswith("sendMessage"):
            assert request_data is not None
            self.sent.append(request_data.parameters)
            result = {"message_id": next(_numbers), "date": 0, "chat": {"id": 1, "type": "private"}}
        return 200, json.dumps({"ok": True, "result": result}).encode()


def build(persistence: BasePersistence[Any, Any, Any], *handlers: BaseHandler[Any, Any, Any], **options: Any) -> App:
    """Returns an application of the bot 777.

    Args:
        persistence: Its persistence.
        *handlers: Its handlers.
        **options: Methods of the builder: ``concurrent_updates=True`` calls ``.concurrent_updates(True)``.
    """
    transport = options.pop("transport", None) or Transport()
    builder: Any = Application.builder().token("777:secret").request(transport).get_updates_request(Transport())
    builder = builder.updater(None).job_queue(None).persistence(persistence)
    for name, value in options.items():
        builder = getattr(builder, name)(value)
    app: App = builder.build()
    app.add_handlers(handlers)
    return app


@asynccontextmanager
async def running(
    persistence: BasePersistence[Any, Any, Any], *handlers: BaseHandler[Any, Any, Any], **options: Any
) -> AsyncIterator[App]:
    """Yields an initialized application, and shuts it down.

    It is not started: ``start`` would only add the loops whose work the tests do by hand.
    """
    async with build(persistence, *handlers, **options) as app:
        yield app


def message(text: str, user: int = 42, chat: int | None = None) -> Json:
    """Returns the update for a user's message, in the private chat unless ``chat`` names a group."""
    sender = {"id": user, "is_bot": False, "first_name": "U"}
    where = {"id": user, "type": "private"} if chat is None else {"id": chat, "type": "group", "title": "G"}
    number = next(_numbers)
    content = {"message_id": number, "date": 0, "chat": where, "from": sender, "text": text}
    if text.startswith("/"):
        content["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text.split()[0])}]
    return {"update_id": number, "message": content}


def press(data: str, message_id: int | None, user: int = 42, chat: int = 42) -> Json:
    """Returns the update for a pressed button; the button is on an inline message if ``message_id`` is None."""
    query: dict[str, Any] = {
        "id": str(next(_numbers)),
        "from": {"id": user, "is_bot": False, "first_name": "U"},
        "chat_instance": "1",
        "data": data,
    }
    if message_id is None:
        query["inline_message_id"] = "12345"
    else:
        query["message"] = {"message_id": message_id, "date": 0, "chat": {"id": chat, "type": "private"}, "from": BOT}
    return {"update_id": next(_numbers), "callback_query": query}


@asynccontextmanager
async def _errors(app: App) -> AsyncIterator[list[Exception]]:
    """Yields the list of errors that reach the error handlers of ``app`` within the block."""
    errors: list[Exception] = []

    async def note(_: object, context: Any) -> None:
        errors.append(context.error)

    app.add_error_handler(note)
    try:
        yield errors
    finally:
        app.remove_error_handler(note)


async def feed(app: App, update: Json) -> None:
    """Lets ``app`` process ``update``; raises the first error that reaches its error handlers."""
    async with _errors(app) as errors:
        await app.process_update(Update.de_json(update, app.bot))
    if errors:
        raise errors[0]


async def handle(app: App, update: Json, change: Callable[[Any], object]) -> None:
    """Lets ``app`` process ``update`` with a handler that calls ``change(context)``; raises like ``feed``."""

    async def callback(_: Update, context: Any) -> None:
        change(context)

    handler: MessageHandler[Any, Any] = MessageHandler(filters.ALL, callback)
    app.add_handler(handler)
    try:
        await feed(app, update)
    finally:
        app.remove_handler(handler)


async def write(app: App) -> list[Exception]:
    """Lets ``app`` write what changed, as it does at intervals; returns the errors that reach its error handlers."""
    async with _errors(app) as errors:
        await app.update_persistence()
    return errors


def typed(value: Any) -> Any:
    """Returns ``value`` with its types, so that 1 and True, or a list and a tuple, are not equal."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in sorted(value.items(), key=repr)]
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    return type(value), value


async def stored(store: SessionStore, user: int = 42, channel: str = "777.user_data") -> dict[str, Any] | None:
    session = await store.get(user, channel)
    return None if session is None else session.data


async def put(app: App, user: int = 42, **values: Any) -> None:
    """Lets ``app`` process a message with a handler that puts ``values`` into user_data."""
    await handle(app, message("x", user=user), lambda context: context.user_data.update(values))


async def seen(app: App, user: int = 42) -> dict[Any, Any]:
    """Returns the user_data that a handler sees."""
    found: list[dict[Any, Any]] = []
    await handle(app, message("x", user=user), lambda context: found.append(copy.deepcopy(context.user_data)))
    return found[0]
