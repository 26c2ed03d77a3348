"""The persistence for python-telegram-bot on a Redis that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio
from redis.exceptions import NoPermissionError

from redis_botsession import OutcomeUnknown, SessionStore
from redis_botsession.adapters.telegram import BotSessionPersistence

from ...support.proxy import ReplyLosingProxy
from ...support.telegram_application import build, handle, message, put, running, seen, stored, write

CHANNEL = "777.user_data"
USER = 42


@pytest.fixture
async def store(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """Another process's."""
    async with SessionStore.from_url(newest_url, prefix=prefix, ttl=None) as store:
        yield store


class Failing:
    """A bot's user of Redis, whose commands can be refused."""

    def __init__(self, client: redis.asyncio.Redis, url: str, name: str) -> None:
        self._client = client
        self._name = name
        target = urlsplit(url)
        self.url = f"redis://{name}:pw@{target.hostname}:{target.port}{target.path}"

    async def allow(self, *rules: str) -> None:
        await self._client.execute_command("ACL", "SETUSER", self._name, "on", ">pw", "~*", "&*", *rules)  # type: ignore[no-untyped-call] # redis-py's

    @asynccontextmanager
    async def refusing(self, command: str) -> AsyncIterator[None]:
        await self.allow(f"-{command}")
        try:
            yield
        finally:
            await self.allow(f"+{command}")

    async def refused(self, command: str) -> int:
        """How many were."""
        stats: dict[str, Any] = await self._client.info("commandstats")
        count: int = stats.get(f"cmdstat_{command}", {}).get("rejected_calls", 0)
        return count


@pytest.fixture
async def failing(newest_url: str, prefix: str) -> AsyncIterator[Failing]:
    name = prefix.replace(":", "")
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        user = Failing(client, newest_url, name)
        await user.allow("+@all")
        yield user
        await client.acl_deluser(name)


async def test_persistence_what_could_not_be_written_is_told_and_written_later(
    failing: Failing, prefix: str, store: SessionStore
) -> None:
    # With callback data, PTB has two things written at each run.
    async with running(BotSessionPersistence.from_url(failing.url, prefix=prefix), arbitrary_callback_data=True) as app:
        for user in range(1, 6):
            await put(app, user, a=user)
        async with failing.refusing("evalsha"):
            assert [type(error) for error in await write(app)] == [NoPermissionError] * 5
            # While it fails, each run tries once and reports it.
            for _ in range(3):
                before = await failing.refused("evalsha")
                assert [type(error) for error in await write(app)] == [NoPermissionError]
                assert await failing.refused("evalsha") == before + 5
        assert await stored(store, 1) is None
        # PTB has forgotten who it was.
        assert await write(app) == []
        assert [await stored(store, user) for user in range(1, 6)] == [{"a": user} for user in range(1, 6)]
        before_all = await store.get(1, CHANNEL)
        assert await write(app) == []
        assert await store.get(1, CHANNEL) == before_all


async def test_persistence_newer_data_replace_failed_writes(failing: Failing, prefix: str, store: SessionStore) -> None:
    async with running(BotSessionPersistence.from_url(failing.url, prefix=prefix)) as app:
        await put(app, a=1, b=1, c=1)
        await write(app)
        await put(app, a=2, b=2)
        async with failing.refusing("evalsha"):
            assert len(await write(app)) == 1
        await put(app, a=3, c=2)
        assert await write(app) == []
        assert await stored(store) == {"a": 3, "b": 2, "c": 2}
        assert await write(app) == []
        assert await stored(store) == {"a": 3, "b": 2, "c": 2}


async def test_persistence_shutdown_reports_failed_writes_and_retries(
    failing: Failing, prefix: str, store: SessionStore
) -> None:
    app = build(BotSessionPersistence.from_url(failing.url, prefix=prefix))
    await app.initialize()
    await put(app, a=1)
    async with failing.refusing("evalsha"):
        with pytest.raises(NoPermissionError):
            await app.shutdown()
    await app.shutdown()
    assert await stored(store) == {"a": 1}


