"""Leases: one holder at a time, waiters get their turn in order, and a lost lease is reported."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import fakeredis
import pytest
import redis.asyncio
from redis.backoff import ConstantBackoff

from redis_botsession import BotSession, MemorySessionStore, SessionStore
from redis_botsession._protocol.layout import Keys
from redis_botsession._store.command_store import CommandStore
from redis_botsession._transport import pubsub
from redis_botsession.leases import Leases
from redis_botsession.testing.harness import ODD_IDS, eventually

from ..store.test_custom_store import SQLiteStore
from ..support.proxy import READ_SIZE, ProxiedConnection, Proxy, ReplyLosingProxy
from .holders import LeaseOnServer, LeaseUser, has_keys, lease_user

# --- one at a time, in order


@pytest.mark.parametrize("kind", ["memory", "fakeredis", "client", "RESP3"])
async def test_lease_one_holder_at_a_time_and_each_gets_a_turn(kind: str, newest_url: str, prefix: str) -> None:
    stores: list[CommandStore]
    async with (
        redis.asyncio.Redis.from_url(newest_url) as client,
        redis.asyncio.Redis.from_url(newest_url, protocol=3) as resp3,
    ):
        if kind == "memory":
            stores = [MemorySessionStore()] * 2
        elif kind == "fakeredis":
            server = fakeredis.FakeServer()
            stores = [SessionStore(fakeredis.FakeAsyncRedis(server=server), prefix=prefix) for _ in range(2)]
        else:
            stores = [SessionStore(client if kind == "client" else resp3, prefix=prefix) for _ in range(2)]
        inside: list[int] = []
        most = 0

        async def work(leases: Leases, number: int) -> int:
            nonlocal most
            async with leases.hold("u", "c") as lease:
                inside.append(number)
                most = max(most, len(inside))
                await asyncio.sleep(0)
                inside.remove(number)
                assert not lease.is_lost
            return number

        both = [Leases(store) for store in stores]
        done = await asyncio.gather(*(work(leases, number) for number in range(10) for leases in both))
        assert sorted(done) == sorted([*range(10), *range(10)])
        assert most == 1
        for leases in both:
            await leases.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_lease_waiters_of_a_process_get_it_in_order(here: LeaseUser) -> None:
    order: list[int] = []
    async with here.leases.hold("u", "c"):
        waiting = [here.wants(lambda n=n: order.append(n)) for n in range(20)]  # type: ignore[misc] # mypy and defaults
        await asyncio.sleep(0)
        for number in (3, 7, 19):
            waiting[number].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [n for n in range(20) if n not in (3, 7, 19)]


async def test_lease_new_waiter_queues_behind_the_others(here: LeaseUser, server: LeaseOnServer) -> None:
    order: list[int] = []
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def second() -> None:
        order.append(2)
        entered.set()
        await go_on.wait()

    async with here.leases.hold("u", "c"):
        waiting = [here.wants(second), here.wants(lambda: order.append(3))]
        await asyncio.sleep(0)
    await entered.wait()
    run = await server.scripts_run()
    waiting.append(here.wants(lambda: order.append(4)))
    await here.store.touch("u", "none")
    assert await server.scripts_run() == run + 1, (
        "only the touch: a further waiter joins the queue in its process, and asks nothing of the server"
    )
    go_on.set()
    await asyncio.gather(*waiting)
    assert order == [2, 3, 4]


class SlowProxy(Proxy):
    """Delays replies for longer than a waiter on a fast connection needs to take a free lease."""

    async def forward_replies(self, connection: ProxiedConnection) -> None:
        while replies := await connection.from_server.read(READ_SIZE):
            await asyncio.sleep(0.004)
            connection.to_client.write(replies)


async def test_lease_slow_process_gets_its_turn(here: LeaseUser, newest_url: str, prefix: str, server: LeaseOnServer) -> None:
    order: list[str] = []
    async with SlowProxy(newest_url) as slow, lease_user(slow.url, prefix) as there:
        async with here.leases.hold("u", "c"):
            theirs = there.wants(lambda: order.append("there"))
            await server.is_waited_for()
            ours = [here.wants(lambda: order.append("here")) for _ in range(50)]
        await asyncio.gather(theirs, *ours)
    assert "there" in order[:25]


async def test_lease_other_sessions_do_not_wait(here: LeaseUser, there: LeaseUser) -> None:
    async with here.leases.hold("u", "c"), there.leases.hold("u", "d"), there.leases.hold("v", "c"), here.leases.hold(1, 2):
        pass


async def test_lease_takes_the_ids_that_sessions_take(here: LeaseUser, there: LeaseUser) -> None:
    async with here.leases.hold(42, 7) as lease:
        assert lease.key == here.store.key("42", "7") + ":lock"
        waiting = asyncio.create_task(there.leases.hold("42", "7").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    for bad, error in (("", ValueError), (None, TypeError), (True, TypeError)):
        with pytest.raises(error, match="user_id must"):
            await here.leases.hold(bad, "c").__aenter__()  # type: ignore[arg-type] # on purpose


async def test_lease_refuses_a_task_that_holds_it_already(here: LeaseUser) -> None:
    async with here.leases.hold("u", "c"):
        with pytest.raises(RuntimeError, match="held by this task already"):
            await here.leases.hold("u", "c").__aenter__()
    async with here.leases.hold("u", "c"):
        pass


# --- waiting


async def test_lease_without_waiters_needs_no_pubsub(here: LeaseUser, server: LeaseOnServer) -> None:
    before = await server.count("publish", "subscribe")
    for _ in range(10):
        async with here.leases.hold("u", "c"):
            assert not await server.is_awaited()
    assert await server.count("publish", "subscribe") == before


async def test_lease_waiters_cost_the_server_nothing(here: LeaseUser, there: LeaseUser, server: LeaseOnServer) -> None:
    before = await server.scripts_run()
    done: list[int] = []
    async with here.leases.hold("u", "c"):
        waiting = [one.wants(lambda: done.append(1)) for one in (here, there) for _ in range(50)]
        await server.is_waited_for()
        asked = await server.scripts_run()
        # One script of the holder. Of the waiters elsewhere only the first one asks: before and after it subscribes.
        assert asked - before <= 4
        # During this second of waiting the server must run no script.
        await asyncio.sleep(1)
        assert await server.scripts_run() == asked
    await asyncio.gather(*waiting)
    assert len(done) == 100
    # At each turn: one script to acquire the lease, one to release it, and those of waiters that find it taken.
    assert await server.scripts_run() - asked <= 100 * 4


async def test_lease_pubsub_is_one_connection_closed_when_idle(
    here: LeaseUser, there: LeaseUser, server: LeaseOnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub, "IDLE", 0.01)

    async def count(expected: int) -> bool:
        # Not by type "pubsub": a connection without channels is of another type, and is still open.
        return sum(one["cmd"] in {"subscribe", "unsubscribe"} for one in await server.client.client_list()) == expected

    for _ in range(2):
        released = asyncio.Event()
        holders = [here.wants(released.wait, user=f"u{n}") for n in range(20)]
        await eventually(lambda: has_keys(server.client, f"{here.store.key('u', 'c')[:-6]}*:lock", 20))
        waiting = [there.wants(user=f"u{n}") for n in range(20)]

        async def all_are_heard() -> bool:
            channels = await server.client.pubsub_channels(f"{here.store.commands.keys.prefix}*")
            return len(channels) == 20

        await eventually(all_are_heard)
        assert await count(1)
        released.set()
        await asyncio.gather(*holders, *waiting)
        await eventually(lambda: count(0))


async def test_lease_is_renewed_while_held(newest_url: str, prefix: str, server: LeaseOnServer, there: LeaseUser) -> None:
    async with lease_user(newest_url, prefix, lease=0.3) as brief, brief.leases.hold("u", "c") as lease:
        began, token = await server.time_ms(), await server.token()
        waiting = there.wants()

        async def has_been_renewed() -> bool:
            return await server.time_ms() > began + 1000

        await eventually(has_been_renewed)
        assert await server.token() == token
        assert not waiting.done()
        assert not lease.is_lost
    await waiting


async def test_lease_is_not_renewed_after_its_release(newest_url: str, prefix: str, server: LeaseOnServer) -> None:
    async with lease_user(newest_url, prefix, lease=0.1) as brief:
        await asyncio.gather(*(brief.wants(user=str(user)) for user in range(20)))
        run, now = await server.scripts_run(), await server.time_ms()

        async def would_have_been() -> bool:
            return await server.time_ms() > now + 150

        await eventually(would_have_been)
        assert await server.scripts_run() == run


async def test_listener_wakes_a_new_watch_of_a_heard_channel(here: LeaseUser, server: LeaseOnServer) -> None:
    watching = pubsub.Listener(here.store.executor, here.store.commands.keys.prefix)
    with watching.watch(server.key) as watch:
        await watch.wake.wait()
        assert watch.is_hearing
    # The subscription is still there. A release may have come in between, so the new watch wakes at once.
    with watching.watch(server.key) as watch:
        assert watch.is_hearing
        assert watch.wake.is_set()
    await watching.aclose()


# --- losing it


async def test_lease_lost_is_reported_and_not_taken_back(
    newest_url: str, prefix: str, server: LeaseOnServer, there: LeaseUser, caplog: pytest.LogCaptureFixture
) -> None:
    async with lease_user(newest_url, prefix, lease=0.3) as here, there.store:
        async with here.leases.hold("u", "c") as lease:
            assert not lease.is_lost
            await server.client.delete(server.key)
            async with there.leases.hold("u", "c"):
                theirs = await server.token()

                async def is_lost() -> bool:
                    return "was lost" in caplog.text

                await eventually(is_lost)
                assert lease.is_lost
                assert repr(lease) == f"<Lease {lease.key} (lost)>"
                assert await server.token() == theirs
                here.wants()
        assert lease.is_lost
        assert [record.levelname for record in caplog.records if lease.key in record.message] == ["WARNING"]


async def test_lease_lost_is_not_released_for_the_new_holder(
    here: LeaseUser, there: LeaseUser, server: LeaseOnServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with here.leases.hold("u", "c") as lease:
        await server.client.delete(server.key)
        theirs = asyncio.Event()
        holding = there.wants(theirs.wait)

        async def is_theirs() -> bool:
            return bool(await server.token())

        await eventually(is_theirs)
        token = await server.token()
    assert lease.is_lost
    assert await server.token() == token
    assert f"lease {lease.key} was lost: when it was released" in caplog.text
    theirs.set()
    await holding


@pytest.mark.parametrize("name", ["acquire", "renew", "release"])
async def test_lease_lost_reply_does_not_block_the_lease(
    name: str, newest_url: str, prefix: str, server: LeaseOnServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ReplyLosingProxy(newest_url) as proxy,
        lease_user(proxy.url, prefix, lease=0.9 if name == "renew" else 600) as here,
    ):
        async with here.leases.hold("u", "other"):
            pass
        proxy.needle = {"acquire": b"\r\n600000\r\n", "renew": b"\r\n900\r\n", "release": b":lock"}[name]

        async def is_lost() -> bool:
            return proxy.lose_replies == 0

        proxy.lose_replies = int(name == "acquire")
        async with here.leases.hold("u", "c") as lease:
            proxy.lose_replies += int(name != "acquire")
            if name == "renew":
                await eventually(is_lost)
            assert not lease.is_lost
        assert await is_lost()
        assert not lease.is_lost
        assert "connection lost" in caplog.text
        assert "was lost" not in caplog.text
        assert await server.token() == b""
        async with here.leases.hold("u", "c"):
            assert await server.token() != b""


async def test_lease_failing_pubsub_connection_is_logged_once(
    there: LeaseUser,
    newest_url: str,
    prefix: str,
    server: LeaseOnServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pubsub, "RESUBSCRIBE_DELAYS", ConstantBackoff(0.001))
    attempts = 0

    async def listen() -> Any:
        nonlocal attempts
        attempts += 1
        if attempts < 10:
            raise ConnectionError
        return await there.store.executor.listen()

    async with lease_user(newest_url, prefix) as here, there.leases.hold("u", "c"):
        monkeypatch.setattr(here.store.executor, "listen", listen)
        caplog.set_level(logging.INFO)
        here.wants()
        await server.is_waited_for()
        logged = [(one.levelname, one.message) for one in caplog.records if "given back" in one.message]
        about = f"when leases under {prefix!r} are given back"
        assert logged == [
            ("WARNING", f"cannot hear {about}: ConnectionError; trying again"),
            ("INFO", f"hearing again {about}"),
        ]


# --- beside the sessions


async def test_lease_is_not_listed_as_a_session(here: LeaseUser, server: LeaseOnServer) -> None:
    await here.store.set("u", "c", BotSession("u", "c", {"a": 1}))
    async with here.leases.hold("u", "c"), here.leases.hold("u", "d"):
        assert await server.token()
        assert [ids async for ids in here.store.scan()] == [("u", "c")]
        assert await here.store.size() == 1
        assert await here.store.channels("u") == ["c"]
        assert await here.store.get("u", "c:lock") is None
        assert await here.store.clear("u") == 1
        assert await server.token(), "clear removes sessions only"


@pytest.mark.parametrize("odd", ODD_IDS)
def test_lease_key_differs_from_keys_of_sessions(odd: str) -> None:
    keys = Keys("p:")
    key = keys.lease(odd, odd)
    assert keys.ids(key) is None
    others = [keys.session(odd, f"{odd}{end}") for end in (":lock", "%3Alock", "lock")]
    assert key not in [keys.session(odd, odd), keys.index(odd), *others]
    assert key.startswith(keys.session(odd, odd)), "one hash tag, one slot"


async def test_lease_in_memory_expires() -> None:
    now = 1000.0
    store = MemorySessionStore(clock=lambda: now)
    commands, run = store.commands, store.executor.run
    assert await run(commands.acquire("u", "c", b"a", 1000)) is None
    assert await run(commands.acquire("u", "c", b"a", 2000)) is None
    assert await run(commands.acquire("u", "c", b"b", 1000)) == 2
    assert await run(commands.renew("u", "c", b"b", 1000)) is False
    assert await run(commands.release("u", "c", b"b")) is None
    now += 1
    assert await run(commands.renew("u", "c", b"a", 1000)) is True
    assert await run(commands.acquire("u", "c", b"b", 1000)) == 1
    assert await run(commands.release("u", "c", b"a")) is True
    assert await run(commands.acquire("u", "c", b"b", 1000)) is None
    now += 1
    assert await run(commands.renew("u", "c", b"b", 1000)) is False
    assert store.cleanup() == 0
    assert await run(commands.acquire("u", "c", b"a", 1000)) is None


@pytest.mark.parametrize(
    ("lease", "error", "message"),
    [
        (0, ValueError, "lease must be at least 0.1 s"),
        (0.05, ValueError, "lease must be at least 0.1 s.*not 0.05"),
        (timedelta(milliseconds=50), ValueError, "at least 0.1 s"),
        (float("inf"), ValueError, "finite"),
        (None, ValueError, "at least 0.1 s.*not None"),
        ("30", TypeError, "not str"),
        (True, TypeError, "not bool"),
    ],
)
def test_leases_refuse_an_invalid_duration(lease: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Leases(MemorySessionStore(), lease=lease)


async def test_leases_refuse_a_custom_store() -> None:
    store: Any
    async with SQLiteStore() as store:
        with pytest.raises(TypeError, match="leases need a SessionStore or MemorySessionStore, not SQLiteStore"):
            Leases(store)
