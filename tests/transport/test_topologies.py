"""The clusters and sentinels that other tests use."""

from __future__ import annotations

import asyncio
import os

import pytest
import redis.asyncio
from redis.crc import key_slot

from redis_botsession.testing.harness import eventually

from ..support.redis_servers import WHEELS, Server, locate_or_skip
from ..support.topologies import SERVICE, ClusterServers, SentinelServers

pytestmark = pytest.mark.parametrize(
    "server",
    # On the others they are used by the tests of the store.
    [server for server in WHEELS if server.id == "redis-8.2"],
    ids=lambda server: server.id,
)
KEYS = [f"{{user}}{n}" for n in range(20)]
SLOT = key_slot(b"user")


async def test_a_slot_moves_while_clients_use_it(server: Server) -> None:
    with ClusterServers(*locate_or_skip(server), replicas=0) as cluster:
        source = cluster.primary_of(SLOT)
        target = next(node for node in cluster.primaries() if node is not source)
        async with redis.asyncio.RedisCluster.from_url(cluster.urls[0]) as client:
            for key in KEYS:
                await client.set(key, key)

            async def everything_is_there() -> None:
                assert [await client.get(key) for key in KEYS] == [key.encode() for key in KEYS]

            await cluster.begin_move(SLOT, source, target)
            assert await cluster.move_keys(SLOT, source, target, count=7, between=everything_is_there) == 7
            assert (source.ask("DBSIZE"), target.ask("DBSIZE")) == (13, 7)
            assert await cluster.move_keys(SLOT, source, target) == 13
            await cluster.end_move(SLOT, source, target)
            await everything_is_there()
        assert cluster.primary_of(SLOT) is target
        assert target.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 20
        await asyncio.to_thread(cluster.settle)


async def test_a_replica_takes_over_and_the_killed_primary_comes_back(server: Server) -> None:
    with ClusterServers(*locate_or_skip(server)) as cluster:
        primary = cluster.primary_of(SLOT)
        replica = cluster.replica_of(primary)
        primary.ask("SET", "{user}", "Ada")
        assert primary.ask("WAIT", 1, 10_000) == 1
        cluster.kill(primary)

        async def has_taken_over() -> bool:
            return replica in cluster.primaries()

        await eventually(has_taken_over)
        await asyncio.to_thread(cluster.settle)
        assert replica.ask("GET", "{user}") == "Ada"
        cluster.restart(primary)
        await asyncio.to_thread(cluster.settle)
        assert cluster.replica_of(replica) is primary


async def test_sentinels_promote_a_replica_again_and_again(server: Server) -> None:
    with SentinelServers(*locate_or_skip(server)) as servers:
        first = servers.primary()
        second = await servers.failover()
        assert second is not first
        servers.pause(second)

        async def another_one() -> bool:
            return servers.primary() is not second

        await eventually(another_one)
        third = servers.primary()
        servers.resume(second)
        servers.kill(third)

        async def yet_another_one() -> bool:
            return servers.primary() is not third

        await eventually(yet_another_one)
        assert servers.primary().ask("ROLE")[0] == "master"


def test_all_processes_end_with_the_block(server: Server) -> None:
    with SentinelServers(*locate_or_skip(server)) as servers:
        nodes = [*servers.nodes, *servers.sentinels]
        pids = [node.pid for node in nodes]
        servers.pause(nodes[0])
        servers.pause(nodes[-1])
        servers.kill(nodes[1])
        assert servers.url.endswith(f"/{SERVICE}")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
