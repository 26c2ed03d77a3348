"""The bots in the guides work, on the frameworks themselves; no network."""

from __future__ import annotations

import asyncio
import json
import queue
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiogram import Dispatcher
from telegram import Update
from telegram.ext import CommandHandler

from redis_botsession import BotSessionHelper
from redis_botsession.testing.harness import PATIENCE

from ..adapters.aiogram.test_aiogram_isolation import Process
from ..support import telegram_application
from ..support.pages import DOCS, blocks_of, executed

GUIDES = DOCS / "guides"

#: (user, channel): two messages of one user, then others.
MESSAGES = [("U1", "C1"), ("U1", "C1"), ("U2", "C1"), ("U1", "C2"), ("U1", "C1")]
ANSWERS = ["message 1", "message 2", "message 1", "message 1", "message 3"]


@pytest.mark.parametrize("guide", ["discord", "slack", "asgi"])
def test_guide_without_adapter_has_a_short_bot(guide: str) -> None:
    bot = blocks_of(GUIDES / f"{guide}.md")[0]
    assert len([line for line in bot.code.splitlines() if line.strip()]) < 15


# discord.py imports it for voice; Python 3.13 has none.
@pytest.mark.filterwarnings("ignore:'audioop' is deprecated:DeprecationWarning")
async def test_discord_guide_counts_messages(newest_url: str, prefix: str) -> None:
    with executed(GUIDES / "discord.md", newest_url, prefix=prefix) as names:
        client, store = names["client"], names["store"]
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def hear(user: str, channel: str, *, bot: bool = False) -> str:
        author = SimpleNamespace(id=int(user[1:]), bot=bot)
        # As the gateway's messages come in: the client finds the handler, and runs it in a task.
        client.dispatch(
            "message", SimpleNamespace(author=author, channel=SimpleNamespace(id=int(channel[1:]), send=answers.put))
        )
        return "" if bot else await asyncio.wait_for(answers.get(), PATIENCE)

    async with store, client:
        await hear("U1", "C1", bot=True)
        assert [await hear(*ids) for ids in MESSAGES] == ANSWERS
        assert await store.size() == 3


def test_slack_guide_counts_messages(newest_url: str, prefix: str, slack_posts: queue.Queue[tuple[str, str]]) -> None:
    from slack_bolt import BoltRequest
    from slack_sdk.signature import SignatureVerifier

    with executed(GUIDES / "slack.md", newest_url, prefix=prefix) as names:
        app, store = names["app"], names["store"]

    def hear(user: str, channel: str) -> tuple[str, str]:
        event = {"type": "message", "user": user, "channel": channel, "text": "hi", "ts": "1.0"}
        body = json.dumps({"type": "event_callback", "team_id": "T1", "event": event})
        stamp = str(int(time.time()))
        signature = SignatureVerifier("secret").generate_signature(timestamp=stamp, body=body)
        headers: dict[str, str | Sequence[str]] = {
            "content-type": ["application/json"],
            "x-slack-request-timestamp": [stamp],
            "x-slack-signature": [str(signature)],
        }
        response = app.dispatch(BoltRequest(body=body, headers=headers))
        assert response.status == 200
        return slack_posts.get(timeout=PATIENCE)

    with store:
        expected = [(channel, answer) for (_, channel), answer in zip(MESSAGES, ANSWERS, strict=True)]
        assert [hear(*ids) for ids in MESSAGES] == expected
        assert store.size() == 3


async def test_asgi_guide_counts_messages(newest_url: str, prefix: str) -> None:
    with executed(GUIDES / "asgi.md", newest_url, prefix=prefix) as names:
        app, opened = names["app"], names["store"]

    async def hear(user: str, channel: str) -> str:
        # As servers do it: the body may come in several pieces.
        body = json.dumps({"user": user, "chat": channel}).encode()
        pieces = [
            {"type": "http.request", "body": body[:7], "more_body": True},
            {"type": "http.request", "body": body[7:], "more_body": False},
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return pieces.pop(0)

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        await app({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
        assert [event["type"] for event in sent] == ["http.response.start", "http.response.body"]
        assert sent[0]["status"] == 200
        text: bytes = sent[1]["body"]
        return text.decode()

    async with opened as store:
        assert [await hear(*ids) for ids in MESSAGES] == ANSWERS
        assert await store.size() == 3


def test_aiogram_guide_asks_and_remembers(newest_url: str, prefix: str) -> None:
    with asyncio.Runner() as runner, executed(GUIDES / "aiogram.md", newest_url, prefix=prefix, runner=runner) as names:

        async def talk() -> list[str]:
            process = Process(names["dp"])
            await process.dispatcher.emit_startup()
            await process.gets("/start")
            await process.gets("Ada")
            await process.dispatcher.emit_shutdown()
            return process.said

        assert runner.run(talk()) == ["What is your name?", "Nice to meet you, Ada!"]


def test_aiogram_guide_middleware_gives_a_live_session(newest_url: str, prefix: str) -> None:
    counts = []

    async def count(message: object, session: BotSessionHelper) -> None:
        session.data["count"] = session.data.get("count", 0) + 1
        counts.append(session.data["count"])

    with asyncio.Runner() as runner, executed(GUIDES / "aiogram.md", newest_url, prefix=prefix, runner=runner) as names:

        async def talk() -> None:
            dispatcher = Dispatcher()
            names["other_router"].message.register(count)
            dispatcher.include_router(names["other_router"])
            process = Process(dispatcher)
            for user in (42, 42, 43):
                await process.gets(user=user)

        runner.run(talk())
    assert counts == [1, 2, 1]


async def test_telegram_guide_counts_visits(newest_url: str, prefix: str) -> None:
    transport = telegram_application.Transport()
    with executed(GUIDES / "python-telegram-bot.md", newest_url, prefix=prefix) as names:
        handler = CommandHandler("start", names["visit"])
        for _ in range(2):
            async with telegram_application.running(names["persistence"], handler, transport=transport) as app:
                await app.process_update(Update.de_json(telegram_application.message("/start"), app.bot))
    assert [message["text"] for message in transport.sent] == ["Visit 1", "Visit 2"]


async def test_telebot_guide_asks_and_remembers(newest_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from telebot import asyncio_helper, types

    texts = []

    async def send(token: str, url: str, *, params: dict[str, Any], **_: Any) -> Any:
        texts.append(params["text"])
        return {"message_id": 2, "date": 0, "chat": {"id": 42, "type": "private"}, "text": params["text"]}

    monkeypatch.setattr(asyncio_helper, "_process_request", send)
    read_update: Any = types.Update.de_json
    with executed(GUIDES / "pytelegrambotapi.md", newest_url, prefix=prefix) as names:
        async with names["storage"]:
            for text in ("/start", "Ada"):
                await names["bot"].process_new_updates([read_update(telegram_application.message(text))])
        names["threaded_storage"].close()
    assert texts == ["What is your name?", "Nice to meet you, Ada!"]
