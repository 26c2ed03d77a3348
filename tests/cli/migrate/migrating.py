"""What the tests of ``botsession migrate`` have in common."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio

from redis_botsession import SessionStore, cli

Client = redis.asyncio.Redis

BOT = 777
SECRET = "s3cret"  # noqa: S105 - it is one for the tests only


@dataclass
class Migrate:
    """Runs the command in this process; gives its exit status and what it prints as JSON.

    ``source_prefix`` and ``prefix`` are those of the keys there and here.
    """

    capsys: pytest.CaptureFixture[str]
    url: str
    prefix: str

    @property
    def source_prefix(self) -> str:
        return f"from-{self.prefix.rstrip(':')}"

    async def __call__(self, kind: str, *args: str) -> tuple[int, dict[str, Any]]:
        prefixes = ["--prefix", self.prefix, "--source-prefix", self.source_prefix]
        line = ["migrate", kind, "--url", self.url, *prefixes, "--json", *args]
        status = await asyncio.to_thread(cli.main, line)
        said = self.capsys.readouterr()
        assert said.err == ""
        assert SECRET not in said.out
        report = json.loads(said.out)
        assert report["exit_status"] == status
        return status, report


def counts(**given: int) -> dict[str, int]:
    names = ("migrated", "there", "changed", "expired", "not_understood", "failed", "deleted", "kept")
    assert given.keys() <= set(names)
    return {name: given.get(name, 0) for name in names}


async def keys_under(client: Client, prefix: str) -> set[bytes]:
    return {key async for key in client.scan_iter(match=f"{prefix}*", count=10_000)}


async def dump(client: Client) -> dict[bytes, tuple[bytes | None, int]]:
    """All that is on the server, with the instant at which it expires."""
    return {key: (await client.dump(key), await client.pexpiretime(key)) async for key in client.scan_iter(count=10_000)}


async def calls(client: Client) -> dict[str, int]:
    """How often each command was called since the server started."""
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in (await client.info("commandstats")).items()}


async def ttl_ms(client: Client, store: SessionStore, user: str, channel: str) -> int:
    return int(await client.pttl(store.key(user, channel)))


def json_session(user: str, channel: str, **given: Any) -> str:
    """As the example writes it."""
    now = "2024-05-06T07:08:09.123Z"
    return json.dumps({"userId": user, "channelId": channel, "data": {}, "createdAt": now, "updatedAt": now, **given})
