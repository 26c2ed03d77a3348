"""An example of a store of one's own: on SQLite, in one file, through the contract."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgpack

from redis_botsession import KEEP, BotSession, BotSessionStore, SessionGone, SessionTooLarge, VersionConflict
from redis_botsession._session.changes import Write
from redis_botsession._session.record import Id, Loaded, normal_id
from redis_botsession._session.times import TTL, from_micros, to_micros, ttl_to_ms
from redis_botsession.testing import StoreContract

SCHEMA = """
CREATE TABLE IF NOT EXISTS session (
    user TEXT, channel TEXT, data BLOB, version INTEGER, born INTEGER, created INTEGER, own INTEGER, deadline INTEGER,
    PRIMARY KEY (user, channel)
)
"""
FOREVER = 2**62


class SQLiteStore(BotSessionStore):
    """All times are microseconds since 1970; ``deadline`` is when a session ends, ``own`` its expires_at."""

    def __init__(self, path: str = ":memory:", *, ttl: TTL = 86_400, max_bytes: int = 1 << 20) -> None:
        self.max_bytes = max_bytes
        self._ttl_ms = ttl_to_ms(ttl)
        self._last = 0
        self._db = sqlite3.connect(path)
        self._db.execute(SCHEMA)

    async def load(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> Loaded | None:
        if touch:
            await self.touch(user_id, channel_id)
        row = self._row(*_ids(user_id, channel_id))
        if row is None:
            return None
        user, channel, data, version, _, created, own, _ = row
        decoded = self.codec.decode(msgpack.unpackb(data, raw=True), max_bytes=self.max_bytes)
        expires_at = None if own is None else from_micros(own)
        created_at, updated_at = from_micros(created), from_micros(version)
        return Loaded(BotSession(_text(user), _text(channel), decoded, created_at, updated_at, expires_at, version))

    async def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> int:
        ids = _ids(user_id, channel_id)
        if _ids(session.user_id, session.channel_id) != ids:
            raise ValueError("the session of another user or channel")
        created = to_micros(session.created_at, "created_at")
        own = None if session.expires_at is None else to_micros(session.expires_at, "expires_at")
        fields = self.codec.encode(session.data, max_bytes=self.max_bytes, key=self.key(user_id, channel_id))
        row = self._row(*ids)
        self._check_version(self.key(user_id, channel_id), expected_version, row)
        return self._store(ids, fields, row, created, own)

    async def write(self, user_id: Id, channel_id: Id, write: Write) -> int:
        ids, key = _ids(user_id, channel_id), self.key(user_id, channel_id)
        new_deadline = to_micros(write.expires_at, "expires_at") if isinstance(write.expires_at, datetime) else None
        self.codec.encode(write.values, max_bytes=self.max_bytes, key=key)
        row = self._row(*ids)
        if row is None and not write.may_create:
            raise SessionGone(f"{key} is gone", key=key)
        if row is not None and write.since_version is not None and row[4] > write.since_version:
            raise SessionGone(f"{key} is another", key=key)
        self._check_version(key, write.expected_version, row)
        before: dict[bytes, bytes] = {} if row is None else msgpack.unpackb(row[2], raw=True)
        data = write.data_after(self.codec.decode(before, max_bytes=1 << 40, key=key))
        if write.drop_empty and not data:
            self._db.execute("DELETE FROM session WHERE user = ? AND channel = ?", ids)
            return 0
        fields = self.codec.encode(data, max_bytes=1 << 40, key=key)
        if _size(before) < _size(fields) > self.max_bytes:
            raise SessionTooLarge(f"{key} is too large", key=key, size=_size(fields), limit=self.max_bytes)
        own = (row and row[6]) if write.expires_at is KEEP else new_deadline
        return self._store(ids, fields, row, row and row[5], own)

    async def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> bool:
        ids = _ids(user_id, channel_id)
        deadline = self._deadline(self._ttl_ms if ttl is None else ttl_to_ms(ttl))
        touched = "UPDATE session SET deadline = ifnull(own, ?) WHERE user = ? AND channel = ? AND deadline > ?"
        return self._db.execute(touched, (deadline, *ids, _now())).rowcount == 1

    async def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> bool:
        ids = _ids(user_id, channel_id)
        row = self._row(*ids)
        self._check_version(self.key(user_id, channel_id), expected_version, row)
        self._db.execute("DELETE FROM session WHERE user = ? AND channel = ?", ids)
        return row is not None

    async def clear(self, user_id: Id) -> int:
        user, _ = _ids(user_id, "any")
        return self._db.execute("DELETE FROM session WHERE user = ? AND deadline > ?", (user, _now())).rowcount

    async def channels(self, user_id: Id) -> list[str]:
        user, _ = _ids(user_id, "any")
        return [channel async for owner, channel in self.scan() if owner == _text(user)]

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        for user, channel in self._db.execute("SELECT user, channel FROM session WHERE deadline > ?", (_now(),)).fetchall():
            yield _text(user), _text(channel)

    async def size(self) -> int:
        return len([ids async for ids in self.scan()])

    async def aclose(self) -> None:
        self._db.close()

    def _row(self, user: bytes, channel: bytes) -> Any:
        wanted = "SELECT * FROM session WHERE user = ? AND channel = ? AND deadline > ?"
        return self._db.execute(wanted, (user, channel, _now())).fetchone()

    def _check_version(self, key: str, expected: int | None, row: Any) -> None:
        if isinstance(expected, bool) or not isinstance(expected, int | None):
            raise TypeError("a version must be int")
        if expected is not None and expected < 0:
            raise ValueError("a version is never negative")
        actual = 0 if row is None else row[3]
        if expected is not None and expected != actual:
            raise VersionConflict(f"{key} is at {actual}", key=key, expected=expected, actual=actual)

    def _store(
        self, ids: tuple[bytes, bytes], fields: dict[bytes, bytes], row: Any, created: int | None, own: int | None
    ) -> int:
        self._db.execute("DELETE FROM session WHERE user = ? AND channel = ?", ids)
        if own is not None and own <= _now():
            return 0
        self._last = version = max(self._last + 1, _now())
        born = version if row is None else row[4]
        deadline = self._deadline(self._ttl_ms) if own is None else own
        values = (*ids, msgpack.packb(fields), version, born, version if created is None else created, own, deadline)
        self._db.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        return version

    def _deadline(self, ttl_ms: int | None) -> int:
        return FOREVER if ttl_ms is None else _now() + ttl_ms * 1000


def _now() -> int:
    return time.time_ns() // 1000


def _ids(user_id: Id, channel_id: Id) -> tuple[bytes, bytes]:
    user, channel = normal_id(user_id, "user_id"), normal_id(channel_id, "channel_id")
    return user.encode("utf-8", "surrogatepass"), channel.encode("utf-8", "surrogatepass")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def _size(fields: dict[bytes, bytes]) -> int:
    return sum(map(len, fields)) + sum(map(len, fields.values()))


class TestSQLite(StoreContract):
    def make_store(self, **options: Any) -> BotSessionStore:
        return SQLiteStore(**options)
