"""Measures single steps of a load and an update, with pytest-benchmark.

Run ``python -m pytest benchmarks -o addopts= --benchmark-only`` in an environment with ``redis-botsession[bench]``. It takes
about a minute, and prints a table of durations for each step and session size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pytest_benchmark.fixture import BenchmarkFixture

from redis_botsession import BotSession, Codec, SessionStore
from redis_botsession._codec.codec import DEFAULT_MAX_BYTES
from redis_botsession._protocol.commands import Commands
from redis_botsession._session.changes import Write
from redis_botsession._session.times import DEFAULT_TTL
from redis_botsession.embedded import LocalServer
from redis_botsession.store import DEFAULT_PREFIX

from .workload import CHANGED_KEY, CHANNEL, SIZES, session_data

USER = 42


@pytest.fixture(params=SIZES)
def data(request: pytest.FixtureRequest) -> dict[str, Any]:
    return session_data(request.param)


@pytest.fixture
def commands() -> Commands:
    return Commands(prefix=DEFAULT_PREFIX, ttl=DEFAULT_TTL, codec=Codec(), max_bytes=DEFAULT_MAX_BYTES)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(tcp=True) as local:
        yield local


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as own:
        yield own


@pytest.fixture
def store(server: LocalServer, runner: asyncio.Runner, data: dict[str, Any]) -> Iterator[SessionStore]:
    """A store that holds a session of that size."""

    async def make() -> SessionStore:
        made = SessionStore.from_url(server.url)
        await made.set(USER, CHANNEL, BotSession(str(USER), str(CHANNEL), data))
        return made

    made = runner.run(make())
    yield made
    runner.run(made.aclose())


def test_encode(benchmark: BenchmarkFixture, data: dict[str, Any]) -> None:
    codec = Codec()
    assert benchmark(codec.encode, data)


def test_decode(benchmark: BenchmarkFixture, data: dict[str, Any]) -> None:
    codec = Codec()
    assert benchmark(codec.decode, codec.encode(data)) == data


def test_make_get(benchmark: BenchmarkFixture, commands: Commands) -> None:
    assert benchmark(commands.load, USER, CHANNEL).args[0] == b"HGETALL"


@pytest.mark.usefixtures("store")
def test_parse_get(benchmark: BenchmarkFixture, server: LocalServer, commands: Commands, data: dict[str, Any]) -> None:
    load = commands.load(USER, CHANNEL)
    with redis.Redis.from_url(server.url) as client:
        fields: dict[bytes, bytes] = client.execute_command(*load.args)
    reply = [part for item in fields.items() for part in item]
    loaded = benchmark(load.parse, reply)
    assert loaded.session.data == data


def test_make_update(benchmark: BenchmarkFixture, commands: Commands) -> None:
    assert benchmark(lambda: commands.write(USER, CHANNEL, Write(values={CHANGED_KEY: 3}))).args[0] == b"EVALSHA"


def test_parse_update(benchmark: BenchmarkFixture, commands: Commands) -> None:
    command = commands.write(USER, CHANNEL, Write(values={CHANGED_KEY: 3}))
    assert benchmark(command.parse, [1, 1790000000000001]) == 1790000000000001


def test_one_get(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: SessionStore, data: dict[str, Any]) -> None:
    loop = runner.get_loop()
    session = benchmark(lambda: loop.run_until_complete(store.get(USER, CHANNEL)))
    assert session.data == data


def test_one_update(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: SessionStore) -> None:
    loop = runner.get_loop()
    assert benchmark(lambda: loop.run_until_complete(store.update(USER, CHANNEL, {CHANGED_KEY: 3})))
