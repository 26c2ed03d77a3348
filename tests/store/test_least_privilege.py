"""The user of a bot that may do what the bot needs, and nothing else: the rules of the page on permissions, on real servers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from redis_botsession import BotSession, OutcomeUnknown, SessionError, SessionMiddleware, SessionStore, VersionConflict
from redis_botsession.embedded import LocalServer
from redis_botsession.testing.harness import eventually, load

from ..support.redis_servers import WHEELS, Server, locate_or_skip
from ..support.topologies import ClusterServers, Node, SentinelServers
from .test_refusals import as_user

#: The user of a bot.
RULE = (
    "ACL SETUSER bot on >password resetchannels ~bot:session:* +echo +evalsha +eval +hgetall +zrange +exists +time +hmget "
    "+hget +hkeys +hstrlen +hset +hdel +unlink +zadd +zscore +zrem +zremrangebyscore +pexpireat +persist"
)
#: More for one who calls ``scan`` and ``size``.
OPERATOR = "+scan"
#: More for a database that is not the first, and for the option ``client_name``.
DATABASE = "+select"
CLIENT_NAME = "+client|setname"
#: More for redis+cluster://: where the slots are, and the keys of one that is being moved.
CLUSTER = ("+cluster|slots", "+asking")
#: More for ``replicas=``, and for ``fsync=``.
REPLICAS = "+wait"
FSYNC = "+waitaof"
#: For redis+sentinel://, on the sentinels.
WATCH = "ACL SETUSER watch on >password resetchannels &+switch-master +sentinel|master +subscribe"
COMMANDS = re.findall(r"\+\S+", RULE)

PAGE = (Path(__file__).parents[2] / "docs" / "operations" / "permissions.md").read_text("utf-8")


def server(name: str) -> Server:
    return next(server for server in WHEELS if server.id == name)


def rule(prefix: str, *more: str, without: str = "") -> list[str]:
    """The rule for the bot with these keys."""
    words = RULE.replace("bot:session:", prefix).split()
    return [word for word in words if word != without] + list(more)


@asynccontextmanager
async def bot(client: redis.asyncio.Redis, url: str, prefix: str, *more: str, without: str = "") -> AsyncIterator[str]:
    """The URL for the bot, as long as there is that user."""
    await client.execute_command(*rule(prefix, *more, without=without))  # type: ignore[no-untyped-call] # redis-py has no types here
    try:
        yield as_user(url, "bot", "password")
    finally:
        await client.acl_deluser("bot")


@contextmanager
def refused() -> Iterator[None]:
    """The server says that the user may not; of a command in a script 6.2 and 7.0 say it as an error of the script."""
    with pytest.raises(ResponseError, match=r"(?i)permission|can't (access|run)|not allowed"):
        yield


async def use_everything(store: SessionStore, endless: SessionStore) -> None:
    """What a bot may call, with each of its commands; ``endless`` is the same without a TTL."""
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert await store.get("u", "c") is None
    version = await store.set("u", "c", BotSession("u", "c", {"a": 1, "b": 2}))
    version = await store.set("u", "c", BotSession("u", "c", {"a": 2}, expires_at=soon), expected_version=version)
    version = await store.update("u", "c", {"n": 1}, remove=["a"], expected_version=version, expires_at=None)
    await store.update("u", "c", {f"k{n}": n for n in range(1200)}, expires_at=soon)
    for call in (store.update("u", "c", {}, expected_version=version), store.delete("u", "c", expected_version=version)):
        with pytest.raises(VersionConflict):
            await call
    await store.modify("u", "c", lambda session: session.data.update(n=session.data["n"] + 1))
    assert (await load(store)).data["n"] == 2
    assert await store.get("u", "c", touch=True)
    assert not await store.touch("u", "none")

    await endless.update("u", "endless", {"n": 1})
    assert await endless.touch("u", "endless")
    assert await store.touch("u", "endless")
    assert await store.channels("u") == ["c", "endless"]

    async with store.session("u", "live") as session:
        session.data["n"] = 1
        await session.update({"m": 2})
        session.expires_at = soon
    ctx: Any = SimpleNamespace(message=SimpleNamespace(author=SimpleNamespace(id="u")), channel=SimpleNamespace(id="live"))

    async def handler() -> None:
        ctx.session.data["n"] += 1

    await SessionMiddleware(store)(ctx, handler)
    assert (await load(store, "u", "live")).data == {"n": 2, "m": 2}

    assert await store.delete("u", "live", expected_version=ctx.session.version)
    assert await store.delete("u", "endless")
    past = BotSession("u", "c", expires_at=datetime(2000, 1, 1, tzinfo=UTC))
    assert await store.set("u", "c", past) == 0
    await store.update("u", "d", {"n": 1})
    assert await store.clear("u") == 1


def test_permissions_page_gives_this_rule() -> None:
    rules = re.findall(r"^(ACL SETUSER bot on [^`]+)```", PAGE, re.MULTILINE)
    assert [" ".join(rule.split()) for rule in rules] == [RULE]
    for more in (OPERATOR, DATABASE, CLIENT_NAME.replace("|", "\\|"), " ".join(CLUSTER).replace("|", "\\|"), REPLICAS, FSYNC):
        assert f"`{more}`" in PAGE
    assert WATCH in PAGE


@pytest.mark.parametrize("may_load", [False, True], ids=["without SCRIPT LOAD", "with it"])
async def test_permissions_bot_can_use_everything(client: redis.asyncio.Redis, url: str, prefix: str, may_load: bool) -> None:
    async with bot(client, url, prefix, *(["+script|load"] if may_load else [])) as bots_url:
        await client.script_flush()
        async with (
            SessionStore.from_url(bots_url, prefix=prefix) as store,
            SessionStore.from_url(bots_url, prefix=prefix, ttl=None) as endless,
        ):
            await use_everything(store, endless)
            # Now with all connections made.
            await client.script_flush()
            await use_everything(store, endless)
            for operators in (store.size(), anext(store.scan(), None)):
                with refused():
                    await operators
    assert await client.dbsize() == 0


async def test_permissions_bot_can_use_a_client_of_its_own(client: redis.asyncio.Redis, url: str, prefix: str) -> None:
    async with bot(client, url, prefix) as bots_url:
        await client.script_flush()
        async with redis.asyncio.Redis.from_url(bots_url) as own:
            await use_everything(SessionStore(own, prefix=prefix), SessionStore(own, prefix=prefix, ttl=None))


async def test_permissions_operator_can_scan(client: redis.asyncio.Redis, url: str, prefix: str) -> None:
    async with (
        bot(client, url, prefix, OPERATOR) as operators_url,
        SessionStore.from_url(operators_url, prefix=prefix) as store,
    ):
        await store.update("u", "c", {"n": 1})
        assert await store.size() == 1
        assert [ids async for ids in store.scan()] == [("u", "c")]


@pytest.mark.parametrize("without", COMMANDS)
async def test_permissions_bot_needs_each_command(without: str, newest_url: str, prefix: str) -> None:
    async with (
        redis.asyncio.Redis.from_url(newest_url) as client,
        bot(client, newest_url, prefix, without=without) as bots_url,
        SessionStore.from_url(bots_url, prefix=prefix) as store,
        SessionStore.from_url(bots_url, prefix=prefix, ttl=None) as endless,
    ):
        await client.script_flush()
        with refused():
            await use_everything(store, endless)


@pytest.mark.parametrize(
    ("option", "more"),
    [("db=1", DATABASE), ("client_name=ada", CLIENT_NAME), ("protocol=3", "")],
    ids=["db", "client_name", "protocol"],
)
async def test_permissions_some_options_need_more(
    option: str, more: str, client: redis.asyncio.Redis, url: str, prefix: str
) -> None:
    if more:
        async with bot(client, url, prefix) as bots_url, SessionStore.from_url(f"{bots_url}?{option}", prefix=prefix) as store:
            with refused():
                await store.get("u", "c")
    async with (
        bot(client, url, prefix, *more.split()) as bots_url,
        SessionStore.from_url(f"{bots_url}?{option}", prefix=prefix) as store,
        SessionStore.from_url(f"{bots_url}?{option}", prefix=prefix, ttl=None) as endless,
    ):
        await use_everything(store, endless)


OTHER_KEY = "other:{u}:c"


@pytest.mark.parametrize(
    "command",
    [
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("SWAPDB", "0", "1"),
        ("SELECT", "1"),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("DEBUG", "SLEEP", "0"),
        ("SHUTDOWN", "NOSAVE"),
        ("ACL", "SETUSER", "bot", "+@all"),
        ("ACL", "LIST"),
        ("SCRIPT", "FLUSH"),
        ("CLIENT", "LIST"),
        ("MONITOR",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("PUBLISH", "channel", "text"),
        ("SUBSCRIBE", "channel"),
        ("INFO",),
        ("HGETALL", OTHER_KEY),
        ("HSET", OTHER_KEY, "field", "value"),
        ("UNLINK", OTHER_KEY),
        ("ZRANGE", "other:{u}", "0", "-1"),
        ("EVAL", "return redis.call('HGETALL', KEYS[1])", "1", OTHER_KEY),
        ("EVAL", "return redis.call('HGETALL', ARGV[1])", "0", OTHER_KEY),
        ("EVAL", "return redis.call('HSET', KEYS[1], 'field', 'value')", "1", OTHER_KEY),
        ("EVAL", "return redis.call('HSET', ARGV[1], 'field', 'value')", "0", OTHER_KEY),
        ("EVAL", "return redis.call('UNLINK', ARGV[1])", "0", OTHER_KEY),
        ("EVAL", "return redis.call('KEYS', '*')", "0"),
        ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ],
    ids=" ".join,
)
async def test_permissions_bot_is_refused_all_else(
    command: tuple[str, ...], client: redis.asyncio.Redis, url: str, prefix: str, store: SessionStore
) -> None:
    await client.hset(OTHER_KEY, "field", "secret")
    await store.update("u", "c", {"n": 1})
    async with bot(client, url, prefix) as bots_url, redis.asyncio.Redis.from_url(bots_url) as own:
        assert await own.echo("") == b""
        with refused():
            await own.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py has no types here
    assert await client.hgetall(OTHER_KEY) == {b"field": b"secret"}
    assert (await load(store)).data == {"n": 1}


async def test_permissions_bot_is_refused_the_sessions_of_another(client: redis.asyncio.Redis, url: str, prefix: str) -> None:
    async with SessionStore(client, prefix="other:") as other, bot(client, url, prefix) as bots_url:
        await other.update("u", "c", {"n": 1})
        # What begins like its own prefix is another, too.
        for prefix_of_another in ("other:", prefix[:-1], "bot:session:"):
            async with SessionStore.from_url(bots_url, prefix=prefix_of_another) as store:
                for call in (
                    store.get("u", "c"),
                    store.get("u", "c", touch=True),
                    store.set("u", "c", BotSession("u", "c", {"n": 2})),
                    store.update("u", "c", {"n": 2}),
                    store.touch("u", "c"),
                    store.delete("u", "c"),
                    store.channels("u"),
                    store.clear("u"),
                ):
                    with refused():
                        await call
        assert (await load(other)).data == {"n": 1}


# --- more than one server; replicas and disks


@pytest.mark.parametrize("version", ["redis-6.2", "redis-8.2"])
async def test_permissions_on_a_cluster(version: str, prefix: str) -> None:
    with ClusterServers(*locate_or_skip(server(version)), primaries=2, replicas=0) as cluster:
        url = as_user(cluster.url, "bot", "password")
        source = cluster.primary_of(key_slot(b"moved"))
        target = next(node for node in cluster.nodes if node is not source)

        async with store_of(cluster.nodes, url, prefix) as store:
            with refused():
                await store.get("u", "c")
        async with store_of(cluster.nodes, url, prefix, *CLUSTER, OPERATOR) as store:
            async with SessionStore.from_url(url, prefix=prefix, ttl=None) as endless:
                await use_everything(store, endless)
            for user in range(20):
                await store.update(user, "c", {"n": 1})
            assert await store.size() == 20

            await store.update("moved", "c", {"n": 1})
            await cluster.begin_move(key_slot(b"moved"), source, target)
            await cluster.move_keys(key_slot(b"moved"), source, target)
            # Only to one who has asked.
            assert await store.get("moved", "c", touch=True)
            await store.update("moved", "c", {"n": 2})
        async with store_of(cluster.nodes, url, prefix, CLUSTER[0], timeout=0.5) as store:
            with pytest.raises(NoPermissionError):
                await store.get("moved", "c")
            await cluster.end_move(key_slot(b"moved"), source, target)
            assert (await load(store, "moved")).data == {"n": 2}


async def test_permissions_behind_sentinels(prefix: str) -> None:
    with SentinelServers(*locate_or_skip(server("redis-8.2"))) as servers:
        url = f"{as_user(servers.url, 'bot', 'password')}?sentinel_username=watch&sentinel_password=password"
        for sentinel in servers.sentinels:
            sentinel.ask(*WATCH.replace("+sentinel|master", "").split())
        async with store_of(servers.nodes, url, prefix, timeout=0.5) as store:
            with pytest.raises(RedisError, match=r"no permissions to run the 'sentinel\|master' command"):
                await store.get("u", "c")
        for sentinel in servers.sentinels:
            sentinel.ask(*WATCH.split())

        async def is_watching() -> bool:
            clients = [line for sentinel in servers.sentinels for line in sentinel.ask("CLIENT", "LIST").splitlines()]
            return any({"user=watch", "sub=1"} <= set(line.split()) for line in clients)

        # ROLE is asked for, and may be refused.
        for more in (("+role",), ()):
            async with (
                store_of(servers.nodes, url, prefix, *more) as store,
                SessionStore.from_url(url, prefix=prefix, ttl=None) as endless,
            ):
                await use_everything(store, endless)
        async with store_of(servers.nodes, url, prefix) as store:
            await store.update("u", "c", {"n": 1})
            await eventually(is_watching)
            promoted = await servers.failover()

            async def goes_on() -> bool:
                with suppress(OutcomeUnknown):
                    await store.update("u", "c", {"after": 1})
                return bool(promoted.ask("HEXISTS", store.key("u", "c"), "after"))

            await eventually(goes_on)


async def test_permissions_with_replicas_that_vouch(prefix: str) -> None:
    with SentinelServers(*locate_or_skip(server("redis-8.2"))) as servers:
        primary = servers.primary()
        url = as_user(primary.url, "bot", "password")
        async with (
            store_of([primary], url, prefix, REPLICAS, replicas=2) as store,
            SessionStore.from_url(url, prefix=prefix, ttl=None, replicas=2) as endless,
        ):
            await use_everything(store, endless)
        async with store_of([primary], url, prefix, replicas=2) as store:
            with pytest.raises(SessionError, match=r"(?i)permission.*'wait'"):
                await store.update("u", "c", {"n": 1})


async def test_permissions_with_a_disk_that_vouches(prefix: str, tmp_path: Path) -> None:
    binary, env = locate_or_skip(server("redis-8.2"))
    with LocalServer(binary, env=env, tcp=True, data=tmp_path) as local:
        node = Node(0, local)
        node.url = local.url
        url = as_user(local.url, "bot", "password")
        async with (
            store_of([node], url, prefix, FSYNC, fsync=True) as store,
            SessionStore.from_url(url, prefix=prefix, ttl=None, fsync=True) as endless,
        ):
            await use_everything(store, endless)
        async with store_of([node], url, prefix, fsync=True) as store:
            with pytest.raises(SessionError, match=r"(?i)permission.*'waitaof'"):
                await store.update("u", "c", {"n": 1})


@asynccontextmanager
async def store_of(nodes: list[Node], url: str, prefix: str, *more: str, **options: Any) -> AsyncIterator[SessionStore]:
    """A store for the bot, who may do this on all of these nodes, and ``more``."""
    for node in nodes:
        node.ask("ACL", "DELUSER", "bot")
        node.ask(*rule(prefix, *more))
    async with SessionStore.from_url(url, prefix=prefix, **options) as store:
        yield store
