"""A session store with JSON on redis-py: the Redis example in the documentation of @igniter-js/bot, translated to Python.

It is translated line by line from TypeScript and ioredis, with its mistakes, because these are what it is compared for. It is
the contender ``json`` of ``python -m benchmarks.compare``.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import redis.asyncio

#: A session has userId, channelId, data, createdAt, updatedAt, and perhaps expiresAt.
Session = dict[str, Any]


class JsonSessionStore:
    """Sessions as JSON strings, one Redis key each."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "bot:session:") -> None:
        self._redis = client
        self._prefix = prefix

    def _key(self, user_id: str, channel_id: str) -> str:
        return f"{self._prefix}{user_id}:{channel_id}"

    async def get(self, user_id: str, channel_id: str) -> Session | None:
        """Returns a session; None if there is none."""
        raw = await self._redis.get(self._key(user_id, channel_id))
        if not raw:
            return None
        session = json.loads(raw)
        expires_at = session.get("expiresAt")
        if expires_at and datetime.fromisoformat(expires_at) < datetime.now(UTC):
            await self._redis.delete(self._key(user_id, channel_id))
            return None
        return {
            **session,
            "createdAt": datetime.fromisoformat(session["createdAt"]),
            "updatedAt": datetime.fromisoformat(session["updatedAt"]),
            "expiresAt": datetime.fromisoformat(expires_at) if expires_at else None,
        }

    async def set(self, user_id: str, channel_id: str, session: Session) -> None:
        """Writes the whole session."""
        expires_at = session.get("expiresAt")
        ttl = math.ceil((expires_at - datetime.now(UTC)).total_seconds()) if expires_at else 86_400
        await self._redis.setex(
            self._key(user_id, channel_id),
            ttl,
            json.dumps({**session, "updatedAt": datetime.now(UTC)}, default=datetime.isoformat),
        )

    async def clear(self, user_id: str) -> None:
        """Removes the user's sessions, which KEYS finds among all keys of the server."""
        keys = await self._redis.keys(f"{self._prefix}{user_id}:*")
        if keys:
            await self._redis.delete(*keys)