@pytest.mark.parametrize("reply", ["lost", "there"])
async def test_persistence_write_in_doubt_is_repeated(reply: str, newest_url: str, prefix: str, store: SessionStore) -> None:
    async with ReplyLosingProxy(newest_url) as proxy, running(BotSessionPersistence.from_url(proxy.url, prefix=prefix)) as app:
        await put(app, a=1, b=[1])
        await write(app)
        await put(app, a=2, b=[2], c=3)
        if reply == "lost":
            proxy.needle, proxy.lose_replies = b"EVALSHA", 1
        errors = await write(app)
        assert [type(error) for error in errors] == ([OutcomeUnknown] if reply == "lost" else [])
        assert await stored(store) == {"a": 2, "b": [2], "c": 3}

        # As it was: what PTB hands over now equals what was acknowledged last.
        app.user_data[USER].update(a=1, b=[1])
        del app.user_data[USER]["c"]
        app.mark_data_for_update_persistence(user_ids=USER)
        assert await write(app) == []
        assert await stored(store) == {"a": 1, "b": [1]}


async def test_persistence_failed_drop_is_repeated_later(failing: Failing, prefix: str, store: SessionStore) -> None:
    async with running(BotSessionPersistence.from_url(failing.url, prefix=prefix)) as app:
        await put(app, 1, old=1)
        await put(app, 2, old=1, older=2)
        await put(app, 3, old=1, older=2)
        await write(app)
        for user in (1, 2, 3):
            app.drop_user_data(user)
        async with failing.refusing("evalsha"):
            assert len(await write(app)) == 3
            # Not handled with what should be gone.
            with pytest.raises(NoPermissionError):
                await seen(app, 2)
            # PTB has it written though the user was not seen since.
            app.user_data[3]["new"] = 1
            app.mark_data_for_update_persistence(user_ids=3)
            assert len(await write(app)) == 2
        assert await stored(store, 2) == {"old": 1, "older": 2}
        assert await seen(app, 2) == {}
        assert await stored(store, 2) is None
        assert await write(app) == []
        assert await stored(store, 1) is None
        assert await stored(store, 3) == {"new": 1}
        await put(app, 1, old=1)
        assert await write(app) == []
        assert await stored(store, 1) == {"old": 1}


async def test_persistence_drop_that_is_done_is_not_done_again(failing: Failing, prefix: str, store: SessionStore) -> None:
    async with running(BotSessionPersistence.from_url(failing.url, prefix=prefix)) as app:
        await put(app, old=1)
        await write(app)
        app.drop_user_data(USER)
        async with failing.refusing("evalsha"):
            assert len(await write(app)) == 1
        app.user_data[USER]["new"] = 1
        app.mark_data_for_update_persistence(user_ids=USER)
        async with failing.refusing("hset"):
            # The old session is removed, the new one cannot be written.
            assert len(await write(app)) == 1
        assert await stored(store) is None
        await store.update(USER, CHANNEL, {"theirs": 1})
        assert await write(app) == []
        assert await stored(store) == {"theirs": 1, "new": 1}


async def test_persistence_drop_gives_up_failed_writes(failing: Failing, prefix: str, store: SessionStore) -> None:
    async with running(BotSessionPersistence.from_url(failing.url, prefix=prefix)) as app:
        await put(app, a=1)
        await write(app)
        await put(app, a=2)
        async with failing.refusing("evalsha"):
            assert len(await write(app)) == 1
        await store.clear(USER)
        # Not by a message, after which PTB would hand over what it has then.
        assert app.persistence is not None
        await app.persistence.refresh_user_data(USER, app.user_data[USER])
        assert app.user_data[USER] == {}
        assert await write(app) == []
        assert await stored(store) is None


async def test_persistence_writes_a_failed_conversation_step_later(failing: Failing, prefix: str) -> None:
    persistence = BotSessionPersistence.from_url(failing.url, prefix=prefix)
    async with running(persistence):
        await persistence.update_conversation("c", (1, 2), "ends")
        async with failing.refusing("evalsha"):
            for key, state in (((1, 2), None), ((3, 4), "old"), ((3, 4), "new")):
                with pytest.raises(NoPermissionError):
                    await persistence.update_conversation("c", key, state)
        await persistence.update_bot_data({})
        assert await persistence.get_conversations("c") == {(3, 4): "new"}


async def test_persistence_what_is_refused_is_not_handled_with_old_data(failing: Failing, prefix: str) -> None:
    async with running(BotSessionPersistence.from_url(failing.url, prefix=prefix)) as app:
        await put(app, a=1)
        async with failing.refusing("hgetall"):
            with pytest.raises(NoPermissionError):
                await handle(app, message("x"), lambda _: pytest.fail("handled"))
        assert await seen(app) == {"a": 1}
