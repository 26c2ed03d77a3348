"""Applications of python-telegram-bot without network, and the updates that are fed to them."""

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
    """Answers in Telegram's place.

    Attributes:
        sent: The parameters of the messages that the bot has sent.
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
    """An application of the bot 777.

    Args:
        persistence: Its persistence.
        *handlers: Its handlers.
        **options: Called on the builder: ``concurrent_updates=True`` for ``.concurrent_updates(True)``.
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
    """An application between ``initialize`` and ``shutdown``. (``start`` only adds the loops that tests do themselves.)"""
    async with build(persistence, *handlers, **options) as app:
        yield app


def message(text: str, user: int = 42, chat: int | None = None) -> Json:
    """What a user writes; in private unless ``chat`` says otherwise."""
    sender = {"id": user, "is_bot": False, "first_name": "U"}
    where = {"id": user, "type": "private"} if chat is None else {"id": chat, "type": "group", "title": "G"}
    number = next(_numbers)
    content = {"message_id": number, "date": 0, "chat": where, "from": sender, "text": text}
    if text.startswith("/"):
        content["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text.split()[0])}]
    return {"update_id": number, "message": content}


def press(data: str, message_id: int | None, user: int = 42, chat: int = 42) -> Json:
    """A user presses a button, of an inline message if ``message_id`` is None."""
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
    """What the error handlers of ``app`` are told meanwhile."""
    errors: list[Exception] = []

    async def note(_: object, context: Any) -> None:
        errors.append(context.error)

    app.add_error_handler(note)
    try:
        yield errors
    finally:
        app.remove_error_handler(note)


async def feed(app: App, update: Json) -> None:
    """Has ``app`` process ``update``; raises what its error handlers are told."""
    async with _errors(app) as errors:
        await app.process_update(Update.de_json(update, app.bot))
    if errors:
        raise errors[0]


async def handle(app: App, update: Json, change: Callable[[Any], object]) -> None:
    """The same, where the only handler does ``change(context)``."""

    async def callback(_: Update, context: Any) -> None:
        change(context)

    handler: MessageHandler[Any, Any] = MessageHandler(filters.ALL, callback)
    app.add_handler(handler)
    try:
        await feed(app, update)
    finally:
        app.remove_handler(handler)


async def write(app: App) -> list[Exception]:
    """Has ``app`` write what has changed, as it does at intervals; gives what its error handlers are told."""
    async with _errors(app) as errors:
        await app.update_persistence()
    return errors


def typed(value: Any) -> Any:
    """``value`` so that 1 and True, and a list and a tuple, are not equal."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in sorted(value.items(), key=repr)]
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    return type(value), value


async def stored(store: SessionStore, user: int = 42, channel: str = "777.user_data") -> dict[str, Any] | None:
    session = await store.get(user, channel)
    return None if session is None else session.data


async def put(app: App, user: int = 42, **values: Any) -> None:
    """A message, whose handler puts ``values`` into user_data."""
    await handle(app, message("x", user=user), lambda context: context.user_data.update(values))


async def seen(app: App, user: int = 42) -> dict[Any, Any]:
    """The user_data that a handler sees."""
    found: list[dict[Any, Any]] = []
    await handle(app, message("x", user=user), lambda context: found.append(copy.deepcopy(context.user_data)))
    return found[0]
