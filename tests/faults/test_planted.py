"""Runs the workload on stores with a planted bug: the checker finds each bug, and finds nothing in the real store."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_botsession import BotSession, OutcomeUnknown, SessionStore
from redis_botsession._session.changes import Write
from redis_botsession._session.record import Id
from redis_botsession.embedded import LocalServer, find_server

from ..support.proxy_steered import SteeredProxy
from ..support.shifting_pipeline import ShiftingPipeline
from .faults import Environment, kill
from .workload import SEED, Workload

OPERATIONS = 1000
#: How often all connections are cut in the middle of a reply.
ROUNDS = 8

with_seed = pytest.mark.parametrize("seed", [pytest.param(SEED, id=f"seed={SEED}")])


class Resending(SessionStore):
    """A store that sends a write again when its reply is lost."""

    async def update(self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], **options: Any) -> int:
        command = self._commands.write(user_id, channel_id, Write(values=changes, **options))
        command.resend = True
        return await self._executor.run(command)


class Reassuring(SessionStore):
    """A store that reports a write with an unknown outcome as not applied."""

    async def update(self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], **options: Any) -> int:
        try:
            return await super().update(user_id, channel_id, changes, **options)
        except OutcomeUnknown as error:
            raise redis.ConnectionError(str(error)) from error


class Forgetful(SessionStore):
    """A store that reports success for one write in 50 without writing."""

    dice = random.Random(SEED)  # noqa: S311 - a test that can be repeated

    async def update(self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], **options: Any) -> int:
        if self.dice.random() < 0.02:
            session = await self.get(user_id, channel_id)
            return session.version + 1 if session else 1
        return await super().update(user_id, channel_id, changes, **options)


class Careless(SessionStore):
    """A store that ignores the expected version."""

    async def update(self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], **options: Any) -> int:
        return await super().update(user_id, channel_id, changes, **{**options, "expected_version": None})


class Caching(SessionStore):
    """A store that sometimes returns a session as it was at an earlier load."""

    dice = random.Random(SEED)  # noqa: S311 - a test that can be repeated

    async def get(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> BotSession | None:
        cache: dict[tuple[Id, Id], BotSession | None] = self.__dict__.setdefault("cache", {})
        if (user_id, channel_id) not in cache or self.dice.random() < 0.9:
            cache[user_id, channel_id] = await super().get(user_id, channel_id, touch=touch)
        return cache[user_id, channel_id]


async def nothing() -> None:
    """Makes no fault."""


async def replies_lost(workload: Workload, proxy: SteeredProxy) -> None:
    for _ in range(ROUNDS):
        await workload.until_all_progress()
        await proxy.until_gone(proxy.lose_replies())


async def work(
    make: type[SessionStore], url: str, prefix: str, seed: str, *, is_lossy: bool = False, cancels: float = 0.0
) -> Workload:
    """Runs a workload on two stores, and returns it when it has ended."""
    async with (
        SteeredProxy(url, seed) as proxy,
        make.from_url(proxy.url, prefix=prefix, max_connections=2) as one,
        make.from_url(proxy.url, prefix=prefix, max_connections=2) as other,
    ):
        workload = Workload(seed, [one, other], cancels=cancels)
        faults: Callable[[], Awaitable[None]] = partial(replies_lost, workload, proxy) if is_lossy else nothing
        await workload.run(faults, OPERATIONS)
        assert proxy.made["lose"] >= ROUNDS * is_lossy
        return workload


async def violations_of(workload: Workload, url: str, prefix: str) -> str:
    async with SessionStore.from_url(url, prefix=prefix) as fresh:
        return "\n".join(map(str, await workload.check(fresh)))


@with_seed
@pytest.mark.parametrize("is_lossy", [False, True])
async def test_planted_bug_none_is_found_in_the_real_store(is_lossy: bool, newest_url: str, prefix: str, seed: str) -> None:
    workload = await work(SessionStore, newest_url, prefix, seed, is_lossy=is_lossy, cancels=0.1)
    assert await violations_of(workload, newest_url, prefix) == ""
    assert workload.errors.keys() == ({("write", "OutcomeUnknown")} if is_lossy else set())


@with_seed
@pytest.mark.parametrize(
    ("bug", "is_lossy", "what"),
    [
        (Resending, True, "refused (VersionConflict), but present"),
        (Reassuring, True, "refused (ConnectionError), but present"),
        (Forgetful, False, "and lost"),
        (Careless, False, "and lost"),
        (Caching, False, "were visible before it began"),
    ],
)
async def test_planted_bug_in_a_store_is_found(
    bug: type[SessionStore], is_lossy: bool, what: str, newest_url: str, prefix: str, seed: str
) -> None:
    workload = await work(bug, newest_url, prefix, seed, is_lossy=is_lossy)
    found = await violations_of(workload, newest_url, prefix)
    assert what in found
    assert f"seed {seed}" in found


@with_seed
async def test_planted_bug_dropping_cancelled_slots_is_found(
    newest_url: str, prefix: str, seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("redis_botsession._transport.connection.Pipeline", ShiftingPipeline)
        workload = await work(SessionStore, newest_url, prefix, seed, cancels=0.1)
    # A reply of another call either cannot be parsed, or is a wrong result.
    assert workload.errors or await violations_of(workload, newest_url, prefix)


@with_seed
async def test_planted_bug_losing_acknowledged_writes_is_found(prefix: str, seed: str, tmp_path: Path) -> None:
    server = LocalServer(find_server(), tcp=True, data=tmp_path, options=["--appendonly", "no"])
    server.start()
    async with SessionStore.from_url(server.url, prefix=prefix) as store:
        environment = Environment(partial(LocalServer, find_server()), server, tmp_path)
        environment.workload = workload = Workload(seed, [store])
        try:

            async def restart() -> None:
                await workload.until_all_progress()
                await kill(environment)

            await workload.run(restart, OPERATIONS)
            assert "and lost" in await violations_of(workload, server.url, prefix)
        finally:
            environment.server.stop()
