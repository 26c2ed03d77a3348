"""What this package uses of redis-py beyond its public interface is where it was."""

from __future__ import annotations

import asyncio
from operator import attrgetter

import pytest
import redis
from redis.asyncio import RedisCluster
from redis.asyncio.connection import Connection

from redis_botsession import SessionError
from redis_botsession._transport.options import Options, Target
from redis_botsession._transport.redispy import CLUSTER_ONLY, abort, cluster_settings, take_over

from ..support.scripted_server import ScriptedServer

OF_A_CONNECTION = [
    "_reader.at_eof",
    "_reader._buffer",
    "_writer.transport.abort",
    "_writer.transport.set_protocol",
    "_parser._reader.has_data",
    "host",
    "port",
    "is_connected",
    "socket_timeout",
]


async def empty_server(request: object) -> list[object]:
    return []


async def connected(server: ScriptedServer) -> Connection:
    connection = Connection(host="127.0.0.1", port=server.port)
    await connection.connect()  # type: ignore[no-untyped-call] # redis-py has no types here
    return connection


@pytest.mark.parametrize("name", OF_A_CONNECTION)
async def test_redispy_connection_has_the_attribute(name: str) -> None:
    async with ScriptedServer(empty_server) as server:
        connection = await connected(server)
        try:
            attrgetter(name)(connection)
        finally:
            await connection.disconnect(nowait=True)


@pytest.mark.parametrize("name", ["connection_kwargs", "nodes_manager.startup_nodes", "nodes_manager.address_remap"])
async def test_redispy_cluster_has_the_attribute(name: str) -> None:
    attrgetter(name)(RedisCluster("127.0.0.1", 1))


async def test_redispy_cluster_settings_fit_connections() -> None:
    client = RedisCluster("127.0.0.1", 7, username="u", password="p", socket_timeout=3)  # noqa: S106 - of nobody
    options, seeds, remap = cluster_settings(client)
    assert (seeds, remap) == ((("127.0.0.1", 7),), None)
    parsed = Options.of(Target("cluster", options, seeds), {})
    assert parsed.connection_options.items() >= {"username": "u", "password": "p", "socket_timeout": 3}.items()
    assert not CLUSTER_ONLY & options.keys()


async def test_take_over_leaves_redispy_without_a_socket() -> None:
    async with ScriptedServer(empty_server) as server:
        connection = await connected(server)
        writer, rest = take_over(connection)
        assert rest == b""
        assert not connection.is_connected
        writer.transport.abort()


async def test_take_over_names_the_attribute_that_moved() -> None:
    async with ScriptedServer(empty_server) as server:
        connection = await connected(server)
        reader = connection._reader
        del connection._reader
        with pytest.raises(SessionError, match=rf"redis-py {redis.__version__} is not supported.*'_reader'"):
            take_over(connection)
        connection._reader = reader
        await connection.disconnect(nowait=True)


async def test_abort_ends_who_reads() -> None:
    async with ScriptedServer(empty_server) as server:
        connection = await connected(server)
        reading = asyncio.ensure_future(connection.read_response())
        await asyncio.sleep(0)
        abort(connection)
        with pytest.raises(redis.ConnectionError):
            await reading
