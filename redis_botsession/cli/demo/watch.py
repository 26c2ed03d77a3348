"""What a session looks like in Redis, and what a message has changed there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._session.changes import Write
from ..._session.record import KEEP, BotSession, Loaded
from ...store import SessionStore

if TYPE_CHECKING:
    from redis.asyncio import Redis


class WatchedStore(SessionStore):
    """A store that remembers what it was asked to do, in words.

    Attributes:
        calls: What was asked since somebody last emptied this list; "save step, -name" sends step and removes name.
    """

    def __init__(self, client: Redis, **options: Any) -> None:
        super().__init__(client, **options)
        self.calls: list[str] = []

    async def load(self, *args: Any, **options: Any) -> Loaded | None:
        self.calls.append("load")
        return await super().load(*args, **options)

    async def write(self, user_id: Any, channel_id: Any, write: Write) -> int:
        sent = [*write.values, *(f"-{name}" for name in sorted(write.remove))]
        if write.expires_at is not KEEP:
            sent.append("expires_at")
        self.calls.append(f"save {', '.join(sent)}")
        return await super().write(user_id, channel_id, write)

    async def delete(self, *args: Any, **options: Any) -> bool:
        self.calls.append("delete")
        return await super().delete(*args, **options)


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as it is in Redis.

    Attributes:
        key: Its key.
        session: What is there; None: nothing.
        packed: Each field of the hash that holds data, with its bytes.
        ttl_ms: Milliseconds until it expires; None: never.
    """

    key: str
    session: BotSession | None = None
    packed: Mapping[bytes, bytes] | None = None
    ttl_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One top-level key of a session's data.

    Attributes:
        name: The key.
        value: Its value, or the last one that was there.
        mark: "new", "changed" or "removed" since the step before; empty: as it was.
    """

    name: str
    value: Any
    mark: str


async def look(store: SessionStore, client: Redis, user: str, channel: str) -> Stored:
    """Reads a session without touching it.

    Args:
        store: Where it is.
        client: A client of the same Redis.
        user: The user.
        channel: The channel.

    Raises:
        What ``store.get`` raises; ``redis.exceptions.RedisError``.
    """
    key = store.key(user, channel)
    session = await store.get(user, channel)
    if session is None:
        return Stored(key)
    ttl_ms = await client.pttl(key)
    return Stored(key, session, store.codec.encode(session.data), ttl_ms if ttl_ms >= 0 else None)


def compare(before: Stored, now: Stored) -> list[Row]:
    """The keys of ``now``, each with what has happened to it since ``before``, and those that went."""
    old, new = before.packed or {}, now.packed or {}
    rows = []
    if now.session:
        for (name, value), (field, packed) in zip(now.session.data.items(), new.items(), strict=True):
            mark = "new" if field not in old else "changed" if old[field] != packed else ""
            rows.append(Row(name, value, mark))
    if before.session:
        for (name, value), field in zip(before.session.data.items(), old, strict=True):
            if field not in new:
                rows.append(Row(name, value, "removed"))
    return rows
