"""Connections that fail, stall or are cancelled; clients of all kinds."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import fakeredis
import pytest
import redis
import redis.asyncio

from redis_botsession import BotSession, OutcomeUnknown, SessionError, SessionStore
from redis_botsession.embedded import LocalServer, find_server
from redis_botsession.testing.harness import eventually, load

from ..support.processes import paused
from ..support.proxy import ReplyLosingProxy

Call = Callable[[SessionStore], Awaitable[object]]


@pytest.fixture
async def proxy(newest_url: str) -> AsyncIterator[ReplyLosingProxy]:
    async with ReplyLosingProxy(newest_url) as proxy:
        yield proxy


@pytest.fixture(params=["from_url", "client"])
async def flaky(request: pytest.FixtureRequest, proxy: ReplyLosingProxy, prefix: str) -> AsyncIterator[SessionStore]:
    """A store behind the proxy; "client" is a user's, with redis-py's default of ten retries."""
    if request.param == "from_url":
        async with SessionStore.from_url(proxy.url, prefix=prefix, timeout=3) as store:
            yield store
    else:
        async with redis.asyncio.Redis.from_url(proxy.url) as client, SessionStore(client, prefix=prefix) as store:
            yield store


@pytest.fixture
async def direct(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        yield store


# --- the reply is lost


def append(session: BotSession) -> None:
    session.data["n"] = session.data.get("n", 0) + 1


WRITES: dict[str, Call] = {
    "set": lambda store: store.set("u", "c", BotSession("u", "c", {"n": 2})),
    "update": lambda store: store.update("u", "c", {"n": 2}),
    "modify": lambda store: store.modify("u", "c", append),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_write_without_reply_is_not_resent(
    write: Call, flaky: SessionStore, direct: SessionStore, proxy: ReplyLosingProxy
) -> None:
    # The scripts are loaded: a NOSCRIPT would be the reply that is lost.
    await write(direct)
    await flaky.set("u", "c", BotSession("u", "c", {"n": 1}))
    before = await load(direct)
    proxy.needle, proxy.lose_replies = b"EVALSHA", 10
    with pytest.raises(OutcomeUnknown) as caught:
        await write(flaky)
    assert proxy.lose_replies == 9
    assert isinstance(caught.value.__cause__, redis.ConnectionError)
    assert caught.value.key == direct.key("u", "c")
    assert direct.key("u", "c") in str(caught.value)
    # This one was applied, once.
    after = await load(direct)
    assert (after.data, after.version > before.version) == ({"n": 2}, True)
    proxy.lose_replies = 0
    await flaky.update("u", "c", {"n": 3}, expected_version=after.version)


# The command whose reply is lost, and what comes of it; the first delete and the first clear have removed the session.
RESENT: dict[str, tuple[Call, bytes, object]] = {
    "touch": (lambda store: store.touch("u", "c"), b"EVALSHA", True),
    "delete": (lambda store: store.delete("u", "c"), b"EVALSHA", False),
    "clear": (lambda store: store.clear("u"), b"EVALSHA", 0),
    "clear, reading the index": (lambda store: store.clear("u"), b"ZRANGE", 1),
    "channels": (lambda store: store.channels("u"), b"EXISTS", ["c"]),
    "size": (lambda store: store.size(), b"SCAN", 1),
}


@pytest.mark.parametrize(("call", "needle", "result"), RESENT.values(), ids=RESENT)
async def test_repeatable_commands_are_resent(
    call: Call, needle: bytes, result: object, flaky: SessionStore, direct: SessionStore, proxy: ReplyLosingProxy
) -> None:
    await flaky.update("u", "c", {"n": 1})
    # The scripts are loaded: a NOSCRIPT would be the reply that is lost.
    await direct.update("other", "c", {"n": 1})
    await direct.touch("other", "c")
    await direct.delete("other", "none")
    await direct.clear("other")
    proxy.needle, proxy.lose_replies = needle, 1
    assert await call(flaky) == result
    assert proxy.lose_replies == 0


async def test_load_is_resent_with_its_touch(flaky: SessionStore, proxy: ReplyLosingProxy) -> None:
    await flaky.update("u", "c", {"n": 1})
    for touch in (False, True):
        proxy.lose_replies = 1
        session = await flaky.get("u", "c", touch=touch)
        assert session is not None
        assert session.data == {"n": 1}
    proxy.lose_replies = 100
    with pytest.raises(redis.ConnectionError):
        await flaky.get("u", "c")


async def test_conditional_delete_is_not_resent(flaky: SessionStore, direct: SessionStore, proxy: ReplyLosingProxy) -> None:
    version = await flaky.update("u", "c", {"n": 1})
    await direct.delete("u", "none")
    proxy.lose_replies = 1
    with pytest.raises(OutcomeUnknown):
        await flaky.delete("u", "c", expected_version=version)
    assert await direct.get("u", "c") is None


# --- servers that are not there, or not answering


async def test_client_store_reports_an_absent_server() -> None:
    async with SessionStore.from_url("redis://:hidden@127.0.0.1:1/0", timeout=0.2) as store:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.get("u", "c"),
            lambda: store.update("u", "c", {"n": 1}),
            lambda: store.clear("u"),
        ]
        for call in calls:
            with pytest.raises(redis.ConnectionError) as caught:
                await call()
            assert "hidden" not in f"{caught.value} {store!r}"


async def test_client_store_times_out_on_a_stalled_server() -> None:
    with LocalServer(find_server(), tcp=True) as server:
        async with SessionStore.from_url(server.url, timeout=2, socket_timeout=0.2) as store:
            await store.update("u", "c", {"n": 1})
            await store.get("u", "c")
            with paused(server):
                with pytest.raises(OutcomeUnknown) as caught:
                    await store.update("u", "c", {"n": 2})
                assert isinstance(caught.value.__cause__, redis.TimeoutError)
                with pytest.raises(redis.TimeoutError):
                    await store.get("u", "c")
            assert await store.get("u", "c")


async def test_client_store_reconnects_after_a_restart() -> None:
    server = LocalServer(find_server(), tcp=True)
    server.start()
    port = urlsplit(server.url).port
    assert port
    async with SessionStore.from_url(server.url, timeout=2) as store:
        try:
            await store.update("u", "c", {"n": 1})
            server.stop()
            with pytest.raises(redis.ConnectionError):
                await store.get("u", "c")
        finally:
            server.stop()
        with LocalServer(find_server(), tcp=port):
            assert await store.get("u", "c") is None
            await store.update("u", "c", {"n": 2})
            assert (await load(store)).data == {"n": 2}


# --- many callers


async def test_client_executor_queues_callers_beyond_its_connections(newest_url: str, prefix: str) -> None:
    # redis-py's default pool has 100 connections and an error for the 101st caller.
    async with redis.asyncio.Redis.from_url(newest_url) as client, SessionStore(client, prefix=prefix) as store:
        await asyncio.gather(*(store.update(n, "c", {"n": n}) for n in range(2000)))
        sessions = await asyncio.gather(*(store.get(n, "c", touch=True) for n in range(2000)))
        assert [session and session.data for session in sessions] == [{"n": n} for n in range(2000)]
        assert len(await client.client_list()) < 100


async def test_client_executor_works_with_one_connection(newest_url: str, prefix: str) -> None:
    async with (
        redis.asyncio.Redis.from_url(newest_url, max_connections=1) as client,
        SessionStore(client, prefix=prefix) as store,
    ):
        await asyncio.gather(*(store.update("u", n, {"n": n}) for n in range(50)))
        assert len(await store.channels("u")) == 50


async def test_client_executor_keeps_replies_of_cancelled_calls_apart(newest_url: str, prefix: str) -> None:
    dice = random.Random(7)  # noqa: S311 - a test that can be repeated
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        for user in range(40):
            await store.update(user, "c", {"me": user, "n": 0})

        async def caller(user: int) -> int:
            cancelled = 0
            for n in range(50):
                call = asyncio.ensure_future(
                    store.get(user, "c", touch=n % 2 == 0) if n % 3 else store.modify(user, "c", append)
                )
                if dice.random() < 0.5:
                    asyncio.get_running_loop().call_later(dice.random() * 0.005, call.cancel)
                try:
                    session = await call
                except asyncio.CancelledError:
                    cancelled += 1
                else:
                    assert session is not None
                    assert (session.user_id, session.data["me"]) == (str(user), user)
            return cancelled

        assert sum(await asyncio.gather(*map(caller, range(40)))) > 0
        for user in range(40):
            assert (await load(store, user)).data["me"] == user


async def test_client_executor_cancels_calls(newest_url: str, prefix: str) -> None:
    dice = random.Random(7)  # noqa: S311 - a test that can be repeated
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        await store.update("u", "c", {"n": 1})
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.get("u", "c"),
            lambda: store.get("u", "c", touch=True),
            lambda: store.update("u", "c", {"n": 2}),
        ]
        for n in range(600):
            call = asyncio.ensure_future(calls[n % 3]())
            for _ in range(dice.randrange(12)):
                await asyncio.sleep(0)
            if call.cancel():
                # Neither the store nor the client below has caught it.
                with pytest.raises(asyncio.CancelledError):
                    await call
        assert await store.get("u", "c")


# --- closing


async def test_client_store_aclose_finishes_calls_in_flight(newest_url: str, prefix: str) -> None:
    store = SessionStore.from_url(newest_url, prefix=prefix)
    calls = [asyncio.create_task(store.update("u", n, {"n": n})) for n in range(200)]
    # Let them begin.
    await asyncio.sleep(0)
    await store.aclose()
    await store.aclose()
    assert all([await call > 0 for call in calls])
    for late in (store.get("u", 1), store.update("u", 1, {}), store.clear("u"), store.size()):
        with pytest.raises(SessionError, match="closed"):
            await late


async def test_store_aclose_leaves_clients_open(newest_url: str, prefix: str) -> None:
    async with redis.asyncio.Redis.from_url(newest_url, client_name=f"{prefix}mine") as client:

        async def named(name: str) -> int:
            return len([item for item in await client.client_list() if item["name"] == name])

        async with SessionStore.from_url(newest_url, prefix=prefix, client_name=f"{prefix}own") as store:
            await asyncio.gather(*(store.update("u", n, {"n": n}) for n in range(20)))
            assert await named(f"{prefix}own") > 0

        async def all_closed() -> bool:
            return await named(f"{prefix}own") == 0

        await eventually(all_closed)
        async with SessionStore(client, prefix=prefix) as store:
            await store.get("u", "c")
        assert await client.ping()


# --- clients and URLs


async def test_store_refuses_unsuitable_clients() -> None:
    with pytest.raises(ValueError, match="decode_responses=True"):
        SessionStore(redis.asyncio.Redis(decode_responses=True))
    with pytest.raises(ValueError, match="decode_responses=True"):
        SessionStore(fakeredis.FakeAsyncRedis(decode_responses=True))
    with pytest.raises(ValueError, match="decode_responses=True"):
        SessionStore.from_url("redis://127.0.0.1", decode_responses=True)  # type: ignore[call-arg] # refused, at run time as well
    with pytest.raises(TypeError, match="synchronous"):
        SessionStore(redis.Redis())  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError, match="synchronous"):
        SessionStore(fakeredis.FakeRedis())  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError, match="from_url"):
        SessionStore("redis://127.0.0.1")  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError, match="RedisCluster is a synchronous"):
        SessionStore(redis.RedisCluster.__new__(redis.RedisCluster))  # type: ignore[arg-type] # on purpose
    with pytest.raises(ValueError, match="decode_responses"):
        SessionStore(redis.asyncio.RedisCluster("127.0.0.1", 1, decode_responses=True))
    with pytest.raises(TypeError, match="NoneType"):
        SessionStore(None)  # type: ignore[arg-type] # on purpose
    with pytest.raises(ValueError, match="scheme"):
        SessionStore.from_url("http://127.0.0.1")


@pytest.mark.parametrize("bad", ["{", "}", "*", "?", "[a]", "a\\"])
def test_store_refuses_ambiguous_prefixes(bad: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        SessionStore(redis.asyncio.Redis(), prefix=f"bot{bad}:")


def test_store_refuses_bad_settings() -> None:
    client = redis.asyncio.Redis()
    for ttl in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="ttl"):
            SessionStore(client, ttl=ttl)
    with pytest.raises(TypeError, match="ttl"):
        SessionStore(client, ttl="60")  # type: ignore[arg-type] # on purpose
    with pytest.raises(ValueError, match="max_bytes"):
        SessionStore(client, max_bytes=0)
    with pytest.raises(TypeError, match="prefix"):
        SessionStore(client, prefix=b"bot:")  # type: ignore[arg-type] # on purpose


async def test_from_url_uses_user_password_and_database(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with LocalServer(find_server(), tcp=True, options=["--requirepass", "pa%ss"]) as server:
        host = server.url.removeprefix("redis://").removesuffix("/0")
        async with SessionStore.from_url(f"redis://:pa%25ss@{host}/5", prefix=prefix) as store:
            await store.update("u", "c", {"n": 1})
            assert "pa%" not in repr(store)
        async with redis.asyncio.Redis.from_url(f"redis://default:pa%25ss@{host}/5") as client:
            assert await client.dbsize() == 2
        async with SessionStore.from_url(f"redis://{host}/5") as store:
            with pytest.raises(redis.AuthenticationError):
                await store.update("u", "c", {"n": 1})
        async with SessionStore.from_url(f"redis://:wrong-secret@{host}/5") as store:
            with pytest.raises(redis.AuthenticationError) as caught:
                await store.get("u", "c")
            assert "wrong-secret" not in str(caught.value)
    assert "pa%" not in caplog.text


async def test_from_url_connects_to_a_unix_socket() -> None:
    with LocalServer(find_server()) as server:
        assert server.url.startswith("unix://")
        async with SessionStore.from_url(server.url) as store:
            await store.update("u", "c", {"n": 1})
            assert (await load(store)).data == {"n": 1}
