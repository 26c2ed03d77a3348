"""The synchronous store: the contract, threads, forks, interrupts and lost connections."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import fakeredis
import pytest
import redis
import redis.asyncio
import redis.sentinel

from redis_botsession import BotSession, BotSessionStore, Codec, OutcomeUnknown, SessionError, SessionGone, sync
from redis_botsession.embedded import LocalServer, find_server
from redis_botsession.testing import StoreContract
from redis_botsession.testing.harness import eventually

from ..support.processes import paused
from ..support.proxy import ReplyLosingProxy
from ..support.redis_servers import SERVERS, locate_or_skip
from ..support.sync_store_as_async import ThreadedStore
from ..support.topologies import SentinelServers

MEBIBYTE = 1024 * 1024


class TestFromUrl(StoreContract):
    """The contract, on each server."""

    @pytest.fixture(autouse=True)
    def _server(self, url: str, prefix: str) -> None:
        self.url, self.prefix = url, prefix

    def make_store(self, *, max_bytes: int = MEBIBYTE, **options: Any) -> BotSessionStore:
        store = sync.SessionStore.from_url(self.url, prefix=self.prefix, max_bytes=max_bytes, **options)
        return ThreadedStore(store, max_bytes)


class TestFakeredis(StoreContract):
    """The contract, on a client of the user's."""

    def make_store(self, *, max_bytes: int = MEBIBYTE, **options: Any) -> BotSessionStore:
        return ThreadedStore(sync.SessionStore(fakeredis.FakeRedis(), max_bytes=max_bytes, **options), max_bytes)


@pytest.fixture
def blocking(newest_url: str, prefix: str) -> Iterator[sync.SessionStore]:
    with sync.SessionStore.from_url(newest_url, prefix=prefix) as store:
        yield store


def data_of(store: sync.SessionStore, user_id: str = "u", channel_id: str = "c") -> dict[str, Any]:
    session = store.get(user_id, channel_id)
    assert session is not None
    return session.data


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Runs ``work(0)``, ``work(1)``, ... in threads that begin together."""
    barrier = threading.Barrier(count)

    def begin(n: int) -> None:
        barrier.wait()
        work(n)

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(begin, range(count)))


def test_sync_live_session_saves_changes(blocking: sync.SessionStore) -> None:
    with blocking.session("u", "c") as session:
        session.data["cart"] = [{"n": 1}]
        session.update({"step": "name"})
        assert data_of(blocking) == {"cart": [{"n": 1}], "step": "name"}
        session.data["cart"][0]["n"] = 2
    assert data_of(blocking) == {"cart": [{"n": 2}], "step": "name"}
    with pytest.raises(LookupError), blocking.session("u", "c") as session:
        session.data["step"] = "lost"
        raise LookupError
    assert data_of(blocking)["step"] == "name"
    with pytest.raises(SessionGone), blocking.session("u", "c") as session:
        blocking.delete("u", "c")
        session.data["step"] = "late"
    assert blocking.get("u", "c") is None
    assert list(blocking.scan()) == []


def test_sync_keeps_changes_of_all_threads(blocking: sync.SessionStore) -> None:
    def count(session: BotSession) -> None:
        session.data["count"] = session.data.get("count", 0) + 1

    def work(thread: int) -> None:
        for n in range(20):
            blocking.update("u", "c", {f"{thread}-{n}": n})
            blocking.modify("u", "c", count)
            with blocking.session("u", "c") as session:
                session.data.setdefault(f"own-{thread}", []).append(n)

    in_threads(8, work)
    expected: dict[str, Any] = {f"{thread}-{n}": n for thread in range(8) for n in range(20)}
    own = {f"own-{thread}": list(range(20)) for thread in range(8)}
    assert data_of(blocking) == {**expected, **own, "count": 160}


def test_sync_live_session_can_be_shared_by_threads(blocking: sync.SessionStore) -> None:
    with blocking.session("u", "c") as session:
        in_threads(8, lambda n: session.update({str(n): n}))
    assert data_of(blocking) == {str(n): n for n in range(8)}


def test_sync_codec_can_be_shared_by_threads(prefix: str, newest_url: str) -> None:
    class Slow:
        """Lets other threads run in the middle of packing it."""

    codec = Codec()
    turns = threading.Barrier(2)
    codec.register(Slow, encode=lambda _: turns.wait(), decode=lambda _: Slow())
    with sync.SessionStore.from_url(newest_url, prefix=prefix, codec=codec) as store:
        in_threads(2, lambda n: store.update(n, "c", {"a": [n] * 50, "slow": [n, Slow(), n], "z": {n: n}}))
        for n in range(2):
            data = data_of(store, str(n))
            assert (data["a"], data["slow"][0], data["slow"][2], data["z"]) == ([n] * 50, n, n, {n: n})


def test_sync_threads_wait_for_a_free_connection(newest_url: str, prefix: str) -> None:
    with redis.Redis.from_url(newest_url, max_connections=2) as client, sync.SessionStore(client, prefix=prefix) as store:
        in_threads(16, lambda n: [store.update(n, "c", {"n": m}) for m in range(10)])
        assert store.size() == 16


def test_sync_works_in_parent_and_child_after_a_fork(newest_url: str, prefix: str) -> None:
    code = """
