"""The contract: the live session and the middleware."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from .._store.base import BotSessionStore
from ..errors import SerializationError, SessionGone
from ..middleware import SessionMiddleware
from .harness import HOUR, VALUES, Harness, check, gone, load


class _Ctx:
    """The shape that ``SessionMiddleware`` knows without a ``key``."""

    session: Any

    def __init__(self, user_id: str, channel_id: str) -> None:
        self.message = type("Message", (), {"author": type("Author", (), {"id": user_id})})
        self.channel = type("Channel", (), {"id": channel_id})


class LiveContract(Harness):
    """What a handler sees of the store."""

    # --- the live session

    @check()
    async def test_live_session_session_saves_what_changed(self, store: BotSessionStore) -> None:
        async with store.session("u", "c") as session:
            assert (session.data, session.version) == ({}, 0)
            session.data["cart"] = [{"n": 1}]
            session.data["gone"] = True
        async with store.session("u", "c") as session:
            session.data["cart"][0]["n"] = 2
            del session.data["gone"]
            session.data["flag"] = True
        async with store.session("u", "c") as session:
            session.data["flag"] = 1
        loaded = await load(store)
        assert loaded.data == {"cart": [{"n": 2}], "flag": 1}
        assert type(loaded.data["flag"]) is int

    @check()
    async def test_live_session_session_writes_nothing_where_nothing_changed(self, store: BotSessionStore) -> None:
        async with store.session("u", "c"):
            pass
        assert await store.get("u", "c") is None
        data = {str(n): value for n, value in enumerate(VALUES)}
        version = await store.update("u", "c", data)
        async with store.session("u", "c") as session:
            session.data = dict(reversed(session.data.items()))
            await session.save()
            await session.update({"0": None})
        assert (await load(store)).version == version

    @check()
    async def test_live_session_session_saves_nothing_after_an_exception(self, store: BotSessionStore) -> None:
        with pytest.raises(LookupError):
            async with store.session("u", "c") as session:
                session.data["n"] = 1
                raise LookupError
        assert await store.get("u", "c") is None

    @check()
    async def test_live_session_two_sessions_at_once_keep_both_their_changes(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"a": 0, "b": 0, "c": 0})
        async with store.session("u", "c") as first, store.session("u", "c") as second:
            first.data["a"] = 1
            second.data["b"] = 2
            del second.data["c"]
        assert (await load(store)).data == {"a": 1, "b": 2}
        async with store.session("u", "new") as first, store.session("u", "new") as second:
            first.data["a"] = 1
            second.data["b"] = 2
        assert (await load(store, "u", "new")).data == {"a": 1, "b": 2}

    @check()
    async def test_live_session_session_methods(self, store: BotSessionStore) -> None:
        async with store.session("u", "c") as session:
            await session.update({"step": "name"})
            saved = await load(store)
            assert saved.data == session.data == {"step": "name"}
            fields = ("user_id", "channel_id", "created_at", "updated_at", "expires_at", "version")
            assert [getattr(session, name) for name in fields] == [getattr(saved, name) for name in fields]

            session.data["name"] = "Ada"
            session.expires_at = datetime.now(UTC) + HOUR
            await session.save()
            saved = await load(store)
            assert (saved.data, saved.expires_at) == ({"step": "name", "name": "Ada"}, session.expires_at)

            kept = session.data
            await session.delete()
            assert await store.get("u", "c") is None
            assert (kept, session.data, session.version) == ({"step": "name", "name": "Ada"}, {}, 0)
        assert await store.get("u", "c") is None
        async with store.session("u", "c") as session:
            await session.update({"old": 1})
            await session.delete()
            session.data["new"] = 1
        assert (await load(store)).data == {"new": 1}

    @check()
    async def test_live_session_refused_update_leaves_the_live_session_as_it_was(self, store: BotSessionStore) -> None:
        async with store.session("u", "c") as session:
            with pytest.raises(SerializationError):
                await session.update({"good": 1, "bad": object()})
            assert session.data == {}
        assert await store.get("u", "c") is None

    @check(ttl=3600)
    async def test_live_session_save_never_brings_a_session_back(self, store: BotSessionStore) -> None:
        async def delete() -> None:
            await store.delete("u", "c")

        async def clear() -> None:
            await store.clear("u")

        async def expire() -> None:
            await store.touch("u", "c", 0.05)
            await gone(store, "u", "c")

        async def replace_by_another() -> None:
            await store.delete("u", "c")
            await store.update("u", "c", {"another": True})

        for take_away in (delete, clear, expire, replace_by_another):
            await store.update("u", "c", {"n": 1})
            with pytest.raises(SessionGone):
                async with store.session("u", "c") as session:
                    await take_away()
                    session.data["n"] = 2
            left = await store.get("u", "c")
            assert (left and left.data) == ({"another": True} if take_away is replace_by_another else None)
            # A session that the handler itself made is no other case.
            await store.delete("u", "c")
            with pytest.raises(SessionGone):
                async with store.session("u", "c") as session:
                    await session.update({"n": 1})
                    await take_away()
                    session.data["n"] = 2
            await store.delete("u", "c")

    # --- the middleware

    @check()
    async def test_live_session_middleware_loads_and_saves(self, store: BotSessionStore) -> None:
        middleware = SessionMiddleware(store)
        ctx = _Ctx("u", "c")

        async def handler() -> str:
            ctx.session.data["n"] = ctx.session.data.get("n", 0) + 1
            return "result"

        assert await middleware(ctx, handler) == "result"
        assert await middleware(ctx, handler) == "result"
        assert (await load(store)).data == {"n": 2}

    @check()
    async def test_live_session_middleware_after_an_exception(self, store: BotSessionStore) -> None:
        ctx = _Ctx("u", "c")

        async def handler() -> None:
            ctx.session.data["n"] = 1
            raise LookupError

        with pytest.raises(LookupError):
            await SessionMiddleware(store)(ctx, handler)
        assert await store.get("u", "c") is None
        with pytest.raises(LookupError):
            await SessionMiddleware(store, save_on_error=True)(ctx, handler)
        assert (await load(store)).data == {"n": 1}

    @check()
    async def test_live_session_of_middleware_drops_changes_once_gone(self, store: BotSessionStore) -> None:
        ctx = _Ctx("u", "c")
        await store.update("u", "c", {"n": 1})

        async def handler() -> None:
            ctx.session.data["n"] = 2
            await store.delete("u", "c")

        await SessionMiddleware(store)(ctx, handler)
        assert await store.get("u", "c") is None

    @check()
    async def test_live_session_ended_use_is_harmless(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"n": 1})
        await store.aclose()
        await store.aclose()
