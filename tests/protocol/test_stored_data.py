"""What 0.1.0 has stored, byte by byte, is read by this release, and written by it in the same form.

``stored_0_1.json`` holds all keys of three sessions, as the store of 0.1.0 left them on a Redis 8.2: names and values as hex.
It is never made anew: a change of the stored form needs a file of its own beside it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import redis.asyncio

from redis_botsession import BotSession, Codec, SessionStore

STORED: dict[str, dict[str, dict[str, Any]]] = json.loads(Path(__file__).with_name("stored_0_1.json").read_text("utf-8"))


class Color(Enum):
    RED = 1


VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "small": -1,
    "int64": -(2**63),
    "uint64": 2**64 - 1,
    "big": 2**64,
    "bigger": -(2**200),
    "float": 1.5,
    "inf": float("inf"),
    "text": "Zoë 🤖",
    "surrogate": "\udcff",
    "bytes": b"\xff\x00",
    "list": [1, [2, []]],
    "tuple": (1, (2, ())),
    "dict": {"a": 1, 2: "b", b"c": [None], (1, "x"): {}},
    "set": {1, "a", (2, 3)},
    "frozenset": frozenset({b"x"}),
    "aware": datetime(2026, 11, 22, 12, 30, 15, 123456, tzinfo=UTC),
    "zone": datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    "offset": datetime(2026, 11, 22, 12, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "naive": datetime(1, 1, 1),  # noqa: DTZ001 - naive on purpose
    "date": date(2026, 2, 28),
    "time": time(23, 59, 59, 999999),
    "timedelta": timedelta(days=-1, microseconds=1),
    "decimal": Decimal("1.10"),
    "uuid": UUID(int=7),
    "enum": Color.RED,
}


def codec() -> Codec:
    with_color = Codec()
    with_color.register(Color, tag="color")
    return with_color


def fields_of(key: str) -> dict[bytes, bytes]:
    return {bytes.fromhex(name): bytes.fromhex(value) for name, value in STORED[key]["hash"].items()}


@pytest.fixture
async def client(empty_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A server that holds what 0.1.0 has stored."""
    async with redis.asyncio.Redis.from_url(empty_url) as client:
        for key, content in STORED.items():
            if "hash" in content:
                await client.hset(key, mapping=fields_of(key))  # type: ignore[arg-type] # its stub allows for str only
            else:
                await client.zadd(key, {bytes.fromhex(member): float(score) for member, score in content["zset"].items()})
        yield client


@pytest.fixture
async def store(client: redis.asyncio.Redis, empty_url: str) -> AsyncIterator[SessionStore]:
    async with SessionStore.from_url(empty_url, prefix="old:", ttl=None, codec=codec()) as store:
        yield store


async def test_stored_values_of_0_1_are_read_with_their_types(store: SessionStore) -> None:
    session = await store.get("a:b", "*")
    assert session is not None
    assert session.data == VALUES
    assert {name: type(value) for name, value in session.data.items()} == {name: type(value) for name, value in VALUES.items()}
    assert session.data["zone"].tzinfo == ZoneInfo("Europe/Berlin")
    assert session.data["zone"].fold == 1
    assert session.data["offset"].utcoffset() == timedelta(hours=5, minutes=30)
    assert session.version == 1795816902967315
    assert session.created_at == session.updated_at == datetime(2026, 11, 27, 22, 1, 42, 967315, tzinfo=UTC)
    assert session.expires_at is None


async def test_stored_metadata_of_0_1_are_read(store: SessionStore) -> None:
    assert await store.get(42, 7) == BotSession(
        "42",
        "7",
        {"step": "name"},
        created_at=datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        updated_at=datetime(2026, 11, 27, 22, 1, 42, 969757, tzinfo=UTC),
        expires_at=datetime(2100, 1, 1, tzinfo=UTC),
        version=1795816902969757,
    )
    empty = await store.get(42, "empty")
    assert empty is not None
    assert empty.data == {}


async def test_stored_sessions_of_0_1_can_be_written_to(store: SessionStore) -> None:
    async with store.session(42, 7) as session:
        session.data["email"] = "ada@example.org"
    version = await store.update("a:b", "*", {"new": 1}, expected_version=1795816902967315)
    assert version > 1795816902967315
    written = await store.get(42, 7)
    assert written is not None
    assert written.data == {"step": "name", "email": "ada@example.org"}
    assert written.created_at == datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


async def test_stored_indexes_of_0_1_are_read(store: SessionStore, client: redis.asyncio.Redis) -> None:
    assert sorted(await store.channels(42)) == ["7", "empty"]
    assert await store.clear(42) == 2
    assert await store.clear("a:b") == 1
    assert await client.keys("old:*") == []


def test_stored_values_are_written_as_0_1_did() -> None:
    written = codec().encode(VALUES)
    stored = {name: value for name, value in fields_of("old:{a%3Ab}:%2A").items() if not name.startswith(b"\xff")}
    assert {name.decode("utf-8", "surrogatepass"): value for name, value in written.items()} == {
        name.decode("utf-8", "surrogatepass"): value for name, value in stored.items()
    }


async def test_stored_metadata_are_written_as_0_1_did(store: SessionStore, client: redis.asyncio.Redis) -> None:
    await store.update("x", "y", {"step": "name"}, expires_at=datetime(2100, 1, 1, tzinfo=UTC))
    written = await client.hgetall("old:{x}:y")
    stored = fields_of("old:{42}:7")
    # A session that was set with another created_at has its birth besides.
    assert written.keys() == stored.keys() - {b"\xffb"}
    for name in (b"\xffs", b"\xffe", b"step"):
        assert written[name] == stored[name]
    assert written[b"\xffv"].isdigit()
    assert len(written[b"\xffo"]) == len(stored[b"\xffo"]) == 8
