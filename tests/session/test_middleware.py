"""The middleware's edges; what it does to sessions is in the contract."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from redis_botsession import BotSessionHelper, SessionGone, SessionMiddleware, memory_store, sync
from redis_botsession.testing.harness import load


def make_ctx() -> Any:
    return SimpleNamespace(message=SimpleNamespace(author=SimpleNamespace(id=42)), channel=SimpleNamespace(id=-7))


async def nothing() -> None:
    pass


async def test_middleware_session_is_live_and_of_the_author_in_the_channel() -> None:
    ctx, store = make_ctx(), memory_store()
    await SessionMiddleware(store)(ctx, nothing)
    assert isinstance(ctx.session, BotSessionHelper)
    assert (ctx.session.user_id, ctx.session.channel_id) == ("42", "-7")


async def test_middleware_another_shape_is_told_with_what_to_do() -> None:
    middleware = SessionMiddleware(memory_store())
    with pytest.raises(TypeError, match="key=lambda"):
        await middleware(SimpleNamespace(user=1), nothing)


async def test_middleware_key_finds_the_ids_or_says_that_there_is_no_session() -> None:
    store = memory_store()
    middleware = SessionMiddleware(store, key=lambda ctx: (ctx.user, "c") if ctx.user else None)
    ctx: Any = SimpleNamespace(user=7)

    async def count() -> None:
        ctx.session.data["n"] = 1

    await middleware(ctx, count)
    assert (await load(store, 7)).data == {"n": 1}
    ctx.user = None
    await middleware(ctx, nothing)
    assert ctx.session is None


async def test_middleware_what_is_no_store_is_refused() -> None:
    with pytest.raises(TypeError, match="BotSessionStore"):
        SessionMiddleware("redis://")  # type: ignore[arg-type] # on purpose


async def test_middleware_dropped_changes_are_logged_without_any_data(caplog: pytest.LogCaptureFixture) -> None:
    ctx, store = make_ctx(), memory_store()
    await store.update(42, -7, {"code": "hunter2"})

    async def handler() -> None:
        ctx.session.data["code"] = "hunter3"
        await store.clear(42)

    with caplog.at_level(logging.DEBUG):
        await SessionMiddleware(store)(ctx, handler)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("redis_botsession.middleware", logging.WARNING)
    assert store.key(42, -7) in record.getMessage()
    assert "hunter" not in caplog.text
    assert await store.get(42, -7) is None


async def test_middleware_own_save_of_a_gone_session_raises() -> None:
    ctx, store = make_ctx(), memory_store()
    await store.update(42, -7, {"n": 1})
    seen = []

    async def handler() -> None:
        await store.delete(42, -7)
        try:
            await ctx.session.update({"n": 2})
        except SessionGone as error:
            seen.append(error.key)

    await SessionMiddleware(store)(ctx, handler)
    assert seen == [store.key(42, -7)]
    assert await store.get(42, -7) is None


async def test_middleware_cancelled_handler_saves_nothing() -> None:
    ctx, store = make_ctx(), memory_store()
    started = asyncio.Event()

    async def handler() -> None:
        ctx.session.data["n"] = 1
        started.set()
        await asyncio.Event().wait()

    for save_on_error in (False, True):
        started.clear()
        task = asyncio.create_task(SessionMiddleware(store, save_on_error=save_on_error)(ctx, handler))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.get(42, -7) is None


async def test_middleware_concurrent_updates_in_one_handler_are_all_saved() -> None:
    store = memory_store()
    async with store.session("u", "c") as session:
        await asyncio.gather(*(session.update({f"k{n}": n}) for n in range(20)))
    assert (await load(store)).data == {f"k{n}": n for n in range(20)}


@pytest.mark.parametrize("ids", ["ab", 5, (1,), (1, 2, 3), [1, 2]])
async def test_middleware_refuses_what_is_no_pair_of_ids(ids: Any) -> None:
    ctx, store = make_ctx(), memory_store()

    async def handler() -> None:
        raise AssertionError("it must not be called")

    with pytest.raises(TypeError, match=r"must return \(user_id, channel_id\) or None"):
        await SessionMiddleware(store, key=lambda _: ids)(ctx, handler)


def test_middleware_names_the_module_of_a_wrong_store() -> None:
    store = sync.SessionStore.from_url("redis://localhost:6379/0")
    with pytest.raises(TypeError, match=r"redis_botsession\.SessionStore, not redis_botsession\.sync\.SessionStore"):
        SessionMiddleware(store)  # type: ignore[arg-type] # on purpose
    store.close()
