"""Fixtures for all tests: servers of each version, stores and clients on them, and servers with scripted replies."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import hypothesis
import pytest
import redis
import redis.asyncio

from redis_botsession import SessionStore
from redis_botsession._protocol.layout import Keys
from redis_botsession.embedded import LocalServer, ServerFailed

from .support.redis_servers import CI, SERVERS, Server
from .support.scripted_server import ScriptedServer

pytest.register_assert_rewrite("redis_botsession.testing", "tests.faults.soak")

# A busy machine must not fail tests. In CI the examples are always the same; elsewhere each run draws new ones.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=CI, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


class Servers:
    """Starts a server of each version when a test first needs it, and keeps it running."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[Server, LocalServer] = {}

    def url(self, server: Server) -> str:
        """Returns the URL of a running server of this version.

        Skips the test if the server is not available; fails it in CI.
        """
        if server not in self._running:
            try:
                binary, env = server.locate()
                local = LocalServer(binary, env=env, tcp=True)
                local.start()
            except (OSError, subprocess.CalledProcessError, ServerFailed) as error:
                reason = f"{server.id} is not available: {error} {getattr(error, 'stderr', '')}"
                if CI:
                    pytest.fail(reason)
                pytest.skip(reason)
            self._stack.callback(local.stop)
            self._running[server] = local
        return self._running[server].url


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture(params=SERVERS, ids=lambda server: server.id)
def url(request: pytest.FixtureRequest, servers: Servers) -> str:
    """The URL of an empty server, of each version in turn. The tests started it, so they may empty it."""
    address = servers.url(request.param)
    with redis.Redis.from_url(address) as client:
        client.flushall()
    return address


@pytest.fixture
def newest_url(servers: Servers) -> str:
    """The URL of a server with the newest Redis, for tests that do not depend on the version."""
    return servers.url(next(server for server in SERVERS if server.id == "redis-8.2"))


@pytest.fixture
def empty_url(newest_url: str) -> str:
    """The URL of an empty server with the newest Redis. The tests started it, so they may empty it."""
    with redis.Redis.from_url(newest_url) as client:
        client.flushall()
    return newest_url


@pytest.fixture
def prefix() -> str:
    """A prefix for keys that no other test uses."""
    return f"test:{uuid.uuid4().hex}:"


@pytest.fixture
def keys(prefix: str) -> Keys:
    """The keys under the prefix of the test."""
    return Keys(prefix)


@pytest.fixture
async def client(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A redis-py client of a server, of each version in turn."""
    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


@pytest.fixture
async def store(url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """A store on a server, of each version in turn."""
    async with SessionStore.from_url(url, prefix=prefix) as store:
        yield store


@pytest.fixture
async def first() -> AsyncIterator[ScriptedServer]:
    """A server whose replies the test decides."""
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def second() -> AsyncIterator[ScriptedServer]:
    """Another server whose replies the test decides."""
    async with ScriptedServer() as server:
        yield server
