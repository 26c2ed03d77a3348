"""The contract: records, ids and what can be stored."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from .._codec.walk import MAX_DEPTH
from .._session.record import BotSession
from .._store.base import BotSessionStore
from ..errors import SerializationError, SessionTooLarge
from .harness import HOUR, ODD_IDS, VALUES, Harness, check, load


class RecordContract(Harness):
    """The contract: a session is read as it was written, by its own ids only."""

    # --- get and set

    @check()
    async def test_store_ping_reaches_the_store(self, store: BotSessionStore) -> None:
        await store.ping()
        assert await store.size() == 0

    @check()
    async def test_store_session_that_is_not_there_is_none(self, store: BotSessionStore) -> None:
        assert await store.get("u", "c") is None
        assert await store.get("u", "c", touch=True) is None
        assert await store.size() == 0

    @check()
    async def test_set_then_get_gives_the_session_back(self, store: BotSessionStore) -> None:
        created = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        deadline = datetime.now(UTC) + HOUR
        version = await store.set("u", "c", BotSession("u", "c", {"step": "name"}, created_at=created, expires_at=deadline))
        session = await load(store)
        assert session == BotSession("u", "c", {"step": "name"}, created, session.updated_at, deadline, version)
        assert session.updated_at.utcoffset() == timedelta(0)
        assert session.updated_at > created

    @check()
    async def test_set_replaces_all(self, store: BotSessionStore) -> None:
        await store.set("u", "c", BotSession("u", "c", {"old": 1, "both": 1}, expires_at=datetime.now(UTC) + HOUR))
        await store.set("u", "c", BotSession("u", "c", {"both": 2, "new": 2}))
        session = await load(store)
        assert session.data == {"both": 2, "new": 2}
        assert session.expires_at is None

    @check()
    async def test_store_empty_session_is_a_session(self, store: BotSessionStore) -> None:
        await store.set("u", "c", BotSession("u", "c"))
        assert (await load(store)).data == {}
        await store.update("u", "d", {})
        assert (await load(store, "u", "d")).data == {}

    @check()
    async def test_store_many_keys_and_empty_names(self, store: BotSessionStore) -> None:
        data: dict[str, Any] = {f"key {n}": n for n in range(3000)} | {"": "empty", "v": 1, "\udcff": 2}
        await store.set("u", "c", BotSession("u", "c", data))
        assert (await load(store)).data == data
        await store.update("u", "c", dict.fromkeys(data), remove=[f"other {n}" for n in range(3000)])
        assert (await load(store)).data == dict.fromkeys(data)
        await store.update("u", "c", {"left": 1}, remove=data)
        assert (await load(store)).data == {"left": 1}

    @check()
    async def test_store_every_type_comes_back(self, store: BotSessionStore) -> None:
        data = {str(n): value for n, value in enumerate(VALUES)}
        await store.set("u", "c", BotSession("u", "c", data))
        await store.update("u", "d", data)
        for channel in "cd":
            loaded = (await load(store, "u", channel)).data
            for name, value in data.items():
                # repr: nan is not itself, 1 is True, and two zones may name one instant.
                assert type(loaded[name]) is type(value)
                same = loaded[name] == value if isinstance(value, set | frozenset) else repr(loaded[name]) == repr(value)
                assert same, value

    @check()
    async def test_store_nobody_can_change_what_is_stored(self, store: BotSessionStore) -> None:
        data: dict[str, Any] = {"cart": [{"n": 1}]}
        await store.set("u", "c", BotSession("u", "c", data))
        data["cart"][0]["n"] = 2
        (await load(store)).data["cart"].append("x")
        assert (await load(store)).data == {"cart": [{"n": 1}]}

    @check()
    async def test_set_refuses_the_session_of_another(self, store: BotSessionStore) -> None:
        for session in (BotSession("other", "c"), BotSession("u", "other")):
            with pytest.raises(ValueError, match="another user or channel"):
                await store.set("u", "c", session)
        assert await store.get("u", "c") is None

    # --- ids

    @check()
    async def test_store_number_and_its_text_are_one_id(self, store: BotSessionStore) -> None:
        await store.set(42, -7, BotSession("42", "-7", {"n": 1}))
        session = await load(store, "42", "-7")
        assert (session.user_id, session.channel_id) == ("42", "-7")
        await store.update("42", "-7", {"n": 2})
        assert (await load(store, 42, -7)).data == {"n": 2}
        assert await store.channels(42) == ["-7"]

    @check()
    async def test_store_bad_ids_are_refused(self, store: BotSessionStore) -> None:
        for bad, error in (("", ValueError), (None, TypeError), (True, TypeError), (1.0, TypeError), (b"u", TypeError)):
            any_id = cast("Any", bad)
            pairs: list[tuple[Any, Any]] = [(any_id, "c"), ("u", any_id)]
            for ids in pairs:
                with pytest.raises(error):
                    await store.get(*ids)
                with pytest.raises(error):
                    await store.set(*ids, BotSession(*ids))
                with pytest.raises(error):
                    await store.update(*ids, {"n": 1})
                with pytest.raises(error):
                    await store.touch(*ids)
                with pytest.raises(error):
                    await store.delete(*ids)
            with pytest.raises(error):
                await store.clear(any_id)
            with pytest.raises(error):
                await store.channels(any_id)
        assert await store.size() == 0

    @check()
    async def test_store_ids_are_any_text_and_never_meet(self, store: BotSessionStore) -> None:
        pairs = [(user, channel) for user in ODD_IDS for channel in ODD_IDS]
        await asyncio.gather(*(store.update(*pair, {"me": pair}) for pair in pairs))
        for pair in pairs:
            assert (await load(store, *pair)).data == {"me": pair}
        assert {ids async for ids in store.scan()} == set(pairs)
        assert await store.size() == len(pairs)
        left = len(pairs)
        for user in ODD_IDS:
            assert sorted(await store.channels(user)) == sorted(ODD_IDS)
            assert await store.clear(user) == len(ODD_IDS)
            left -= len(ODD_IDS)
            assert await store.size() == left

    # --- what cannot be stored

    @check()
    async def test_store_what_cannot_be_stored_is_refused_with_its_path(self, store: BotSessionStore) -> None:
        await store.set("u", "c", BotSession("u", "c", {"a": 1}))
        before = await load(store)
        item = {"cart": [{"price": 1}, {"price": 2}, {"price": object()}]}
        for write in (store.update("u", "c", item), store.set("u", "c", BotSession("u", "c", item))):
            with pytest.raises(SerializationError) as caught:
                await write
            assert caught.value.path == "cart[2].price"
            assert "cart[2].price" in str(caught.value)
            assert caught.value.key == store.key("u", "c")
        assert await load(store) == before

    @check()
    async def test_store_depth_is_limited(self, store: BotSessionStore) -> None:
        deep: Any = "bottom"
        for _ in range(MAX_DEPTH):
            deep = [deep]
        await store.update("u", "c", {"deep": deep})
        assert (await load(store)).data == {"deep": deep}
        with pytest.raises(SerializationError, match="deeper"):
            await store.update("u", "c", {"deep": [deep]})
        circle: list[Any] = []
        circle.extend([circle, circle])
        with pytest.raises((SerializationError, SessionTooLarge)):
            await store.update("u", "c", {"deep": circle})
        assert (await load(store)).data == {"deep": deep}

    @check(max_bytes=1000)
    async def test_store_size_is_limited(self, store: BotSessionStore) -> None:
        with pytest.raises(SessionTooLarge) as caught:
            await store.set("u", "c", BotSession("u", "c", {"text": "x" * 1000}))
        assert (caught.value.limit, caught.value.key) == (1000, store.key("u", "c"))
        assert await store.get("u", "c") is None

        await store.update("u", "c", {"a": "x" * 400, "b": "x" * 400})
        before = await load(store)
        with pytest.raises(SessionTooLarge) as caught:
            await store.update("u", "c", {"c": "x" * 400})
        assert caught.value.size > 1000
        assert await load(store) == before
        await store.update("u", "c", {"b": "y", "c": "x" * 400})
        await store.update("u", "c", {"d": "x" * 400}, remove=["a"])
        assert set((await load(store)).data) == {"b", "c", "d"}
