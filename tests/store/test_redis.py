"""What is in Redis: the layout, the TTLs, the index; on every server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio
import time_machine

from redis_botsession import BotSession, CorruptSession, SessionGone, SessionMiddleware, SessionStore, VersionConflict
from redis_botsession._protocol.layout import Keys, owner_tag
from redis_botsession.testing.harness import eventually, load

DAY_MS = 86_400_000

Write = Callable[[], Awaitable[object]]


async def test_layout_in_redis_is_as_documented(client: redis.asyncio.Redis, store: SessionStore, prefix: str) -> None:
    key, index = f"{prefix}{{a%3Ab}}:%2A".encode(), f"{prefix}{{a%3Ab}}".encode()
    version = await store.update("a:b", "*", {"step": "name", "n": 1})
    assert await client.hgetall(key) == {
        b"step": b"\xa4name",
        b"n": b"\x01",
        b"\xffv": b"%d" % version,
        b"\xffc": b"%d" % version,
        b"\xffo": owner_tag(key),
        b"\xffs": b"11",
    }
    assert await client.zrange(index, 0, -1) == [b"*"]
    score = await client.zscore(index, b"*")
    seconds, _ = await client.time()
    # A sixteenth longer than the session at most.
    assert -60_000 < (score or 0) - seconds * 1000 - DAY_MS < DAY_MS / 16 + 60_000
    assert DAY_MS - 60_000 < await client.pttl(key) <= DAY_MS
    assert await client.pttl(index) >= await client.pttl(key)
    assert set(await client.keys()) == {key, index}


async def test_layout_metadata_never_collides_with_top_level_keys(store: SessionStore) -> None:
    data = {"v": 1, "c": 2, "e": 3, "o": 4, "s": 5, "\xff": 6, "\xffv": 7, "\udcffv": 8}
    await store.set("u", "c", BotSession("u", "c", data))
    await store.update("u", "c", {"\udcffv": 10})
    assert (await load(store)).data == {**data, "\udcffv": 10}


async def test_set_keeps_created_at_apart_from_the_first_version(
    client: redis.asyncio.Redis, store: SessionStore, keys: Keys
) -> None:
    # A created_at by a client whose clock is ahead must not make the session look younger than its versions.
    ahead = datetime.now(UTC) + timedelta(hours=1)
    version = await store.set("u", "c", BotSession("u", "c", {"n": 1}, created_at=ahead))
    async with store.session("u", "c") as session:
        session.data["n"] = 2
    assert (await load(store)).created_at == ahead
    assert await client.hget(keys.session("u", "c"), b"\xffb") == b"%d" % version
    await store.set("u", "c", BotSession("u", "c", {"n": 3}))
    await store.update("u", "c", {"m": 1}, since_version=version)
    await store.delete("u", "c")
    await store.set("u", "c", BotSession("u", "c", created_at=datetime(2000, 1, 1, tzinfo=UTC)))
    with pytest.raises(SessionGone):
        await store.update("u", "c", {"m": 1}, since_version=version)


# --- expiry and the index


async def test_index_lists_a_session_with_a_ttl_after_every_write(client: redis.asyncio.Redis, url: str, prefix: str) -> None:
    deadline = datetime.now(UTC) + timedelta(minutes=30)
    async with SessionStore.from_url(url, prefix=prefix, ttl=100) as store:
        keys = Keys(prefix)
        await store.update("u", "update", {"n": 1})
        await store.set("u", "set", BotSession("u", "set"))
        await store.update("u", "own", {"n": 1}, expires_at=deadline)
        await store.update("u", "big", {str(n): n for n in range(5000)})
        await store.touch("u", "set", 50)
        for channel, seconds in (("update", 100), ("set", 50), ("own", 1800), ("big", 100)):
            left = await client.pttl(keys.session("u", channel))
            assert (seconds - 30) * 1000 < left <= seconds * 1000
            score = await client.zscore(keys.index("u"), channel)
            assert score is not None
        assert await client.pttl(keys.index("u")) >= await client.pttl(keys.session("u", "own"))
        # The longest goes: the index needs to live no longer than the others.
        await store.delete("u", "own")
        assert await client.pttl(keys.index("u")) <= 100_000 * 17 / 16


async def test_ttl_none_removes_the_expiry_and_a_ttl_restores_it(
    client: redis.asyncio.Redis, url: str, prefix: str, keys: Keys
) -> None:
    key, index = keys.session("u", "c"), keys.index("u")
    async with SessionStore.from_url(url, prefix=prefix, ttl=None) as forever, SessionStore.from_url(url, prefix=prefix) as day:
        await forever.update("u", "c", {"n": 1})
        assert (await client.pttl(key), await client.pttl(index)) == (-1, -1)
        await day.touch("u", "c")
        assert await client.pttl(index) >= await client.pttl(key) > 0
        for renew in (
            forever.touch("u", "c"),
            forever.update("u", "c", {}),
            forever.set("u", "c", BotSession("u", "c")),
        ):
            await day.update("u", "c", {})
            await renew
            assert (await client.pttl(key), await client.pttl(index)) == (-1, -1)
        await day.update("u", "d", {"n": 1})
        assert await client.pttl(index) == -1
        # What never expires goes: what is left does.
        await day.delete("u", "c")
        assert await client.pttl(index) > 0


async def test_expires_at_accepts_a_time_with_many_zeros(client: redis.asyncio.Redis, store: SessionStore, keys: Keys) -> None:
    # 2e12 ms: were the score of the index written like that, PEXPIREAT would not take it.
    deadline = datetime.fromtimestamp(2_000_000_000, UTC)
    await store.update("u", "c", {"n": 1}, expires_at=deadline)
    await store.touch("u", "c")
    await store.delete("u", "c", expected_version=await store.update("u", "c", {"n": 2}))
    await store.set("u", "c", BotSession("u", "c", expires_at=deadline))
    assert (await load(store)).expires_at == deadline
    assert await client.pttl(keys.index("u")) >= await client.pttl(keys.session("u", "c")) > DAY_MS


async def test_index_drops_expired_entries_with_each_write(
    client: redis.asyncio.Redis, url: str, prefix: str, keys: Keys
) -> None:
    async with SessionStore.from_url(url, prefix=prefix, ttl=0.1) as short, SessionStore.from_url(url, prefix=prefix) as day:
        writes: dict[str, Write] = {
            "a": lambda: day.update("u", "a", {"n": 1}),
            "b": lambda: day.set("u", "b", BotSession("u", "b")),
            "kept": lambda: day.touch("u", "kept", 10 * 86_400),
            "none": lambda: day.delete("u", "none"),
        }
        for channel, write in writes.items():
            await day.update("u", "kept", {"n": 0})
            for n in range(20):
                await short.update("u", n, {"n": n})
            await eventually(lambda: _is_over(client, keys.index("u"), b"19"))
            await write()
            left = {b"kept", channel.encode()} - {b"none"}
            assert set(await client.zrange(keys.index("u"), 0, -1)) == left
            await day.delete("u", "a")
            await day.delete("u", "b")


async def test_index_entry_lives_about_as_long_as_its_session(
    client: redis.asyncio.Redis, url: str, prefix: str, keys: Keys
) -> None:
    async with SessionStore.from_url(url, prefix=prefix, ttl=1600) as store:

        async def beyond() -> tuple[float, float]:
            """How much longer the entry lives than the session, and the index than the entry; milliseconds."""
            seconds, micros = await client.time()
            session, index = await client.pttl(keys.session("u", "c")), await client.pttl(keys.index("u"))
            entry = (await client.zscore(keys.index("u"), "c") or 0) - (seconds * 1000 + micros / 1000)
            return entry - session, index - entry

        writes: list[Write] = [
            lambda: store.update("u", "c", {"n": 1}),
            lambda: store.touch("u", "c"),
            lambda: store.set("u", "c", BotSession("u", "c")),
            lambda: store.touch("u", "c", 160),
            lambda: store.touch("u", "c", 3200),
            lambda: store.update("u", "c", {}),
        ]
        ticking = 1000  # between two of the questions
        for write in writes:
            await write()
            entry, index = await beyond()
            assert -ticking < entry <= 3200_000 / 16 + ticking
            assert -ticking < index < ticking
        # While it can stay, it stays: that is four commands less for the server.
        before = await client.zscore(keys.index("u"), "c")
        await store.update("u", "c", {"n": 2})
        assert await client.zscore(keys.index("u"), "c") == before
        # Lost with the index, it comes back.
        await client.delete(keys.index("u"))
        await store.update("u", "c", {"n": 3})
        assert await store.channels("u") == ["c"]


async def _is_over(client: redis.asyncio.Redis, index: bytes, member: bytes) -> bool:
    seconds, micros = await client.time()
    return (await client.zscore(index, member) or 0) < seconds * 1000 + micros // 1000


async def test_ttl_leaves_nothing_of_ten_thousand_sessions(client: redis.asyncio.Redis, url: str, prefix: str) -> None:
    async with SessionStore.from_url(url, prefix=prefix, ttl=0.2) as store:
        ids = [(user, channel) for user in range(100) for channel in range(100)]
        await asyncio.gather(*(store.update(*pair, {"n": 1}) for pair in ids))

        async def is_empty() -> bool:
            return int(await client.dbsize()) == 0

        await eventually(is_empty)


@pytest.mark.parametrize("hours", [-1, 1], ids=["an hour behind", "an hour ahead"])
async def test_ttl_ignores_the_clock_of_the_client(
    hours: int, client: redis.asyncio.Redis, store: SessionStore, keys: Keys
) -> None:
    real = datetime.now(UTC)
    with time_machine.travel(real + timedelta(hours=hours), tick=True):
        versions = [
            await store.update("u", "c", {"n": 1}),
            await store.set("u", "c", BotSession("u", "c", {"n": 2})),
            await store.update("u", "c", {"n": 3}),
        ]
        assert await store.touch("u", "c")
        async with store.session("u", "c") as session:
            session.data["n"] = 4
        loaded = await load(store)
        assert await store.channels("u") == ["c"]
    assert DAY_MS - 60_000 < await client.pttl(keys.session("u", "c")) <= DAY_MS
    assert versions == sorted(versions)
    assert abs(loaded.updated_at - real) < timedelta(minutes=1)
    assert loaded.data == {"n": 4}


# --- clear


async def test_clear_removes_all_sessions_while_others_create(client: redis.asyncio.Redis, store: SessionStore) -> None:
    for first in range(0, 20_000, 2_000):
        await asyncio.gather(*(store.update("u", n, {"n": 1}) for n in range(first, first + 2_000)))
    await client.config_resetstat()
    clearing = asyncio.create_task(store.clear("u"))
    created = 0
    while not clearing.done():
        await store.update("u", f"new {created}", {"n": 1})
        created += 1
    assert await clearing >= 20_000
    assert not [channel for channel in await store.channels("u") if not channel.startswith("new")]
    assert created > 0
    stats = await client.info("commandstats")
    assert "cmdstat_keys" not in stats
    await store.clear("u")
    assert await client.dbsize() == 0


# --- round trips


class _Ctx:
    session: Any

    def __init__(self) -> None:
        self.ids = ("u", "c")


#: What the scripts call, which the server counts too.
INSIDE_SCRIPTS = frozenset(
    [
        "time",
        "exists",
        "hget",
        "hmget",
        "hstrlen",
        "hset",
        "hdel",
        "zadd",
        "zscore",
        "zrange",
        "zremrangebyscore",
        "pexpireat",
        "persist",
    ]
)


async def _sent(client: redis.asyncio.Redis) -> tuple[dict[str, int], int]:
    """The commands that clients have sent since the statistics were reset, and in how many reads they came."""
    stats = await client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    sent = {name: count for name, count in calls.items() if name not in INSIDE_SCRIPTS and not name.startswith("config")}
    # INFO commandstats was one read, INFO stats is another.
    return sent, (await client.info("stats"))["total_reads_processed"] - 2


async def test_middleware_needs_one_round_trip_or_two_with_changes(client: redis.asyncio.Redis, store: SessionStore) -> None:
    middleware = SessionMiddleware(store, key=lambda ctx: ctx.ids)
    ctx = _Ctx()

    async def look() -> None:
        assert ctx.session.data["n"] >= 1

    async def change() -> None:
        ctx.session.data["n"] += 1
        ctx.session.data["list"].append(1)

    # The scripts are loaded, the connections open.
    await store.update("u", "c", {"n": 1, "list": []})
    await middleware(ctx, change)

    await client.config_resetstat()
    for _ in range(10):
        await middleware(ctx, look)
    # HGETALL and the touch script, in one round trip; nothing else but the ECHO that vouches for their replies.
    sent, reads = await _sent(client)
    assert sent == {"hgetall": 10, "evalsha": 10, "echo": 10}
    assert reads == 10

    await client.config_resetstat()
    for _ in range(10):
        await middleware(ctx, change)
    sent, reads = await _sent(client)
    assert sent == {"hgetall": 10, "evalsha": 20, "echo": 20}
    assert reads == 20


# --- what is damaged


async def test_get_raises_for_a_damaged_session_that_can_be_removed(
    client: redis.asyncio.Redis, store: SessionStore, keys: Keys
) -> None:
    key = keys.session("u", "c")

    async def foreign() -> None:
        await client.delete(key)
        await client.hset(key, mapping={b"a": b"\x01"})

    damages = {
        "a": lambda: client.hset(key, b"a", b"\xc1"),
        "\\xffv": lambda: client.hset(key, b"\xffv", b"x"),
        "\\xffc": lambda: client.hset(key, b"\xffc", b"x"),
        "\\xffe": lambda: client.hset(key, b"\xffe", b"9" * 30),
        "\\xffo": foreign,
    }
    for field, damage in damages.items():
        endings: dict[str, Write] = {
            "delete": lambda: store.delete("u", "c"),
            "clear": lambda: store.clear("u"),
            "set": lambda: store.set("u", "c", BotSession("u", "c", {"a": 2})),
        }
        for name, end in endings.items():
            await store.delete("u", "c")
            await store.update("u", "c", {"a": 1, "b": 2})
            await damage()
            with pytest.raises(CorruptSession) as caught:
                await store.get("u", "c")
            assert (caught.value.key, caught.value.field) == (key.decode(), field)
            assert key.decode() in str(caught.value)
            assert await store.touch("u", "c")
            assert await client.pttl(key) > 0
            assert await end()
            session = await store.get("u", "c")
            assert (session and session.data) == ({"a": 2} if name == "set" else None)


async def test_update_writes_nothing_into_a_foreign_or_damaged_hash(
    client: redis.asyncio.Redis, store: SessionStore, keys: Keys
) -> None:
    key = keys.session("u", "c")
    # Another's session under this key: as after a RENAME, or a restore to the wrong place.
    await store.update("other", "c", {"secret": 1})
    await client.rename(keys.session("other", "c"), key)
    with pytest.raises(CorruptSession, match="xffo"):
        await store.update("u", "c", {"mine": 1})
    assert await client.hkeys(key) == [b"\xffv", b"\xffs", b"\xffc", b"\xffo", b"secret"]
    for field in (b"\xffv", b"\xffs", b"\xffc", b"\xffe"):
        await store.set("u", "c", BotSession("u", "c", {"n": 1}))
        await client.hset(key, field, b"x")
        before = await client.hgetall(key)
        with pytest.raises(CorruptSession) as caught:
            await store.update("u", "c", {"mine": 1})
        assert caught.value.field == field.decode("utf-8", "backslashreplace")
        assert await client.hgetall(key) == before
    await client.delete(key)
    await client.hset(key, b"a", b"\x01")
    writes: list[Write] = [
        lambda: store.update("u", "c", {"mine": 1}),
        lambda: store.update("u", "c", {"mine": 1}, expected_version=0),
        lambda: store.set("u", "c", BotSession("u", "c"), expected_version=0),
        lambda: store.delete("u", "c", expected_version=0),
    ]
    for write in writes:
        with pytest.raises(CorruptSession):
            await write()
    assert await client.hgetall(key) == {b"a": b"\x01"}


async def test_get_refuses_the_renamed_session_of_another_user(
    client: redis.asyncio.Redis, store: SessionStore, keys: Keys
) -> None:
    await store.update("alice", "c", {"secret": 1})
    await client.rename(keys.session("alice", "c"), keys.session("bob", "c"))
    with pytest.raises(CorruptSession, match="not the session of this user"):
        await store.get("bob", "c")


async def test_channels_leaves_out_deleted_keys(client: redis.asyncio.Redis, store: SessionStore, keys: Keys) -> None:
    for channel in "abc":
        await store.update("u", channel, {"n": 1})
    # As an operator does, or an eviction.
    await client.delete(keys.session("u", "b"))
    assert sorted(await store.channels("u")) == ["a", "c"]
    assert await store.clear("u") == 2


async def test_scan_skips_foreign_keys(client: redis.asyncio.Redis, store: SessionStore, prefix: str) -> None:
    await store.update("u", "c", {"n": 1})
    await client.set(f"{prefix}{{u}}:text", "not a hash")
    await client.hset(f"{prefix}{{u}}:not escaped", "a", "1")
    await client.hset(f"{prefix}other", "a", "1")
    async with SessionStore(client, prefix=prefix + "more:") as another:
        await another.update("u", "c", {"n": 1})
    assert [ids async for ids in store.scan()] == [("u", "c")]
    assert await store.size() == 1


async def test_store_loads_scripts_again_after_a_flush(client: redis.asyncio.Redis, store: SessionStore) -> None:
    for n in range(5):
        await client.script_flush()
        await store.update("u", "c", {"n": n})
        await client.script_flush()
        session = await store.get("u", "c", touch=True)
        assert session is not None
        assert session.data == {"n": n}
        await client.script_flush()
        with pytest.raises(VersionConflict):
            await store.set("u", "c", session, expected_version=session.version - 1)
        await client.script_flush()
        assert await store.delete("u", "c")
        await store.update("u", "c", {})
        await client.script_flush()
        assert await store.clear("u") == 1
