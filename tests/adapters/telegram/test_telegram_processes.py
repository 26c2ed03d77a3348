"""The persistence for python-telegram-bot: several processes of one bot, and a Redis that fails; on a real Redis."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from telegram.ext import MessageHandler, filters

from redis_botsession import MemorySessionStore, SessionStore
from redis_botsession._session.record import Id, Loaded
from redis_botsession.adapters.telegram import BotSessionPersistence
from redis_botsession.testing.harness import load

from ...support.telegram_application import App, build, feed, handle, message, put, running, seen, stored, write

USER = 42
CHANNEL = "777.user_data"


@pytest.fixture
async def store(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """Another process's."""
    async with SessionStore.from_url(newest_url, prefix=prefix, ttl=None) as store:
        yield store


@asynccontextmanager
async def two(url: str, prefix: str, **options: Any) -> AsyncIterator[tuple[App, App]]:
    """Two processes of one bot."""
    first, second = (BotSessionPersistence.from_url(url, prefix=prefix, **options) for _ in range(2))
    async with running(first) as one, running(second) as other:
        yield one, other


def persistence_of(app: App) -> BotSessionPersistence:
    assert isinstance(app.persistence, BotSessionPersistence)
    return app.persistence


# --- Side by side


@pytest.mark.parametrize("preload", [True, False])
async def test_persistence_two_applications_keep_each_others_keys(
    newest_url: str, prefix: str, store: SessionStore, preload: bool
) -> None:
    def change(name: str) -> Any:
        def callback(context: Any) -> None:
            for data in (context.user_data, context.chat_data, context.bot_data):
                data[name] = {"by": name}

        return callback

    async with two(newest_url, prefix, preload=preload) as (one, other):
        for n in range(50):
            await handle(one, message("x", chat=-5), change(f"one {n}"))
            await handle(other, message("x", chat=-5), change(f"other {n}"))
            if n % 10 == 9:
                assert await write(one) + await write(other) == []
    names = {f"{app} {n}" for app in ("one", "other") for n in range(50)}
    for user, channel in ((USER, CHANNEL), (-5, "777.chat_data"), ("bot.777", "bot_data")):
        assert set((await load(store, user, channel)).data) == names


WORKER = """
import asyncio, sys
from redis_botsession.adapters.telegram import BotSessionPersistence
from tests.support.telegram_application import handle, message, running, write

url, prefix, name = sys.argv[1:]

async def main():
    async with running(BotSessionPersistence.from_url(url, prefix=prefix)) as app:
        print("ready", flush=True)
        sys.stdin.readline()
        for n in range(50):
            def change(context):
                context.user_data[f"{name} {n}"] = n
                context.bot_data[f"{name} {n}"] = n
            await handle(app, message("x"), change)
            assert await write(app) == []

asyncio.run(main())
"""


async def test_persistence_two_processes_keep_each_others_keys(newest_url: str, prefix: str, store: SessionStore) -> None:
    pipe = subprocess.PIPE
    lines = [(sys.executable, "-c", WORKER, newest_url, prefix, name) for name in ("one", "other")]
    workers = [await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe) for line in lines]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    assert [worker.returncode for worker in workers] == [0, 0]
    names = {f"{name} {n}" for name in ("one", "other") for n in range(50)}
    assert set(await stored(store) or {}) == names
    assert set((await load(store, "bot.777", "bot_data")).data) == names


async def test_persistence_handlers_see_changes_of_other_processes(newest_url: str, prefix: str) -> None:
    async with two(newest_url, prefix) as (one, other):
        await put(one, kept=[1], changed="old", removed=1)
        await write(one)
        assert await seen(other) == {"kept": [1], "changed": "old", "removed": 1}
        held = other.user_data[USER]
        nested = held["kept"]

        await put(one, changed="new", added=(1, 2))
        await handle(one, message("x"), lambda context: context.user_data.pop("removed"))
        await write(one)
        assert await seen(other) == {"kept": [1], "changed": "new", "added": (1, 2)}
        # In place, and what has not changed is still the same object.
        assert other.user_data[USER] is held
        assert held["kept"] is nested