import os, sys
from redis_botsession import sync

store = sync.SessionStore.from_url(sys.argv[1], prefix=sys.argv[2])
store.update("u", "c", {"parent": 1})
child = os.fork()
for n in range(100):
    store.update("u", "c", {f"{'parent' if child else 'child'}-{n}": n})
    assert store.get("u", "c").data["parent"] == 1
if not child:
    os._exit(0)
_, status = os.waitpid(child, 0)
print(len(store.get("u", "c").data), status)
"""
    run = subprocess.run([sys.executable, "-c", code, newest_url, prefix], capture_output=True, text=True, check=True)
    assert run.stdout == "201 0\n"


def test_sync_fork_does_not_inherit_a_busy_connection(newest_url: str, prefix: str) -> None:
    code = """
import os, sys, threading
from redis_botsession import sync

store = sync.SessionStore.from_url(sys.argv[1], prefix=sys.argv[2], max_connections=1)
inside, go_on = threading.Event(), threading.Event()

def slow(session):
    session.data["parent"] = 1
    inside.set()
    go_on.wait()

thread = threading.Thread(target=store.modify, args=("u", "c", slow))
thread.start()
inside.wait()
child = os.fork()
if not child:
    store.modify("u", "c", lambda session: session.data.update(child=1))
    store.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
