"""A server that refuses a write, at whatever command of a script: no half session is left; on every server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from redis_botsession import BotSession, SessionStore
from redis_botsession._protocol.layout import Keys

Write = Callable[[], Awaitable[object]]


def writes(store: SessionStore, channel: str) -> list[Write]:
    """Every write that makes or changes a session."""
    many = {f"k{n}": n for n in range(2000)}
    deadline = datetime.now(UTC) + timedelta(minutes=1)
    return [
        lambda: store.update("u", channel, {"new": 1}, remove=["old"]),
        lambda: store.update("u", channel, many, expires_at=deadline),
        lambda: store.update("u", channel, {}, expires_at=None),
        lambda: store.set("u", channel, BotSession("u", channel, {"new": 1})),
        lambda: store.set("u", channel, BotSession("u", channel, many, expires_at=deadline)),
    ]


async def assert_no_half_session(client: redis.asyncio.Redis, keys: Keys) -> None:
    """Every session hash has its metadata, its TTL, and its place in the index."""
    async for key in client.scan_iter(keys.pattern, _type="hash"):
        ids = keys.ids(key)
        assert ids is not None
        assert {b"\xffv", b"\xffc", b"\xffo", b"\xffs"} <= set(await client.hkeys(key))
        assert await client.pttl(key) > 0
        assert await client.zscore(keys.index(ids[0]), ids[1]) is not None


async def test_store_leaves_no_half_session_when_out_of_memory(
    client: redis.asyncio.Redis, store: SessionStore, keys: Keys
) -> None:
    await store.update("u", "there", {"old": 1})
    before = await client.hgetall(keys.session("u", "there"))
    await client.config_set("maxmemory", 1)
    try:
        for channel in ("there", "new"):
            for write in writes(store, channel):
                # 6.2 wraps it in an error of the script.
                with pytest.raises(ResponseError, match=r"OOM|used memory"):
                    await write()
        assert await client.hgetall(keys.session("u", "there")) == before
        assert await client.zrange(keys.index("u"), 0, -1) == [b"there"]
        # What makes room still works.
        assert await store.get("u", "there")
        assert await store.delete("u", "there")
    finally:
        await client.config_set("maxmemory", 0)
    assert await client.dbsize() == 0


async def test_store_leaves_a_key_of_another_type_unchanged(
    client: redis.asyncio.Redis, store: SessionStore, keys: Keys
) -> None:
    await client.set(keys.session("u", "taken"), "text")
    reads: list[Write] = [lambda: store.get("u", "taken"), lambda: store.get("u", "taken", touch=True)]
    for call in [*writes(store, "taken"), *reads]:
        with pytest.raises(ResponseError, match="WRONGTYPE") as caught:
            await call()
        assert keys.session("u", "taken").decode() in str(caught.value)
    assert await client.get(keys.session("u", "taken")) == b"text"

    await store.update("v", "there", {"old": 1})
    before = await client.hgetall(keys.session("v", "there"))
    await client.set(keys.index("v"), "text")
    for channel in ("there", "new"):
        for write in (store.update("v", channel, {"new": 1}), store.set("v", channel, BotSession("v", channel))):
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                await write
    assert await client.hgetall(keys.session("v", "there")) == before
    assert not await client.exists(keys.session("v", "new"))


async def test_store_changes_nothing_on_a_replica(client: redis.asyncio.Redis, store: SessionStore, keys: Keys) -> None:
    await store.update("u", "there", {"old": 1})
    before = await client.hgetall(keys.session("u", "there"))
    await client.replicaof("127.0.0.1", "1")
    try:
        others: list[Write] = [lambda: store.touch("u", "there"), lambda: store.clear("u")]
        for write in [*writes(store, "there"), *others]:
            with pytest.raises(ResponseError, match=r"READONLY|read only replica"):
                await write()
        session = await store.get("u", "there")
        assert session is not None
        assert session.data == {"old": 1}
    finally:
        await client.replicaof("NO", "ONE")
    assert await client.hgetall(keys.session("u", "there")) == before


@pytest.mark.parametrize(
    "denied", ["zadd", "zrange", "zremrangebyscore", "pexpireat", "persist", "hset", "hdel", "time", "hmget", "unlink", "zrem"]
)
async def test_store_leaves_no_half_session_without_a_permission(
    denied: str, client: redis.asyncio.Redis, url: str, prefix: str, keys: Keys, store: SessionStore
) -> None:
    await client.acl_setuser("limited", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", f"-{denied}"])
    refused = 0
    try:
        async with SessionStore.from_url(as_user(url, "limited"), prefix=prefix) as limited:
            for channel in ("there", "new"):
                for write in writes(limited, channel):
                    for forever in (False, True):
                        # With a session in the index that never ends, other commands come first.
                        await store.clear("u")
                        await store.update("u", "there", {"old": 1})
                        if forever:
                            async with SessionStore(client, prefix=prefix, ttl=None) as endless:
                                await endless.update("u", "endless", {"n": 1})
                        try:
                            await write()
                        except ResponseError:
                            refused += 1
                        await store.delete("u", "endless")
                        await assert_no_half_session(client, keys)
    finally:
        await client.acl_deluser("limited")
    assert refused or denied in {"unlink", "zrem"}


def as_user(url: str, name: str, password: str = "secret") -> str:  # noqa: S107 - a password for the tests only
    """The URL for another user."""
    return urlsplit(url)._replace(netloc=f"{name}:{password}@{urlsplit(url).netloc}").geturl()
