"""The recipes of the README for frameworks without an adapter run, on the frameworks themselves; no network."""

from __future__ import annotations

import asyncio
import json
import queue
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from redis_botsession.testing.harness import PATIENCE

README = Path(__file__).parents[2] / "README.md"
HEADING = "## Other frameworks"

#: (user, channel): two messages of one user, then others.
MESSAGES = [("U1", "C1"), ("U1", "C1"), ("U2", "C1"), ("U1", "C2"), ("U1", "C1")]
ANSWERS = ["message 1", "message 2", "message 1", "message 1", "message 3"]


def recipes() -> list[str]:
    _, _, after = README.read_text("utf-8").partition(f"\n{HEADING}\n")
    section, *_ = re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)
    return re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def run_recipe(word: str, url: str, prefix: str) -> dict[str, Any]:
    """Runs the recipe that has ``word`` in it, on a server and a prefix of the test; gives its names."""
    (recipe,) = (recipe for recipe in recipes() if word in recipe)
    code = recipe.replace("redis://localhost:6379/0", url)
    code = re.sub(r'prefix="[^"]*"', f'prefix="{prefix}"', code)
    assert url in code
    assert prefix in code
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(code, str(README), "exec", dont_inherit=True), names)  # noqa: S102 - the README is ours
    return names


def test_each_recipe_is_short() -> None:
    found = recipes()
    assert len(found) == 3
    for recipe in found:
        assert len([line for line in recipe.splitlines() if line.strip()]) < 15


# discord.py imports it for voice; Python 3.13 has none.
@pytest.mark.filterwarnings("ignore:'audioop' is deprecated:DeprecationWarning")
async def test_discord(newest_url: str, prefix: str) -> None:
    names = run_recipe("import discord", newest_url, prefix)
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


def test_slack_bolt(newest_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from slack_bolt import BoltRequest
    from slack_sdk import WebClient
    from slack_sdk.signature import SignatureVerifier
    from slack_sdk.web import SlackResponse

    answers: queue.Queue[tuple[str, str]] = queue.Queue()

    def auth_test(client: WebClient, **_: Any) -> SlackResponse:
        who: dict[str, Any] = {"ok": True, "team_id": "T1", "bot_id": "B1", "user_id": "U0", "url": "https://team.example/"}
        return SlackResponse(client=client, http_verb="POST", api_url="", req_args={}, data=who, headers={}, status_code=200)

    def post(client: WebClient, *, channel: str, text: str, **_: Any) -> None:
        answers.put((channel, text))

    monkeypatch.setattr(WebClient, "auth_test", auth_test)
    monkeypatch.setattr(WebClient, "chat_postMessage", post)
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-of-nobody")
    monkeypatch.setenv("SLACK_SIGNING_SECRET", "secret")
    names = run_recipe("slack_bolt", newest_url, prefix)

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
        response = names["app"].dispatch(BoltRequest(body=body, headers=headers))
        assert response.status == 200
        return answers.get(timeout=PATIENCE)

    with names["store"]:
        expected = [(channel, answer) for (_, channel), answer in zip(MESSAGES, ANSWERS, strict=True)]
        assert [hear(*ids) for ids in MESSAGES] == expected
        assert names["store"].size() == 3


async def test_a_webhook_of_asgi(newest_url: str, prefix: str) -> None:
    names = run_recipe("async def app(scope", newest_url, prefix)

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

        await names["app"]({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
        assert [event["type"] for event in sent] == ["http.response.start", "http.response.body"]
        assert sent[0]["status"] == 200
        text: bytes = sent[1]["body"]
        return text.decode()

    async with names["store"] as store:
        assert [await hear(*ids) for ids in MESSAGES] == ANSWERS
        assert await store.size() == 3
