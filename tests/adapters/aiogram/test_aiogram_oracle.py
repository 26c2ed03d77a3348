"""aiogram's storage against aiogram's own in memory: whatever is done, they say the same; and no two sessions are mixed up."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseStorage, StorageKey
from aiogram.fsm.storage.memory import MemoryStorage
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from redis_botsession import Codec, MemorySessionStore, SessionStore
from redis_botsession.adapters._ids import STATE
from redis_botsession.adapters.aiogram import BotSessionStorage, ids_of, key_of
from redis_botsession.testing.harness import VALUES

from .test_aiogram import KEY, Form, Step, redis_keys

# --- keys

TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from(("", "default", ".", "d", "1.t5", "t5", "%2E", "\ud800", "scenes_history"))
)
IDS = st.integers(-(2**52), 2**52) | st.integers(-2, 12)
KEYS = st.builds(
    StorageKey,
    bot_id=IDS,
    chat_id=IDS,
    user_id=IDS,
    thread_id=st.none() | IDS,
    business_connection_id=st.none() | TEXTS,
    destiny=st.just("default") | TEXTS,
)


@given(KEYS)
@settings(max_examples=300)
@example(StorageKey(1, 2, 3, 0, "", ""))
def test_aiogram_storage_key_comes_back_from_the_ids_of_its_session(key: StorageKey) -> None:
    assert key_of(*ids_of(key)) == key


@given(KEYS, st.data())
@settings(max_examples=300)
def test_aiogram_different_storage_keys_have_different_ids(key: StorageKey, data: st.DataObject) -> None:
    # Two that are alike but for one part are what a naive key would confuse.
    part = data.draw(st.sampled_from(list(vars(key))))
    other = data.draw(KEYS.map(lambda drawn: StorageKey(**{**vars(key), part: getattr(drawn, part)})))
    assume(other != key)
    assert ids_of(other) != ids_of(key)


@given(st.text(max_size=4) | st.integers().map(str), st.text(alphabet="017-.tbd%2E_", max_size=12))
@settings(max_examples=300)
@example("42", "777.-42.x5")
@example("42", "777.-42.t05")
@example("42", "0777.-42")
@example("042", "777.-42")
@example("42", "777")
@example("42", "777.-42.ddefault")
@example("me", "777.-42")
def test_aiogram_ids_are_those_of_a_storage_key_or_refused(user_id: str, channel_id: str) -> None:
    try:
        key = key_of(user_id, channel_id)
    except ValueError as error:
        assert channel_id in str(error)  # noqa: PT017 - either is right, for different ids
    else:
        assert ids_of(key) == (user_id, channel_id)


def test_aiogram_ids_can_be_read() -> None:
    assert ids_of(KEY) == ("42", "777.-42")
    assert ids_of(StorageKey(777, -42, 42, 5, "biz", "aiogd:stack:")) == ("42", "777.-42.t5.bbiz.daiogd%3Astack%3A")


# --- the oracle

CODEC = Codec()
FEW_KEYS = KEY, StorageKey(777, -42, 42, destiny="other")
# What a naive store would take for its own, or for another.
NAMES = st.sampled_from(
    (
        "a",
        "b",
        "",
        ":a",
        "::a",
        STATE,
        f":{STATE}",
        ":i1",
        "1",
        1,
        -2,
        2**70,
        (1, "x"),
        b"a",
        None,
        datetime(2026, 1, 1, tzinfo=UTC),
    )
)
VALUE = st.sampled_from(VALUES) | st.integers(0, 3) | st.just({"nested": [{"in": (1, {2: "x"})}]})
DATA = st.dictionaries(NAMES, VALUE.map(copy.deepcopy), max_size=4)
STATES = st.sampled_from((None, None, Form.name, Form.email, State(), State("*"), "text", "", ":x", Step.NAME))
Operation = tuple[str, tuple[Any, ...]]
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("set_state"), st.tuples(STATES)),
    st.tuples(st.just("set_data"), st.tuples(DATA)),
    st.tuples(st.just("set_data"), st.tuples(DATA.map(OrderedDict))),
    st.tuples(st.just("update_data"), st.tuples(DATA)),
    st.tuples(st.just("update_data"), st.tuples(DATA.map(MappingProxyType))),
    st.tuples(st.just("get_state"), st.just(())),
    st.tuples(st.just("get_data"), st.just(())),
    st.tuples(st.just("get_value"), st.tuples(NAMES) | st.tuples(NAMES, VALUE)),
    st.tuples(st.just("clear"), st.just(())),
)


def told(value: Any, *, is_data: bool) -> Any:
    """A value with its types: 1 is not True, and NaN is NaN. Top-level keys are in no order."""
    if is_data:
        return {(type(name), name): CODEC.encode({"": content}) for name, content in value.items()}
    # A state that was set as the member of an enum of texts comes back from aiogram's own as that.
    return CODEC.encode({"": str.__str__(value) if isinstance(value, Step) else value})


async def differ(storages: Iterable[BaseStorage], user_id: int, script: list[tuple[int, Operation]]) -> None:
    """Does the same to all storages; all must say the same as the first."""
    for which, (method, arguments) in script:
        key = replace(FEW_KEYS[which], user_id=user_id)
        is_data = method in {"get_data", "update_data"}
        first, *others = [
            told(await getattr(FSMContext(storage, key), method)(*arguments), is_data=is_data) for storage in storages
        ]
        assert others == [first] * len(others), f"{method}{arguments}"


def test_aiogram_whatever_is_done_aiograms_own_says_the_same(newest_url: str, prefix: str) -> None:
    users = itertools.count(1)
    with asyncio.Runner() as runner:
        store, memory = SessionStore.from_url(newest_url, prefix=prefix), MemorySessionStore()
        storages = MemoryStorage(), BotSessionStorage(store), BotSessionStorage(memory)

        async def check(script: list[tuple[int, Operation]]) -> None:
            user_id = next(users)
            await differ(storages, user_id, script)
            # What is empty is not there, in either way of being empty.
            for key in (replace(key, user_id=user_id) for key in FEW_KEYS):
                record = storages[0].storage[key]
                is_there = bool(record.data) or record.state is not None
                assert [await one.get(*ids_of(key)) is not None for one in (store, memory)] == [is_there] * 2
                for storage in storages:
                    await FSMContext(storage, key).clear()
            assert await redis_keys(newest_url, prefix) == []

        @given(st.lists(st.tuples(st.integers(0, 1), OPERATIONS), max_size=12))
        @settings(max_examples=150)
        def do(script: list[tuple[int, Operation]]) -> None:
            runner.run(check(script))

        try:
            do()
        finally:
            runner.run(store.aclose())