async def test_persistence_what_is_not_written_yet_survives_a_refresh(
    newest_url: str, prefix: str, store: SessionStore
) -> None:
    async with two(newest_url, prefix) as (one, other):
        await put(one, both="old", mine=[0], mine_removed=1, theirs=1)
        await write(one)
        await seen(other)

        await put(other, both="other's", mine=[1], new=1)
        await handle(other, message("x"), lambda context: context.user_data.pop("mine_removed"))
        await put(one, both="one's", theirs=2, more=3)
        await write(one)
        # Of what both have changed, the last write will win.
        assert await seen(other) == {"both": "other's", "mine": [1], "new": 1, "theirs": 2, "more": 3}
        await write(other)
        assert await stored(store) == {"both": "other's", "mine": [1], "new": 1, "theirs": 2, "more": 3}
        assert await seen(one) == await seen(other)


async def test_persistence_write_keeps_what_a_refresh_brings_meanwhile(
    newest_url: str, prefix: str, store: SessionStore
) -> None:
    async with two(newest_url, prefix) as (one, _):
        await put(one, a=1)
        await write(one)
        await put(one, a=2)
        # PTB has made its copy, and awaits this a little later.
        writing = persistence_of(one).update_user_data(USER, copy.deepcopy(one.user_data[USER]))
        await store.update(USER, CHANNEL, {"theirs": 1})
        assert await seen(one) == {"a": 2, "theirs": 1}
        await writing
        assert await stored(store) == {"a": 2, "theirs": 1}


async def test_persistence_what_ptb_is_given_is_its_own_to_change(newest_url: str, prefix: str, store: SessionStore) -> None:
    async with two(newest_url, prefix) as (one, other):
        await put(one, a=[[1]])
        await write(one)
        await seen(other)
        await handle(other, message("x"), lambda context: context.user_data["a"][0].append(2))
        await write(other)
        assert await stored(store) == {"a": [[1, 2]]}


async def test_persistence_messages_at_once_in_both_lose_nothing(newest_url: str, prefix: str, store: SessionStore) -> None:
    async def note(update: Any, context: Any) -> None:
        for data in (context.user_data, context.bot_data):
            await asyncio.sleep(0)
            data[update.effective_message.text] = [update.effective_message.text]

    async def serve(app: App, name: str) -> None:
        app.add_handler(MessageHandler(filters.ALL, note))
        for first in range(0, 50, 10):
            messages = [feed(app, message(f"{name} {n}")) for n in range(first, first + 10)]
            await asyncio.gather(*messages, *(app.update_persistence() for _ in range(3)))

    async with two(newest_url, prefix) as (one, other):
        await asyncio.gather(serve(one, "one"), serve(other, "other"))
    expected = {f"{app} {n}": [f"{app} {n}"] for app in ("one", "other") for n in range(50)}
    assert await stored(store) == expected
    assert (await load(store, "bot.777", "bot_data")).data == expected


# --- What was deleted


