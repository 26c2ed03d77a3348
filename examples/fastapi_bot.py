"""A webhook with FastAPI: the store lives as long as the application, and Redis errors become status 503.

Run it from a checkout::

    pip install ".[embedded]" fastapi uvicorn
    botsession server &                   # or any Redis; set REDIS_URL if it is not on localhost
    uvicorn --app-dir examples fastapi_bot:app --workers 2
    curl localhost:8000/webhook --json '{"user": 42, "chat": 7, "text": "hello"}'
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from redis.exceptions import RedisError

from redis_botsession import BotSession, OutcomeUnknown, SessionStore


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens the store in the event loop of the server, and closes it when the server stops."""
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    prefix = os.environ.get("SESSION_PREFIX", "fastapi_bot:")
    # A call takes at most 2 seconds, so that the platform gets an answer before it sends the update again.
    async with SessionStore.from_url(url, prefix=prefix, timeout=2) as store:
        app.state.store = store
        yield


app = FastAPI(lifespan=lifespan)


def store_of(request: Request) -> SessionStore:
    store: SessionStore = request.app.state.store
    return store


Store = Annotated[SessionStore, Depends(store_of)]


class Update(BaseModel):
    """A message as the platform sends it."""

    user: int
    chat: int
    text: str


@app.exception_handler(RedisError)
@app.exception_handler(OutcomeUnknown)
async def no_redis(request: Request, error: Exception) -> JSONResponse:
    """Makes the platform send the update again later. The reply shows nothing of the error."""
    return JSONResponse({"error": "sessions are not available"}, status_code=503)


@app.get("/ready")
async def ready(store: Store) -> dict[str, str]:
    """Readiness, for a load balancer: status 503 if Redis does not reply."""
    await store.ping()
    return {"status": "ready"}


@app.post("/webhook")
async def webhook(update: Update, store: Store) -> dict[str, str]:
    """A dialog: what the answer is depends on the session."""
    async with store.session(update.user, update.chat) as session:
        if session.data.get("step") == "name":
            session.data.update(step="done", name=update.text)
            answer = f"Nice to meet you, {update.text}!"
        else:
            session.data["step"] = "name"
            answer = "What is your name?"
    return {"answer": answer}


@app.post("/count")
async def count(update: Update, store: Store) -> dict[str, str]:
    """A counter: ``modify`` keeps every message, also of those that come in at the same time."""

    def add_one(session: BotSession) -> None:
        session.data["count"] = session.data.get("count", 0) + 1

    session = await store.modify(update.user, update.chat, add_one)
    return {"answer": f"message {session.data['count']}"}
