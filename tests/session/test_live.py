"""The live session where its user makes a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from redis_botsession import BotSession, BotSessionStore, MemorySessionStore, SessionStore, memory_store
from redis_botsession.testing.harness import load


@pytest.mark.parametrize("wrong", [None, [], "text"])
async def test_live_session_refuses_data_that_is_no_dict(wrong: Any) -> None:
    store = memory_store()
    await store.update(1, 2, {"a": 1})
    with pytest.raises(TypeError, match=r"session .*1.*2: data must be a dict, not .*session\.data\.clear\(\)"):
        async with store.session(1, 2) as session:
            session.data = wrong
    assert (await load(store, 1, 2)).data == {"a": 1}


def test_live_session_in_a_plain_with_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"async with.*redis_botsession\.sync\.SessionStore"), memory_store().session(1, 2):  # type: ignore[attr-defined] # on purpose
        pass


async def test_session_repr_shows_no_values() -> None:
    store = memory_store()
    await store.update(1, 2, {"password": "hunter2"})
    async with store.session(1, 2) as session:
        for shown in (repr(session), repr(await store.get(1, 2)), str(session)):
            assert "hunter2" not in shown
            assert "'password'" in shown
            assert str(session.version) in shown
    assert repr(BotSession("1", "2")).endswith("keys: none>")


async def test_modify_refuses_a_function_that_returns_the_new_data() -> None:
    store = memory_store()
    await store.update(1, 2, {"a": 1})
    with pytest.raises(TypeError, match=r"must change session\.data in place"):
        await store.modify(1, 2, lambda session: {**session.data, "b": 2})  # type: ignore[arg-type, return-value] # on purpose
    # What a function returns by the way is no mistake.
    await store.modify(1, 2, lambda session: session.data.setdefault("cart", {}))
    await store.modify(1, 2, lambda session: session.data.setdefault("cart", {}))
    assert (await load(store, 1, 2)).data == {"a": 1, "cart": {}}


async def test_set_from_a_live_session_of_another_names_a_way_that_works() -> None:
    store = memory_store()
    await store.update(1, 2, {"a": 1})
    async with store.session(1, 2) as session:
        with pytest.raises(ValueError, match=r"give a BotSession\(user_id, channel_id, data\) of its own"):
            await store.set(9, 2, session)
        await store.set(9, 2, BotSession("9", "2", session.data))
    assert (await load(store, 9, 2)).data == {"a": 1}


def test_store_refuses_a_codec_that_is_none() -> None:
    wrong: Any = "json"
    with pytest.raises(TypeError, match=r"codec must be a redis_botsession\.Codec, not str"):
        MemorySessionStore(codec=wrong)
    with pytest.raises(TypeError, match=r"codec must be a redis_botsession\.Codec, not str"):
        SessionStore.from_url("redis://localhost:6379/0", codec=wrong)


def test_custom_stores_do_not_share_a_codec() -> None:
    class Point:
        """A type that is registered in one store only."""

    first, second = Custom(), Custom()
    first.codec.register(Point, encode=lambda _: None, decode=lambda _: Point())
    first.codec.encode({"p": Point()})
    assert first.codec is not second.codec
    with pytest.raises(Exception, match="Point"):
        second.codec.encode({"p": Point()})


class Custom(BotSessionStore):
    """A store that sets no codec, and does nothing."""

    load = write = set = touch = delete = clear = channels = size = None  # type: ignore[assignment] # not called
    scan = None  # type: ignore[assignment] # not called