go_on.set()
thread.join()
print(sorted(store.get("u", "c").data), status)
"""
    arguments = [sys.executable, "-W", "ignore", "-c", code, newest_url, prefix]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "['child', 'parent'] 0\n"


class Interruptible(redis.Connection):
    """A connection that is interrupted, as if by Ctrl-C, before a given reply."""

    before_reply = 0
    interrupt: type[BaseException] = KeyboardInterrupt

    def read_response(self, *args: Any, **options: Any) -> Any:
        kind = type(self)
        kind.before_reply -= 1
        if kind.before_reply == 0:
            raise kind.interrupt
        return super().read_response(*args, **options)


@pytest.mark.parametrize("before_reply", [1, 2])
def test_sync_interrupted_call_leaves_no_reply_behind(before_reply: int) -> None:
    with (
        LocalServer(find_server(), tcp=True) as server,
        redis.Redis(connection_pool=redis.ConnectionPool.from_url(server.url, connection_class=Interruptible)) as client,
        sync.SessionStore(client) as store,
        ThreadPoolExecutor(1) as thread,
    ):
        for user in ("a", "b"):
            store.update(user, "c", {"whose": user})
            store.get(user, "c", touch=True)
        Interruptible.before_reply = before_reply
        if before_reply == 1:
            with paused(server), pytest.raises(KeyboardInterrupt):
                store.get("a", "c", touch=True)
        else:
            with pytest.raises(KeyboardInterrupt):
                store.get("a", "c", touch=True)
        assert [thread.submit(data_of, store, user).result() for user in "bab"] == [{"whose": user} for user in "bab"]


def test_sync_timeout_of_a_signal_handler_leaves_no_reply_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the handler of an alarm raises mostly.
    monkeypatch.setattr(Interruptible, "interrupt", TimeoutError)
    with (
        LocalServer(find_server(), tcp=True) as server,
        redis.Redis(connection_pool=redis.ConnectionPool.from_url(server.url, connection_class=Interruptible)) as client,
        sync.SessionStore(client) as store,
        ThreadPoolExecutor(1) as thread,
    ):
        store.update("b", "c", {"n": 1})
        Interruptible.before_reply = 1
        with paused(server), pytest.raises(OutcomeUnknown):
            store.update("a", "c", {"n": 1})
        version = thread.submit(store.update, "b", "c", {"n": 2}).result()
        session = store.get("b", "c")
        assert session is not None
        assert (session.data, session.version) == ({"n": 2}, version)


# --- the reply is lost


@pytest.fixture
async def proxy(newest_url: str) -> AsyncIterator[ReplyLosingProxy]:
    async with ReplyLosingProxy(newest_url) as proxy:
        yield proxy


def append(session: BotSession) -> None:
    session.data["n"] = session.data.get("n", 0) + 1


WRITES: dict[str, Callable[[sync.SessionStore], object]] = {
    "set": lambda store: store.set("u", "c", BotSession("u", "c", {"n": 2})),
    "update": lambda store: store.update("u", "c", {"n": 2}),
    "update_and_get": lambda store: store.update_and_get("u", "c", {"n": 2}),
    "replace": lambda store: store.replace("u", "c", {"n": 2}),
    "modify": lambda store: store.modify("u", "c", append),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_sync_does_not_resend_a_write(
    write: Callable[[sync.SessionStore], object], blocking: sync.SessionStore, proxy: ReplyLosingProxy, prefix: str
) -> None:
    # The scripts are loaded: a NOSCRIPT would be the reply that is lost.
    write(blocking)
    # redis-py's own default sends again, ten times.
    with redis.Redis.from_url(proxy.url) as client, sync.SessionStore(client, prefix=prefix) as flaky:
        await asyncio.to_thread(flaky.set, "u", "c", BotSession("u", "c", {"n": 1}))
        proxy.needle, proxy.lose_replies = b"EVALSHA", 10
        with pytest.raises(OutcomeUnknown) as caught:
            await asyncio.to_thread(write, flaky)
        assert proxy.lose_replies == 9
        assert isinstance(caught.value.__cause__, redis.ConnectionError)
        assert data_of(blocking) == {"n": 2}


async def test_sync_resends_calls_that_are_safe_to_repeat(
    blocking: sync.SessionStore, proxy: ReplyLosingProxy, prefix: str
) -> None:
    blocking.update("u", "c", {"n": 1})
    blocking.touch("u", "c")
    calls: list[tuple[Callable[[sync.SessionStore], object], object]] = [
        (lambda store: data_of(store), {"n": 1}),
        (lambda store: store.touch("u", "c"), True),
        (lambda store: store.channels("u"), ["c"]),
        (lambda store: store.size(), 1),
        (lambda store: store.delete("u", "none"), False),
    ]
    blocking.delete("u", "none")
    with sync.SessionStore.from_url(proxy.url, prefix=prefix) as flaky:
        # What is lost is to be a reply to a command, not one to the handshake.
        await asyncio.to_thread(flaky.touch, "u", "c")
        for call, result in calls:
            proxy.lose_replies = 1
            assert await asyncio.to_thread(call, flaky) == result
            assert proxy.lose_replies == 0


def test_sync_loads_scripts_again_after_a_flush(newest_url: str, blocking: sync.SessionStore) -> None:
    for n in range(2):
        with redis.Redis.from_url(newest_url) as client:
            client.script_flush()
        blocking.update("u", "c", {str(n): n})
    assert data_of(blocking) == {"0": 0, "1": 1}


def test_sync_reconnects_to_a_restarted_server() -> None:
    with LocalServer(find_server(), tcp=True) as server:
        port = int(server.url.rsplit(":", 1)[1].split("/")[0])
        store = sync.SessionStore.from_url(server.url)
        store.update("u", "c", {"n": 1})
    with LocalServer(find_server(), tcp=port):
        assert store.get("u", "c") is None
        store.update("u", "c", {"n": 2})
        assert data_of(store) == {"n": 2}
        store.close()


def test_sync_durable_write_over_a_unix_socket() -> None:
    with LocalServer(find_server()) as server, sync.SessionStore.from_url(server.url, replicas=1, wait_timeout=0.01) as store:
        with pytest.raises(SessionError, match="0 of 1 replicas"):
            store.update("u", "c", {"n": 1})
        assert data_of(store) == {"n": 1}


async def test_sync_follows_a_sentinel_failover() -> None:
    newest = next(server for server in SERVERS if server.id == "redis-8.2")
    with SentinelServers(*locate_or_skip(newest)) as servers, sync.SessionStore.from_url(servers.url) as store:
        store.update("u", "c", {"n": 1})
        await servers.failover()
        deadline = asyncio.get_running_loop().time() + 30
        while True:
            try:
                # The old primary refuses, or is left by then.
                await asyncio.to_thread(store.update, "u", "c", {"n": 2})
            except (redis.RedisError, OutcomeUnknown):
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
            else:
                break
        assert (await asyncio.to_thread(data_of, store)) == {"n": 2}


# --- what it refuses


@pytest.mark.parametrize(
    ("client", "words"),
    [
        (redis.asyncio.Redis(), "asynchronous client.*redis_botsession.SessionStore"),
        (fakeredis.FakeAsyncRedis(), "asynchronous client"),
        ("redis://localhost", "from_url"),
        (None, "redis.Redis, not NoneType"),
    ],
    ids=["asyncio", "fake asyncio", "url", "None"],
)
def test_sync_refuses_other_kinds_of_client(client: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        sync.SessionStore(client)


def test_sync_refuses_bad_options_and_urls() -> None:
    with pytest.raises(ValueError, match="decode_responses"):
        sync.SessionStore(redis.Redis(decode_responses=True))
    with pytest.raises(ValueError, match="decode_responses"):
        sync.SessionStore.from_url("redis://localhost", decode_responses=True)  # type: ignore[call-arg] # refused, at run time as well
    with pytest.raises(TypeError, match="nonsense"):
        sync.SessionStore.from_url("redis://localhost", nonsense=1)  # type: ignore[call-arg] # refused, at run time as well
    with pytest.raises(ValueError, match="one server"):
        sync.SessionStore.from_url("redis+cluster://localhost:7000/")
    with pytest.raises(ValueError, match="cannot be read"):
        sync.SessionStore.from_url("redis://:pass/word@localhost/0")
    with pytest.raises(ValueError, match="socket_timeout"):
        sync.SessionStore.from_url("redis://localhost", replicas=1, wait_timeout=60)


def test_sync_modify_refuses_a_coroutine_function(blocking: sync.SessionStore) -> None:
    async def change(session: BotSession) -> None:
        session.data["n"] = 1

    with pytest.raises(TypeError, match="plain function"):
        blocking.modify("u", "c", cast("Any", change))
    assert blocking.get("u", "c") is None


def test_sync_refuses_calls_when_closed(newest_url: str, prefix: str) -> None:
    store = sync.SessionStore.from_url(newest_url, prefix=prefix)
    store.update("u", "c", {"n": 1})
    store.close()
    store.close()
    with pytest.raises(SessionError, match="closed"):
        store.get("u", "c")


async def test_sync_close_leaves_no_connection() -> None:
    with LocalServer(find_server(), tcp=True) as server, redis.Redis.from_url(server.url) as watcher:
        store = sync.SessionStore.from_url(server.url)
        in_threads(4, lambda n: store.update(n, "c", {"n": 1}))
        assert len(watcher.client_list()) > 1
        store.close()

        async def is_alone() -> bool:
            return len(watcher.client_list()) == 1

        await eventually(is_alone)


def test_sync_close_leaves_a_given_client_open(newest_url: str, prefix: str) -> None:
    with redis.Redis.from_url(newest_url) as client:
        with sync.SessionStore(client, prefix=prefix) as store:
            store.update("u", "c", {"n": 1})
        assert client.ping()


def test_sync_shows_no_password() -> None:
    with sync.SessionStore.from_url("redis://:hidden@127.0.0.1:1/0", retry=None) as store:  # type: ignore[call-arg] # redis-py's, not in the TypedDict
        with pytest.raises(redis.ConnectionError) as caught:
            store.get("u", "c")
        assert "hidden" not in f"{caught.value} {store!r}"
        assert repr(store) == "<sync.SessionStore prefix='bot:session:'>"


async def test_sync_store_session_in_an_async_with_says_what_to_do() -> None:
    with sync.SessionStore.from_url("redis://localhost:6379/0") as store, pytest.raises(TypeError, match=r"plain 'with'"):
        async with store.session(1, 2):  # type: ignore[attr-defined] # on purpose
            pass


def test_sync_modify_refuses_a_function_that_returns_the_new_data(newest_url: str, prefix: str) -> None:
    with sync.SessionStore.from_url(newest_url, prefix=prefix) as store:
        store.update(1, 2, {"a": 1})
        with pytest.raises(TypeError, match=r"must change session\.data in place"):
            store.modify(1, 2, lambda session: {**session.data, "b": 2})  # type: ignore[arg-type] # on purpose
        session = store.get(1, 2)
        assert session is not None
        assert session.data == {"a": 1}
