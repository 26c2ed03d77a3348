"""The programs in ``examples/`` work on a real Redis, without network."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from redis_botsession import SessionStore
from redis_botsession.testing.harness import PATIENCE

from ..adapters.aiogram.test_aiogram_isolation import Process
from ..support.pages import ROOT

EXAMPLES = ROOT / "examples"
NAME_DIALOG = [("/start", "What is your name?"), ("Ada", "Nice to meet you, Ada!"), ("again", "What is your name?")]


def load(name: str) -> ModuleType:
    """Imports an example without running its main part."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_states_how_to_run_it(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert "pip install" in text
    assert f"examples/{path.name}" in text or f"--app-dir examples {path.stem}:" in text


async def test_aiogram_example_fills_the_form_and_keeps_every_item(newest_url: str, prefix: str) -> None:
    dispatcher = load("aiogram_bot").make_dispatcher(newest_url, prefix)
    process = Process(dispatcher)
    await dispatcher.emit_startup()
    try:
        for text in ("/start", "Ada", "ada@example.org"):
            await process.gets(text)
        assert process.said == ["What is your name?", "What is your email?", "Saved: Ada, ada@example.org"]
        await asyncio.gather(*(process.gets(f"/cart {n}") for n in range(10)))
        assert len(process.said[-1].removeprefix("In your cart: ").split(", ")) == 10
        await process.gets("/cancel")
        await process.gets("/cart pear")
        assert process.said[-2:] == ["Forgotten.", "In your cart: pear"]
    finally:
        await dispatcher.emit_shutdown()


# discord.py imports it for voice; Python 3.13 has none.
@pytest.mark.filterwarnings("ignore:'audioop' is deprecated:DeprecationWarning")
async def test_discord_example_talks_and_counts_every_message(newest_url: str, prefix: str) -> None:
    answers: asyncio.Queue[str] = asyncio.Queue()
    async with SessionStore.from_url(newest_url, prefix=prefix) as store, load("discord_bot").Bot(store) as bot:

        def hear(text: str, *, is_bot: bool = False) -> None:
            # As the gateway's messages come in: the client finds the handler, and runs it in a task.
            author, channel = SimpleNamespace(id=1, bot=is_bot), SimpleNamespace(id=7, send=answers.put)
            bot.dispatch("message", SimpleNamespace(author=author, channel=channel, content=text))

        hear("I am a bot", is_bot=True)
        for text, answer in NAME_DIALOG:
            hear(text)
            assert await asyncio.wait_for(answers.get(), PATIENCE) == answer
        for _ in range(10):
            hear("!count")
        counts = [await asyncio.wait_for(answers.get(), PATIENCE) for _ in range(10)]
        assert sorted(counts) == sorted(f"count {n}" for n in range(1, 11))


class Webhook:
    """Calls a webhook of FastAPI or Flask through the test client of the framework."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def post(self, path: str, text: str = "hello") -> tuple[int, Any]:
        return self._answer(self._client.post(path, json={"user": 42, "chat": 7, "text": text}))

    def get(self, path: str) -> tuple[int, Any]:
        return self._answer(self._client.get(path))

    def _answer(self, answer: Any) -> tuple[int, Any]:
        return answer.status_code, answer.json() if callable(answer.json) else answer.json


@contextmanager
def running(framework: str, url: str, prefix: str) -> Iterator[Webhook]:
    """The webhook of an example, from its start to its end."""
    if framework == "flask":
        app = load("flask_bot").create_app(url, prefix)
        with app.extensions["sessions"]:
            yield Webhook(app.test_client())
        return
    from fastapi.testclient import TestClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", url)
        patch.setenv("SESSION_PREFIX", prefix)
        with TestClient(load("fastapi_bot").app) as client:
            yield Webhook(client)


WEB = pytest.mark.parametrize("framework", ["fastapi", "flask"])


@WEB
def test_webhook_example_talks(framework: str, newest_url: str, prefix: str) -> None:
    with running(framework, newest_url, prefix) as webhook:
        answers = [webhook.post("/webhook", text) for text, _ in NAME_DIALOG]
    assert answers == [(200, {"answer": answer}) for _, answer in NAME_DIALOG]


@WEB
def test_webhook_example_counts_every_message(framework: str, newest_url: str, prefix: str) -> None:
    with running(framework, newest_url, prefix) as webhook, ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: webhook.post("/count"), range(20)))
    assert sorted(answers, key=str) == sorted([(200, {"answer": f"message {n}"}) for n in range(1, 21)], key=str)


@WEB
def test_webhook_example_answers_503_when_redis_refuses(framework: str, newest_url: str, prefix: str) -> None:
    wrong = newest_url.replace("redis://", "redis://nobody:wrong@")
    with running(framework, wrong, prefix) as webhook:
        assert webhook.post("/webhook") == (503, {"error": "sessions are not available"})
        assert webhook.get("/ready") == (503, {"error": "sessions are not available"})


@WEB
def test_webhook_example_is_ready(framework: str, newest_url: str, prefix: str) -> None:
    with running(framework, newest_url, prefix) as webhook:
        assert webhook.get("/ready") == (200, {"status": "ready"})
