"""Reads the server that sessions are migrated from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import NoPermissionError, ResponseError, WatchError

from ..._transport.options import Target, checked, connection_options, for_sentinels
from .sources.base import Found, Source, Unit

#: Keys that SCAN looks at in one round trip.
SCAN_COUNT: Final = 1000
# RESP2 without decoding. A server that is silent for so many seconds counts as lost.
_CONNECTION: Final[dict[str, Any]] = {
    "protocol": 2,
    "socket_timeout": 10.0,
    "socket_connect_timeout": 5.0,
    # All commands that are sent here may be repeated.
    "retry": Retry(ExponentialBackoff(cap=0.5, base=0.1), 3),
}


class Reader:
    """Reads a source, and deletes there what has been migrated. Close it, or use it with ``async with``.

    Args:
        target: What the URL of the source says; one server, or what is behind sentinels.
        source: How its sessions are laid out.

    Raises:
        TypeError, ValueError: an option that does not exist, or a cluster.
    """

    def __init__(self, target: Target, source: Source) -> None:
        if target.kind == "cluster":
            raise ValueError("--url names a cluster, which none of these storages writes to; a target may be one: --to")
        options = {**_CONNECTION, **connection_options(target), "decode_responses": False}
        self._source = source
        self._sentinels: list[Redis] = []
        if target.kind == "sentinel":
            options.pop("connection_class", None)
            theirs = {**_CONNECTION, **for_sentinels(target.options), "ssl": target.is_tls, "retry": Retry(NoBackoff(), 0)}
            sentinel: Any = Sentinel(target.seeds, sentinel_kwargs=theirs)  # type: ignore[no-untyped-call] # redis-py has no types there
            self._client: Redis = sentinel.master_for(target.service, ssl=target.is_tls, **options)
            self._sentinels = sentinel.sentinels
        else:
            kind = options.pop("connection_class", Connection)
            checked(kind, options)
            self._client = Redis.from_pool(ConnectionPool(connection_class=kind, **options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def identity(self) -> str:
        """The run id of the server, since cursors of SCAN are valid for one run. Empty if the server does not report it."""
        try:
            return str((await self._client.info("server"))["run_id"])
        except (NoPermissionError, KeyError):
            return ""

    async def size(self) -> int:
        """The number of all keys of the database; 0 if the server does not report it."""
        try:
            return int(await self._client.dbsize())
        except NoPermissionError:
            return 0

    async def scan(self, cursor: int) -> tuple[int, list[bytes]]:
        """One step of SCAN; returns the next cursor (0 at the end) and keys."""
        reply: Any = await self._client.scan(cursor, match=self._source.pattern, count=SCAN_COUNT)
        return int(reply[0]), reply[1]

    async def read(self, units: Sequence[Unit]) -> list[list[Found]]:
        """Reads the keys of each unit.

        Raises:
            redis.exceptions.RedisError: the server cannot be asked, or refuses.
        """
        command, *fields = self._source.command
        async with self._client.pipeline(transaction=False) as pipeline:
            for unit in units:
                for key in unit.keys:
                    pipeline.execute_command(command, key, *fields)
                    # Read after the value: a key that has gone since then counts as gone.
                    pipeline.pttl(key)
            replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not is_wrong_type(reply):
                raise reply
        each = iter(replies)
        return [[Found(next(each), next(each)) for _ in unit.keys] for unit in units]

    async def delete(self, units: Sequence[Unit], found: Sequence[Sequence[Found]]) -> list[bool]:
        """Deletes the keys of the units that have not changed since they were read; returns for each whether it was deleted.

        If another client changes one between the check and the deletion, the server refuses the deletion (WATCH).
        """
        if not units:
            return []
        try:
            return await self._delete(units, found)
        except WatchError:
            if len(units) == 1:
                return [False]
        # One of them has changed just now, or the connection was lost. Halving the batch finds the one.
        half = len(units) // 2
        return [*await self.delete(units[:half], found[:half]), *await self.delete(units[half:], found[half:])]

    async def _delete(self, units: Sequence[Unit], found: Sequence[Sequence[Found]]) -> list[bool]:
        pipeline: Pipeline
        async with self._client.pipeline(transaction=True) as pipeline:
            await pipeline.watch(*(key for unit in units for key in unit.keys))
            now = await self.read(units)
            unchanged = [_is_unchanged(before, after) for before, after in zip(found, now, strict=True)]
            keys = [key for unit, is_same in zip(units, unchanged, strict=True) if is_same for key in unit.keys]
            if keys:
                pipeline.multi()  # type: ignore[no-untyped-call] # redis-py has no types there
                pipeline.unlink(*keys)
                await pipeline.execute()
        return unchanged


def is_wrong_type(error: BaseException) -> bool:
    """Whether an error reply says that a key is of another type than the command expects."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def _is_unchanged(before: Sequence[Found], now: Sequence[Found]) -> bool:
    # If all keys of a unit are gone, nothing can be lost (or this run deleted them, and the reply was lost). If one of two is
    # gone, the bot has changed the session.
    is_gone = not any(each.exists for each in now)
    return is_gone or [each.value for each in now] == [each.value for each in before]
