"""telebot's own memory storages say what ours are to do: the same calls, the same answers, the same in the end."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from copy import deepcopy
from typing import Any

import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from telebot.asyncio_storage import StateMemoryStorage as AsyncOracle
from telebot.states import State, StatesGroup
from telebot.storage import StateMemoryStorage as Oracle

from redis_botsession import MemorySessionStore, sync
from redis_botsession.adapters.telebot import AsyncBotSessionStorage, BotSessionStorage

from ...support.strategies import Color, hashables, registered_codec, shape, values


class Steps(StatesGroup):
    name = State()
    age = State()


# Missing parts are left out by telebot, so none of these may be mistaken for another.
ADDRESSES = [
    {"chat_id": chat, "user_id": user, **more}
    for chat, user in ((-100, 42), (-100, 43), (42, 42), ("@channel", 42), (None, 44), (-100, None))
    for more in (
        {},
        {"bot_id": 777},
        {"business_connection_id": "bc"},
        {"message_thread_id": 5},
        {"bot_id": 777, "business_connection_id": "bc", "message_thread_id": 5},
        {"bot_id": 0, "business_connection_id": "", "message_thread_id": 0},
    )
]
addresses = st.sampled_from(ADDRESSES[:8]) | st.sampled_from(ADDRESSES)
states = st.sampled_from(["name", "*", "", 0, 1, True, None, Steps.name, Steps.age, State(), Color.RED]) | hashables
# No two of them are equal: of 1 and True, a dict can hold one.
keys = st.sampled_from(["name", "", "\ud800", ":state", "::state", ":i1", ":k", 0, -1, 2**80, None, b"name", (1, "a"), 1.5])
datas = st.dictionaries(keys, values, max_size=4)

Call = tuple[str, dict[str, Any]]


@st.composite
def calls(draw: st.DrawFn, names: list[str]) -> Call:
    """One of the methods, and its arguments."""
    name, arguments = draw(st.sampled_from(names)), dict(draw(addresses))
    if name == "set_state":
        arguments["state"] = draw(states)
    elif name == "set_data":
        arguments |= {"key": draw(keys), "value": draw(values)}
    elif name == "save":
        arguments["data"] = draw(datas)
    elif name == "get_interactive_data":
        removed = st.sampled_from([None, "all", "first"])
        # What telebot's own would have written over stays out: see the module.
        inside = st.none() | calls(["get_state", "get_data", "set_state", "delete_state"])
        arguments |= {"removed": draw(removed), "changed": draw(datas), "grown": draw(st.booleans()), "inside": draw(inside)}
    return name, arguments


METHODS = ["set_state", "get_state", "delete_state", "set_data", "get_data", "reset_data", "save", "get_interactive_data"]
programs = st.lists(calls(["set_state", *METHODS]), max_size=20)


def edit(data: dict[Any, Any], removed: str | None, changed: dict[Any, Any], *, grown: bool) -> Any:
    """What a handler does to its data; gives what it saw."""
    seen = exactly(data)
    if removed == "all":
        data.clear()
    elif removed == "first" and data:
        del data[min(data, key=repr)]
    data.update(deepcopy(changed))
    for value in data.values():
        if grown and isinstance(value, list):
            value.append("more")
    return seen


def exactly(answer: Any) -> Any:
    """An answer with its types, for ``==``; the order of keys does not count, and a NaN is one."""
    if isinstance(answer, dict):
        return {key: shape(value) for key, value in answer.items()}
    return shape(answer)


def run(storage: Any, name: str, arguments: dict[str, Any]) -> Any:
    """The answer of a call, or what it raised."""
    arguments = deepcopy(arguments)
    if name == "get_interactive_data":
        removed, changed, grown, inside = (arguments.pop(key) for key in ("removed", "changed", "grown", "inside"))
        context: AbstractContextManager[dict[Any, Any]] = storage.get_interactive_data(**arguments)
        with context as data:
            return edit(data, removed, changed, grown=grown), inside and run(storage, *inside)
    try:
        return exactly(deepcopy(getattr(storage, name)(**arguments)))
    except RuntimeError:
        return RuntimeError


async def run_async(storage: Any, name: str, arguments: dict[str, Any]) -> Any:
    """``run`` for the asynchronous storages."""
    arguments = deepcopy(arguments)
    if name == "get_interactive_data":
        removed, changed, grown, inside = (arguments.pop(key) for key in ("removed", "changed", "grown", "inside"))
        context: AbstractAsyncContextManager[dict[Any, Any]] = storage.get_interactive_data(**arguments)
        async with context as data:
            return edit(data, removed, changed, grown=grown), inside and await run_async(storage, *inside)
    try:
        return exactly(deepcopy(await getattr(storage, name)(**arguments)))
    except RuntimeError:
        return RuntimeError


IN_THE_END: list[Call] = [(name, address) for name in ("get_state", "get_data") for address in ADDRESSES]


@settings(max_examples=150)
@given(program=programs)
def test_telebot_async_storage_does_what_telebots_memory_storage_does(program: list[Call]) -> None:
    async def compare() -> None:
        oracle = AsyncOracle()
        async with MemorySessionStore(codec=registered_codec()) as store:
            ours = AsyncBotSessionStorage(store)
            for call in program + IN_THE_END:
                assert await run_async(ours, *call) == await run_async(oracle, *call), call

    asyncio.run(compare())


def test_telebot_sync_storage_does_what_telebots_memory_storage_does(newest_url: str) -> None:
    client = redis.Redis.from_url(newest_url)

    @settings(max_examples=50)
    @given(program=programs)
    def compare(program: list[Call]) -> None:
        oracle = Oracle()
        ours = BotSessionStorage(sync.SessionStore(client, prefix=f"test:{uuid.uuid4().hex}:", codec=registered_codec()))
        for call in program + IN_THE_END:
            assert run(ours, *call) == run(oracle, *call), call

    with client:
        compare()
