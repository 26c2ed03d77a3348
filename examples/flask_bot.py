"""A webhook with Flask: one synchronous store for all threads of a process.

Run it from a checkout::

    pip install ".[embedded]" flask
    botsession server &                   # or any Redis; set REDIS_URL if it is not on localhost
    flask --app examples/flask_bot.py run
    curl localhost:5000/webhook --json '{"user": 42, "chat": 7, "text": "hello"}'
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, request
from redis.exceptions import RedisError

from redis_botsession import BotSession, OutcomeUnknown
from redis_botsession.sync import SessionStore


def add_one(session: BotSession) -> None:
    session.data["count"] = session.data.get("count", 0) + 1


def create_app(url: str, prefix: str = "flask_bot:") -> Flask:
    """Makes the application. Its store connects when it is first used, in each process anew."""
    # Each reply and each attempt to connect takes at most 2 seconds.
    store = SessionStore.from_url(url, prefix=prefix, socket_timeout=2, socket_connect_timeout=2)
    app = Flask(__name__)
    app.extensions["sessions"] = store

    @app.get("/ready")
    def ready() -> dict[str, str]:
        """Readiness, for a load balancer: status 503 if Redis does not reply."""
        store.ping()
        return {"status": "ready"}

    @app.post("/webhook")
    def webhook() -> dict[str, str]:
        update: dict[str, Any] = request.get_json()
        with store.session(update["user"], update["chat"]) as session:
            if session.data.get("step") == "name":
                session.data.update(step="done", name=update["text"])
                answer = f"Nice to meet you, {update['text']}!"
            else:
                session.data["step"] = "name"
                answer = "What is your name?"
        return {"answer": answer}

    @app.post("/count")
    def count() -> dict[str, str]:
        """A counter: ``modify`` keeps every message, also of those that come in at the same time."""
        update: dict[str, Any] = request.get_json()
        session = store.modify(update["user"], update["chat"], add_one)
        return {"answer": f"message {session.data['count']}"}

    @app.errorhandler(RedisError)
    @app.errorhandler(OutcomeUnknown)
    def no_redis(error: Exception) -> tuple[dict[str, str], int]:
        """Makes the platform send the update again later. The reply shows nothing of the error."""
        return {"error": "sessions are not available"}, 503

    return app


app = create_app(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
