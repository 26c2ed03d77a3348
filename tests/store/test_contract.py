"""Every store goes through the contract: on every server, on a cluster, every kind of client, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
import redis.asyncio

from redis_botsession import BotSessionStore, MemorySessionStore, SessionStore
from redis_botsession.testing import StoreContract

from ..support.redis_servers import SERVERS, locate_or_skip
from ..support.topologies import ClusterServers


class TestFromUrl(StoreContract):
    """On each server."""

    @pytest.fixture(autouse=True)
    def _server(self, url: str, prefix: str) -> None:
        self.url, self.prefix = url, prefix

    def make_store(self, **options: Any) -> BotSessionStore:
        return SessionStore.from_url(self.url, prefix=self.prefix, **options)


class ClientStore(SessionStore):
    """A store whose client, which is the caller's, is closed with it: the contract knows stores only."""

    def __init__(self, client: redis.asyncio.Redis | redis.asyncio.RedisCluster, **options: Any) -> None:
        super().__init__(client, **options)
        self._client = client

    async def aclose(self) -> None:
        await super().aclose()
        await self._client.aclose()


class TestClient(StoreContract):
    """On a client of the user's, with RESP2 and RESP3."""

    @pytest.fixture(autouse=True, params=[2, 3], ids=["resp2", "resp3"])
    def _server(self, request: pytest.FixtureRequest, newest_url: str, prefix: str) -> None:
        self.url, self.prefix, self.protocol = newest_url, prefix, request.param

    def make_store(self, **options: Any) -> BotSessionStore:
        client = redis.asyncio.Redis.from_url(self.url, protocol=self.protocol)
        return ClientStore(client, prefix=self.prefix, **options)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    newest = next(server for server in SERVERS if server.id == "redis-8.2")
    with ClusterServers(*locate_or_skip(newest), replicas=0) as servers:
        yield servers


class TestCluster(StoreContract):
    """On a Redis Cluster."""

    @pytest.fixture(autouse=True)
    def _server(self, cluster: ClusterServers, prefix: str) -> None:
        self.url, self.prefix = cluster.url, prefix

    def make_store(self, **options: Any) -> BotSessionStore:
        return SessionStore.from_url(self.url, prefix=self.prefix, **options)


class TestClusterClient(TestCluster):
    """With a cluster client's settings."""

    def make_store(self, **options: Any) -> BotSessionStore:
        host, _, port = self.url.removeprefix("redis+cluster://").partition(",")[0].partition(":")
        return ClientStore(redis.asyncio.RedisCluster(host, int(port)), prefix=self.prefix, **options)


class TestFakeredis(StoreContract):
    def make_store(self, **options: Any) -> BotSessionStore:
        return ClientStore(fakeredis.FakeAsyncRedis(), **options)


class TestMemory(StoreContract):
    def make_store(self, **options: Any) -> BotSessionStore:
        return MemorySessionStore(**options)