@pytest.mark.parametrize("how", ["drop", "clear"])
async def test_persistence_what_was_dropped_elsewhere_does_not_come_back(
    how: str, newest_url: str, prefix: str, store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(newest_url, prefix) as (one, other):
        await put(one, old=1, older=2)
        await write(one)
        await put(other, old=3)

        if how == "drop":
            one.drop_user_data(USER)
            await write(one)
        else:
            await store.clear(USER)
        assert await stored(store) is None

        # What the other has changed in it is given up, and said so.
        assert await write(other) == []
        assert await stored(store) is None
        assert "changes dropped" in caplog.text
        other.mark_data_for_update_persistence(user_ids=USER)
        assert await write(other) == []
        assert await stored(store) is None

        # With the next message it is empty, and what comes then is new.
        assert await seen(other) == {}
        await put(other, new=1)
        assert await write(other) == []
        assert await stored(store) == {"new": 1}


async def test_persistence_does_not_mix_a_new_session_with_the_old(newest_url: str, prefix: str, store: SessionStore) -> None:
    async with two(newest_url, prefix) as (one, other):
        await put(one, old=1, older=2)
        await write(one)
        await put(other, old=3, unsaved=4)
        one.drop_user_data(USER)
        await write(one)
        await put(one, new=1)
        await write(one)

        assert await seen(other) == {"new": 1}
        await put(other, more=2)
        await write(other)
        assert await stored(store) == {"new": 1, "more": 2}


async def test_persistence_who_began_a_session_notices_that_there_is_another(newest_url: str, prefix: str) -> None:
    async with two(newest_url, prefix) as (one, other):
        await put(one, old=1)
        await write(one)
        one.user_data[USER]["unsaved"] = 1
        other.drop_user_data(USER)
        await write(other)
        await put(other, new=1)
        await write(other)
        assert await seen(one) == {"new": 1}


async def test_persistence_what_is_dropped_before_it_was_ever_written(
    newest_url: str, prefix: str, store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.update(USER, CHANNEL, {"old": 1})
    async with two(newest_url, prefix, preload=False) as (one, _):
        await seen(one)
        one.drop_user_data(USER)
        await write(one)
        # There was no write since, so another handler touches the new dict before it is ever refreshed.
        one.user_data[USER].clear()
        one.mark_data_for_update_persistence(user_ids=USER)
        await write(one)
        assert await stored(store) is None
        assert "dropped" not in caplog.text

        one.user_data[USER]["new"] = 1
        one.mark_data_for_update_persistence(user_ids=USER)
        await write(one)
        assert await stored(store) == {"new": 1}
        one.user_data[USER]["unsaved"] = 1
        assert await seen(one) == {"new": 1, "unsaved": 1}


@pytest.mark.parametrize("preload", [True, False])
async def test_persistence_new_data_after_a_drop_are_all_kept(
    newest_url: str, prefix: str, store: SessionStore, preload: bool
) -> None:
    await store.update(USER, CHANNEL, {"lang": "en", "name": "Ada"})
    async with two(newest_url, prefix, preload=preload) as (one, _):
        assert await seen(one) == {"lang": "en", "name": "Ada"}
        one.drop_user_data(USER)
        # The drop is written later; until then nothing of before is to be seen, nor afterwards.
        await store.update(USER, CHANNEL, {"theirs": 1})
        assert await seen(one) == {}
        await put(one, lang="en")
        await write(one)
        assert await stored(store) is None
        await put(one, more=1)
        await write(one)
        assert await seen(one) == {"lang": "en", "more": 1}
        assert await stored(store) == {"lang": "en", "more": 1}


async def test_persistence_what_was_loaded_between_a_drop_and_its_writing_goes(
    newest_url: str, prefix: str, store: SessionStore
) -> None:
    await store.update(USER, CHANNEL, {"old": 1, "older": 2})
    async with two(newest_url, prefix, preload=False) as (one, _):
        one.drop_user_data(USER)
        await put(one, new=1)
        await write(one)
        assert await stored(store) is None
        assert await seen(one) == {"new": 1}
        await write(one)
        assert await stored(store) == {"new": 1}


async def test_persistence_chat_that_migrates_takes_its_data_along(newest_url: str, prefix: str, store: SessionStore) -> None:
    async with two(newest_url, prefix) as (one, _):
        await handle(one, message("x", chat=-1), lambda context: context.chat_data.update(a=1, b=[2]))
        await handle(one, message("x", chat=-2), lambda context: context.chat_data.update(overwritten=1))
        await write(one)
        one.migrate_chat_data(old_chat_id=-1, new_chat_id=-2)
        await handle(one, message("x", chat=-2), lambda context: context.chat_data.update(c=3))
        await write(one)
        assert await stored(store, -1, "777.chat_data") is None
        assert await stored(store, -2, "777.chat_data") == {"a": 1, "b": [2], "c": 3}
        await handle(one, message("x", chat=-2), lambda context: context.chat_data.pop("a"))
        await write(one)
        assert await stored(store, -2, "777.chat_data") == {"b": [2], "c": 3}


@pytest.mark.parametrize("preload", [True, False])
async def test_persistence_that_is_used_again_loses_nothing(
    newest_url: str, prefix: str, store: SessionStore, preload: bool
) -> None:
    persistence = BotSessionPersistence.from_url(newest_url, prefix=prefix, preload=preload)
    async with running(persistence) as app:
        await put(app, a=1, b=1)
    await store.update(USER, CHANNEL, {"a": 2})
    # A new application has dicts of its own, ...
    app = build(persistence)
    async with app:
        assert await seen(app) == {"a": 2, "b": 1}
        await put(app, c=1)
    await store.update(USER, CHANNEL, {"a": 3}, remove=["b"])
    # ... and the old one those of before.
    async with app:
        assert await seen(app) == {"a": 3, "c": 1}
        await put(app, d=1)
    assert await stored(store) == {"a": 3, "c": 1, "d": 1}


async def test_persistence_new_session_after_restart_is_its_own(newest_url: str, prefix: str, store: SessionStore) -> None:
    async with two(newest_url, prefix, preload=False) as (one, _):
        await put(one, a=1)
        await write(one)
        await seen(one)
        # As when the application is initialized again.
        assert await persistence_of(one).get_user_data() == {}
        await store.clear(USER)
        one.user_data[USER]["b"] = 1
        one.mark_data_for_update_persistence(user_ids=USER)
        await write(one)
        one.user_data[USER]["unsaved"] = 1
        assert await seen(one) == {"b": 1, "unsaved": 1}
        assert await stored(store) == {"b": 1}


# --- Refreshing while something is written


class Slow(MemorySessionStore):
    """Holds back what it has loaded until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__(ttl=None, cleanup_interval=None)
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.has_loaded = asyncio.Event()

    async def load(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> Loaded | None:
        loaded = await super().load(user_id, channel_id, touch=touch)
        self.has_loaded.set()
        await self.goes_on.wait()
        return loaded


@asynccontextmanager
async def refreshing(data: dict[Any, Any]) -> AsyncIterator[tuple[BotSessionPersistence, Slow]]:
    """The body runs while ``data`` of chat -1 is being refreshed, and has been loaded as it is."""
    store = Slow()
    persistence = BotSessionPersistence(store, bot_id=777)
    await persistence.refresh_chat_data(-1, data)
    await persistence.update_chat_data(-1, copy.deepcopy(data))
    store.goes_on.clear()
    store.has_loaded.clear()
    task = asyncio.ensure_future(persistence.refresh_chat_data(-1, data))
    await store.has_loaded.wait()
    yield persistence, store
    store.goes_on.set()
    await task


async def test_persistence_what_was_loaded_before_a_write_does_not_undo_it() -> None:
    data = {"a": 1}
    async with refreshing(data) as (persistence, store):
        data["a"] = 2
        writing = asyncio.ensure_future(persistence.update_chat_data(-1, copy.deepcopy(data)))
        for _ in range(20):
            await asyncio.sleep(0)
    await writing
    assert data == {"a": 2}
    assert (await load(store, -1, "777.chat_data")).data == {"a": 2}


async def test_persistence_load_before_a_drop_leaves_the_dict_alone() -> None:
    data = {"a": 1}
    async with refreshing(data) as (persistence, store):
        # A chat has migrated: PTB has its dict under another id now.
        dropping = asyncio.ensure_future(persistence.drop_chat_data(-1))
        await asyncio.sleep(0)
    await dropping
    assert data == {"a": 1}
    assert await store.get(-1, "777.chat_data") is None
