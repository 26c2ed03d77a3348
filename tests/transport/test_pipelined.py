"""Stores from a URL: what their pipelined connections send, what they live through, and how they end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import uvloop

from redis_botsession import OutcomeUnknown, SessionError, SessionStore
from redis_botsession._protocol.scripts import SCRIPTS
from redis_botsession.embedded import LocalServer, find_server
from redis_botsession.testing.harness import eventually, load

from ..support.processes import free_port, kill, paused

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


# --- what is sent


async def test_connection_sends_one_tick_in_one_write(newest_url: str, prefix: str) -> None:
    async with redis.asyncio.Redis.from_url(newest_url) as client, SessionStore.from_url(newest_url, prefix=prefix) as store:
        await asyncio.gather(*(store.update("u", n, {"n": n}) for n in range(50)))
        before = (await client.info("stats"))["total_reads_processed"]
        sessions = await asyncio.gather(*(store.get("u", n) for n in range(50)))
        after = (await client.info("stats"))["total_reads_processed"]
        assert [session and session.data["n"] for session in sessions] == list(range(50))
        # One read of the second INFO itself.
        assert after - before == 2


async def test_server_executor_keeps_a_users_commands_in_order(newest_url: str, prefix: str) -> None:
    async with SessionStore.from_url(newest_url, prefix=prefix, max_connections=4) as store:
        versions = await asyncio.gather(*(store.update("u", "c", {"n": n}) for n in range(500)))
        assert versions == sorted(versions)
        writing = asyncio.create_task(store.update("u", "c", {"n": "last"}))
        reading = asyncio.create_task(store.get("u", "c"))
        await writing
        session = await reading
        assert session is not None
        assert session.data == {"n": "last"}


async def test_connection_loads_scripts_first() -> None:
    with LocalServer(find_server(), tcp=True) as server:
        async with redis.asyncio.Redis.from_url(server.url) as client, SessionStore.from_url(server.url) as store:
            assert await store.get("u", "c") is None
            scripts = {name: script.sha.decode() for name, script in SCRIPTS.items()}
            known = dict(zip(scripts, await client.script_exists(*scripts.values()), strict=True))
            assert {name for name, is_known in known.items() if is_known} == {
                name for name, script in SCRIPTS.items() if script.preload
            }


@pytest.mark.parametrize("connections", [1, 3])
async def test_server_executor_shares_connections(connections: int, newest_url: str, prefix: str) -> None:
    name = prefix.replace(":", "-")
    async with (
        redis.asyncio.Redis.from_url(newest_url) as client,
        SessionStore.from_url(newest_url, prefix=prefix, max_connections=connections, client_name=name) as store,
    ):
        await asyncio.gather(*(store.update(n, "c", {"n": n}) for n in range(5000)))
        sessions = await asyncio.gather(*(store.get(n, "c") for n in range(5000)))
        assert [session and session.data["n"] for session in sessions] == list(range(5000))
        assert len([item for item in await client.client_list() if item["name"] == name]) == connections


async def test_connection_queues_callers_beyond_max_in_flight(newest_url: str, prefix: str) -> None:
    async with SessionStore.from_url(newest_url, prefix=prefix, max_in_flight=1) as store:
        await asyncio.gather(*(store.update(n, "c", {"n": n}) for n in range(300)))
        sessions = await asyncio.gather(*(store.get(n, "c", touch=True) for n in range(300)))
        assert [session and session.data["n"] for session in sessions] == list(range(300))


async def exercise(store: SessionStore) -> None:
    """A bit of everything, on several connections."""
    async with store:
        await asyncio.gather(*(store.update(user, "c", {"n": user, "raw": b"\xff" * 100_000}) for user in range(20)))
        sessions = await asyncio.gather(*(store.get(user, "c", touch=True) for user in range(20)))
        assert [session and session.data["n"] for session in sessions] == list(range(20))
        async with store.session("u", "c") as session:
            session.data["name"] = "Ada"
        assert (await load(store)).data == {"name": "Ada"}
        assert await store.clear("u") == 1
        assert await store.size() == 20


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("loop", LOOPS)
def test_connection_works_on_loops_protocols_sockets_and_databases(loop: str, protocol: int, url: str, prefix: str) -> None:
    user = f"user-{prefix[5:13]}"
    with redis.Redis.from_url(url) as admin:
        admin.acl_setuser(user, enabled=True, passwords=["+pass word"], keys=["*"], commands=["+@all"])
    address = url.removeprefix("redis://").removesuffix("/0")
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner, LocalServer(find_server()) as local:
        runner.run(exercise(SessionStore.from_url(url, prefix=prefix, protocol=protocol)))
        runner.run(exercise(SessionStore.from_url(f"redis://{user}:pass%20word@{address}/3", prefix=prefix, protocol=protocol)))
        runner.run(exercise(SessionStore.from_url(local.url, prefix=prefix, protocol=protocol)))
    with redis.Redis.from_url(url) as admin:
        admin.acl_deluser(user)


# --- what it lives through


async def test_connection_waits_for_a_starting_server() -> None:
    port = free_port()
    async with SessionStore.from_url(f"redis://127.0.0.1:{port}/0", timeout=60) as store:
        writing = [asyncio.create_task(store.update("u", n, {"n": n})) for n in range(20)]
        await asyncio.sleep(0)
        with LocalServer(find_server(), tcp=port):
            versions = await asyncio.gather(*writing)
            assert all(versions)
            assert sorted(map(int, await store.channels("u"))) == list(range(20))


async def test_connection_restart_keeps_reads_and_repeats_no_write(tmp_path: Path) -> None:
    port = free_port()
    applied: list[int] = []
    unknown = 0

    async def write(store: SessionStore) -> None:
        nonlocal unknown
        for number in range(400):
            try:
                applied.append(await store.update(number % 7, "c", {f"k{number}": number}))
            except OutcomeUnknown:
                unknown += 1

    async def read(store: SessionStore, done: asyncio.Event) -> None:
        while not done.is_set():
            await store.get(3, "c", touch=True)
            await store.channels(4)

    server = LocalServer(find_server(), tcp=port, data=tmp_path)
    server.start()
    try:
        # One connection: of several, one may be lost before the others, and the next write be sent on one of these.
        async with SessionStore.from_url(server.url, timeout=60, max_connections=1) as store:
            done = asyncio.Event()
            writing = asyncio.create_task(write(store))
            reading = [asyncio.create_task(read(store, done)) for _ in range(20)]
            for restarts in range(1, 4):

                async def went_on(count: int = 100 * restarts) -> bool:
                    return len(applied) >= count

                await eventually(went_on)
                await asyncio.to_thread(kill, server)
                server = LocalServer(find_server(), tcp=port, data=tmp_path)
                await asyncio.to_thread(server.start)
            await writing
            done.set()
            await asyncio.gather(*reading)
            # One caller at a time: no more than one write is in doubt at each restart.
            assert unknown <= 3
            assert len(applied) + unknown == 400
            assert len(set(applied)) == len(applied)
            found = sum([len((await load(store, user)).data) for user in range(7)])
            assert len(applied) <= found <= 400
    finally:
        server.stop()


async def test_connection_survives_passed_deadlines() -> None:
    with LocalServer(find_server(), tcp=True) as server:
        async with (
            redis.asyncio.Redis.from_url(server.url) as client,
            SessionStore.from_url(server.url, timeout=0.3, socket_timeout=30, max_connections=1, client_name="it") as store,
        ):
            await store.update("a", "c", {"me": "a"})
            await store.update("b", "c", {"me": "b"})
            ids = [item["id"] for item in await client.client_list() if item["name"] == "it"]
            with paused(server):
                with pytest.raises(redis.TimeoutError, match=r"get of .*\{a\}:c: no reply within 0\.3 s"):
                    await store.get("a", "c")
                with pytest.raises(OutcomeUnknown) as caught:
                    await store.update("a", "c", {"more": 1})
                assert isinstance(caught.value.__cause__, redis.TimeoutError)
            assert (await load(store, "b")).data == {"me": "b"}
            # It did arrive, once.
            assert (await load(store, "a")).data == {"me": "a", "more": 1}
            assert ids == [item["id"] for item in await client.client_list() if item["name"] == "it"]


async def test_connection_does_not_send_expired_calls() -> None:
    with LocalServer(find_server(), tcp=True) as server:
        url = server.url
        async with SessionStore.from_url(url, timeout=0.3, socket_timeout=30, max_connections=1, max_in_flight=1) as store:
            await store.update("u", "c", {"n": 0})
            with paused(server):
                calls = [store.update("u", "c", {"n": n}) for n in range(1, 6)]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] + 4 * [redis.TimeoutError]
                assert "not sent" in str(outcomes[1])
            assert (await load(store)).data == {"n": 1}


async def test_connection_waits_for_a_loading_server(tmp_path: Path) -> None:
    slowly = ["--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"]
    with LocalServer(find_server(), tcp=True, data=tmp_path) as server:
        async with SessionStore.from_url(server.url) as store:
            await asyncio.gather(*(store.update(n, "c", {"n": n}) for n in range(1000)))
    port = free_port()
    server = LocalServer(find_server(), tcp=port, data=tmp_path, options=slowly)
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    try:
        async with (
            redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{port}/0") as client,
            SessionStore.from_url(f"redis://127.0.0.1:{port}/0", timeout=60) as store,
        ):

            async def is_loading() -> bool:
                try:
                    await client.ping()
                except redis.exceptions.BusyLoadingError:
                    return True
                except redis.ConnectionError:
                    return False
                pytest.fail("it has loaded too fast for this test")

            await eventually(is_loading)
            assert (await load(store, 7)).data == {"n": 7}
            await starting
    finally:
        await asyncio.wait([starting])
        server.stop()


async def test_connection_waits_at_maxclients(caplog: pytest.LogCaptureFixture) -> None:
    with LocalServer(find_server(), tcp=True) as server:
        async with (
            redis.asyncio.Redis.from_url(server.url, max_connections=1) as client,
            SessionStore.from_url(server.url, timeout=0.3) as impatient,
            SessionStore.from_url(server.url, timeout=60) as patient,
        ):
            await client.config_set("maxclients", 1)
            with pytest.raises(redis.ConnectionError, match=r"max number of clients|Connection lost"):
                await impatient.update("u", "c", {"n": 1})
            writing = asyncio.create_task(patient.update("u", "c", {"n": 2}))

            async def was_refused() -> bool:
                return bool((await client.info("stats"))["rejected_connections"] > 2)

            await eventually(was_refused)
            await client.config_set("maxclients", 100)
            assert await writing
            assert "cannot connect to 127.0.0.1" in caplog.text


async def test_connection_closed_while_idle_is_no_error(newest_url: str, prefix: str) -> None:
    async with redis.asyncio.Redis.from_url(newest_url) as client, SessionStore.from_url(newest_url, prefix=prefix) as store:
        for number in range(3):
            await store.update("u", "c", {"n": number})
            await client.client_kill_filter(_type="normal", skipme=True)

            async def was_noticed() -> bool:
                return len(await client.client_list()) == 1

            await eventually(was_noticed)
            # A read may be sent again, should this side not have noticed yet.
            assert (await load(store)).data == {"n": number}


# --- how it ends


async def test_server_executor_aclose_leaves_no_task(newest_url: str, prefix: str) -> None:
    before = asyncio.all_tasks()
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        await asyncio.gather(*(store.update(n, "c", {"n": n}) for n in range(50)))
    assert asyncio.all_tasks() == before
    unused = SessionStore.from_url(newest_url)
    await unused.aclose()
    assert asyncio.all_tasks() == before


async def test_server_executor_aclose_waits_until_deadlines() -> None:
    before = asyncio.all_tasks()
    store = SessionStore.from_url(f"redis://127.0.0.1:{free_port()}/0", timeout=0.2)
    call = asyncio.create_task(store.update("u", "c", {"n": 1}))
    await asyncio.sleep(0)
    await store.aclose()
    with pytest.raises(redis.ConnectionError):
        await call
    assert asyncio.all_tasks() == before


async def test_server_executor_cancelled_aclose_ends_calls() -> None:
    with LocalServer(find_server(), tcp=True) as server:
        store = SessionStore.from_url(server.url, timeout=600, socket_timeout=600)
        await store.update("u", "c", {"n": 1})
        with paused(server):
            writing = asyncio.create_task(store.update("u", "c", {"n": 2}))
            reading = asyncio.create_task(store.get("u", "c"))
            closing = asyncio.create_task(store.aclose())
            # Both are sent, and waited for, within a few ticks of the event loop.
            for _ in range(5):
                await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            with pytest.raises(OutcomeUnknown):
                await writing
            with pytest.raises(redis.ConnectionError, match="closed"):
                await reading


def use(store: SessionStore) -> Coroutine[Any, Any, object]:
    return store.update("u", "c", {"n": 1})


class OnAClient(SessionStore):
    """Closes the client, too."""

    def __init__(self, client: redis.asyncio.Redis, *, prefix: str) -> None:
        super().__init__(client, prefix=prefix)
        self.client = client

    async def aclose(self) -> None:
        await super().aclose()
        await self.client.aclose()


def made_from_url(url: str, prefix: str) -> SessionStore:
    return SessionStore.from_url(url, prefix=prefix)


def made_of_a_client(url: str, prefix: str) -> SessionStore:
    return OnAClient(redis.asyncio.Redis.from_url(url), prefix=prefix)


MAKERS: list[Callable[[str, str], SessionStore]] = [made_from_url, made_of_a_client]


@pytest.mark.parametrize("make", MAKERS)
def test_store_refuses_another_event_loop(make: Callable[[str, str], SessionStore], newest_url: str, prefix: str) -> None:
    store = make(newest_url, prefix)
    with asyncio.Runner() as first:
        first.run(use(store))
        calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: use(store),
            lambda: store.get("u", "c", touch=True),
            lambda: store.clear("u"),
            store.aclose,
        ]
        with asyncio.Runner() as second:
            for call in calls:
                with pytest.raises(SessionError, match="another event loop"):
                    second.run(call())
        first.run(use(store))
        first.run(store.aclose())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # what is tested
@pytest.mark.parametrize("make", MAKERS)
async def test_store_refuses_a_forked_process(make: Callable[[str, str], SessionStore], newest_url: str, prefix: str) -> None:
    async with make(newest_url, prefix) as store:
        await store.update("u", "c", {"n": 1})
        call = store.get("u", "c")
        child = os.fork()
        if child == 0:
            outcome = 1
            try:
                call.send(None)
            except SessionError as error:
                outcome = 0 if "after a fork" in str(error) else 2
            finally:
                os._exit(outcome)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await call
        assert (await load(store)).data == {"n": 1}


# --- settings


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": "soon"}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"max_connections": 0}, ValueError),
        ({"max_in_flight": -1}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_from_url_refuses_bad_settings(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        SessionStore.from_url("redis://127.0.0.1", **settings)


async def test_from_url_settings_in_the_url_win(newest_url: str, prefix: str) -> None:
    url = f"{newest_url}?max_connections=1&timeout=7&max_in_flight=3&protocol=2&client_name={prefix[5:13]}"
    async with redis.asyncio.Redis.from_url(newest_url) as client, SessionStore.from_url(url, max_connections=4) as store:
        await asyncio.gather(*(store.get(n, "c") for n in range(100)))
        (mine,) = [item for item in await client.client_list() if item["name"] == prefix[5:13]]
        assert mine["resp"] == "2"


async def test_connection_logs_no_password_and_no_data(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with SessionStore.from_url(f"redis://me:hidden@127.0.0.1:{free_port()}/0", timeout=0.1) as store:
        calls: list[Awaitable[object]] = [store.update("u", "c", {"secret": "data"}), store.get("u", "c")]
        for call in calls:
            with pytest.raises(redis.ConnectionError) as caught:
                await call
            assert "hidden" not in str(caught.value)
    assert "cannot connect" in caplog.text
    assert "hidden" not in caplog.text
    assert "secret" not in caplog.text
