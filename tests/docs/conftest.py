"""What the examples of the documentation need to run without network."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from ..support.pages import ENVIRONMENT


@pytest.fixture(autouse=True)
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that bots read their tokens from."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def slack_posts(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[tuple[str, str]]:
    """Slack's API without network: the channels and texts of the messages that bots post."""
    from slack_sdk import WebClient
    from slack_sdk.web import SlackResponse

    posts: queue.Queue[tuple[str, str]] = queue.Queue()

    def auth_test(client: WebClient, **_: Any) -> SlackResponse:
        who: dict[str, Any] = {"ok": True, "team_id": "T1", "bot_id": "B1", "user_id": "U0", "url": "https://team.example/"}
        return SlackResponse(client=client, http_verb="POST", api_url="", req_args={}, data=who, headers={}, status_code=200)

    def post(client: WebClient, *, channel: str, text: str, **_: Any) -> None:
        posts.put((channel, text))

    monkeypatch.setattr(WebClient, "auth_test", auth_test)
    monkeypatch.setattr(WebClient, "chat_postMessage", post)
    return posts
