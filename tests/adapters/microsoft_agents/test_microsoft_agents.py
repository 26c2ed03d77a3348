"""The Microsoft 365 Agents SDK, on the real one: its states, its application, its items; no network."""

from __future__ import annotations

import asyncio
import copy
import gc
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from microsoft_agents.activity import Activity, ConversationReference, ResourceResponse
from microsoft_agents.hosting.core import AgentApplication, ChannelAdapter, TurnContext, TurnState, UserState
from microsoft_agents.hosting.core.app.proactive import Conversation, ProactiveOptions
from microsoft_agents.hosting.core.state.agent_state import CachedAgentState
from microsoft_agents.hosting.core.storage import MemoryStorage, Storage, StoreItem
from pydantic import BaseModel

from redis_botsession import (
    BotSession,
    MemorySessionStore,
    SerializationError,
    SessionError,
    SessionGone,
    SessionStore,
    VersionConflict,
)
from redis_botsession._session.record import Loaded
from redis_botsession.adapters import _agents_state
from redis_botsession.adapters.microsoft_agents import BotSessionStorage
from redis_botsession.testing.harness import ODD_IDS

KEY = "msteams/conversations/19:abc"
USER_KEY = "msteams/users/29:ada"


class Note(StoreItem):
    """An item like those of applications. All are equal and none is hashable: its storage must not mind."""

    def __init__(self, **data: Any) -> None:
        self.data: dict[Any, Any] = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Note)

    __hash__ = None  # type: ignore[assignment] # on purpose

    def store_item_to_json(self) -> dict[Any, Any]:
        return self.data

    @staticmethod
    def from_json_to_store_item(json_data: Any) -> Note:
        note = Note()
        note.data = json_data
        return note


class Tagged(Note):
    """An item with an eTag."""

    def __init__(self, e_tag: str | None = None, **data: Any) -> None:
        super().__init__(**data)
        self.e_tag = e_tag

    @staticmethod
    def from_json_to_store_item(json_data: Any) -> Tagged:
        return Tagged(**json_data)


class Model(BaseModel, StoreItem):
    """An item as the SDK makes them for its sign-in: of pydantic."""

    name: str
    steps: list[int]

    def store_item_to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @staticmethod
    def from_json_to_store_item(json_data: Any) -> Model:
        return Model.model_validate(json_data)


@dataclass(slots=True)
class Slotted:
    """No StoreItem, but for its methods; nothing can tell whether it still lives."""

    data: dict[str, Any] = field(default_factory=dict)

    def store_item_to_json(self) -> dict[str, Any]:
        return self.data

    @staticmethod
    def from_json_to_store_item(json_data: Any) -> Slotted:
        return Slotted(json_data)


@pytest.fixture
async def store(newest_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    async with SessionStore.from_url(newest_url, prefix=prefix) as store:
        yield store


@pytest.fixture
def storage(store: SessionStore) -> BotSessionStorage:
    return BotSessionStorage(store)


@pytest.fixture
async def other(newest_url: str, prefix: str) -> AsyncIterator[BotSessionStorage]:
    """The storage of another process: connections of its own, the same prefix."""
    async with BotSessionStorage.from_url(newest_url, prefix=prefix) as storage:
        yield storage


async def read(storage: Storage, key: str = KEY, target_cls: type[Any] = Note) -> Any:
    return (await storage.read([key], target_cls=target_cls)).get(key)


async def data_of(storage: Storage, key: str = KEY) -> Any:
    note = await read(storage, key)
    return note and note.data


async def as_a_turn(call: Any) -> Any:
    """In a task of its own, as adapters run turns."""
    return await asyncio.create_task(call)


# What the SDK's own storages do


@pytest.mark.parametrize("make", [list, tuple, set, frozenset, dict.fromkeys, iter, lambda keys: (key for key in keys)])
async def test_agents_keys_come_in_any_iterable(storage: BotSessionStorage, make: Callable[[list[str]], Iterable[str]]) -> None:
    await storage.write({"a": Note(n=1), "b": Note(n=2), "c": Note(n=3)})
    found = await storage.read(make(["a", "b", "missing"]), target_cls=Note)
    assert {key: note.data for key, note in found.items()} == {"a": {"n": 1}, "b": {"n": 2}}
    await storage.delete(make(["a", "c", "missing"]))
    assert [*await storage.read(["a", "b", "c"], target_cls=Note)] == ["b"]


@pytest.mark.parametrize("keys", [None, [], (), set(), {}, [""], ["a", ""], {""}, [None]])
async def test_agents_no_keys_and_empty_keys_are_value_errors(
    storage: BotSessionStorage, store: SessionStore, keys: Any
) -> None:
    with pytest.raises(ValueError, match=r"Keys are required when reading|key cannot be empty"):
        await storage.read(keys, target_cls=Note)
    with pytest.raises(ValueError, match=r"Keys are required when deleting|key cannot be empty"):
        await storage.delete(keys)
    with pytest.raises(ValueError, match=r"Changes are required when writing|key cannot be empty"):
        await storage.write(keys and dict.fromkeys(keys, Note(n=1)))
    assert await store.size() == 0


@pytest.mark.parametrize("keys", [[1], [b"a"], "abc"])
async def test_agents_keys_that_are_no_strings_are_type_errors(storage: BotSessionStorage, keys: Any) -> None:
    for call in (storage.read(keys, target_cls=Note), storage.delete(keys)):
        with pytest.raises(TypeError, match="must be"):
            await call


def calls_of(keys: st.SearchStrategy[str], json: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    some = st.lists(keys, min_size=1, max_size=3, unique=True)
    return st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.dictionaries(keys, json, min_size=1, max_size=3)),
            st.tuples(st.just("delete"), some),
            # Reads, changes and writes twice, as a turn does.
            st.tuples(st.just("change"), keys, json, json),
            st.tuples(st.just("restore"), keys),
        ),
        max_size=8,
    )


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda some: st.lists(some, max_size=2) | st.dictionaries(st.text(max_size=3), some, max_size=2))
JSON = st.dictionaries(st.sampled_from(["a", "b", ":", ":a", ":state", "", "é"]), VALUES, max_size=4)
KEYS = st.sampled_from(["a", "b", "a/users/b", "a/users/b/", "a/users/b/c", "state", "a/users"])


async def run(storage: Storage, calls: list[Any]) -> list[Any]:
    """What a caller sees. Items are copied at the border: the SDK's MemoryStorage keeps the dicts that it is given."""
    seen: list[Any] = []
    for name, *arguments in calls:
        if name == "write":
            await storage.write({key: Note.from_json_to_store_item(copy.deepcopy(json)) for key, json in arguments[0].items()})
        elif name == "delete":
            doomed: Any = {*arguments[0]}  # a set, though the SDK declares a list: so does its AgentState
            await storage.delete(doomed)
        elif name == "change":
            key, *changes = arguments
            note = Note.from_json_to_store_item(copy.deepcopy(await data_of(storage, key)) or {})
            if isinstance(storage, BotSessionStorage):
                note = await read(storage, key) or Note()
            for change in changes:
                note.data.pop("a", None)
                note.data.update(copy.deepcopy(change))
                await storage.write({key: note})
        elif (note := await read(storage, arguments[0])) is not None:
            await storage.delete([arguments[0]])
            await storage.write({arguments[0]: note})
        found = await storage.read(["a", "b", "a/users/b", "a/users/b/", "a/users/b/c", "state", "a/users"], target_cls=Note)
        # repr: 1 is not True. Top-level keys come back in any order.
        seen.append({key: {name: repr(value) for name, value in note.data.items()} for key, note in found.items()})
    return seen


@pytest.mark.parametrize("on_conflict", ["merge", "raise", "overwrite"])
# The server is the same for all examples, each has keys of its own.
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=calls_of(KEYS, JSON))
def test_agents_does_what_memory_storage_does(newest_url: str, on_conflict: Any, calls: list[Any]) -> None:
    async def on_redis() -> list[Any]:
        prefix = f"test:{uuid.uuid4().hex}:"
        async with BotSessionStorage.from_url(newest_url, prefix=prefix, on_conflict=on_conflict) as storage:
            return await run(storage, calls)

    assert asyncio.run(on_redis()) == asyncio.run(run(MemoryStorage(), calls))


async def test_agents_what_is_changed_after_a_write_or_a_read_is_not_stored(storage: BotSessionStorage) -> None:
    note = Note(words=["a"])
    await storage.write({KEY: note})
    note.data["words"].append("b")
    found = await read(storage)
    found.data["words"].append("c")
    assert await data_of(storage) == {"words": ["a"]}


@pytest.mark.parametrize("json", [[1], "text", None, 7])
async def test_agents_json_that_is_no_dict_is_refused_and_nothing_is_written(storage: BotSessionStorage, json: Any) -> None:
    note = Note()
    note.data = json
    with pytest.raises(TypeError, match=r"'bad'.*must be a dict"):
        await storage.write({"good": Note(n=1), "bad": note})
    assert await data_of(storage, "good") is None


async def test_agents_one_bad_item_keeps_back_the_whole_call(storage: BotSessionStorage) -> None:
    with pytest.raises(SerializationError) as caught:
        await storage.write({"good": Note(n=1), "bad": Note(cart=[object()])})
    assert caught.value.path == "cart[0]"
    assert await data_of(storage, "good") is None


async def test_agents_error_for_one_item_says_what_became_of_the_others(
    storage: BotSessionStorage, other: BotSessionStorage
) -> None:
    await storage.write({"a": Note(n=1), "b": Note(n=1), "c": Note(n=1)})
    items = await storage.read(["a", "b", "c"], target_cls=Note)
    await other.delete(["b"])
    for note in items.values():
        note.data["n"] = 2
    with pytest.raises(SessionGone) as caught:
        await storage.write(items)
    assert caught.value.__notes__ == ["of 3 keys, written: ['a', 'c']; failed: 'b' (SessionGone)"]
    assert {key: await data_of(storage, key) for key in "abc"} == {"a": {"n": 2}, "b": None, "c": {"n": 2}}


# Keys


async def test_agents_every_key_is_an_item_of_its_own(storage: BotSessionStorage) -> None:
    tails = ("", "/", "//", "/state", "/users/x", "/users/x/", "/users/x/y", "/conversations/x")
    keys = [*dict.fromkeys([*ODD_IDS, *(f"{odd}{tail}" for odd in ODD_IDS for tail in tails), "a/users/", "/users/a", "state"])]
    await storage.write({key: Note(key=key) for key in keys})
    found = await storage.read(keys, target_cls=Note)
    assert {key: note.data["key"] for key, note in found.items()} == {key: key for key in keys}


async def test_clear_removes_what_belongs_to_one_user_and_nothing_else(storage: BotSessionStorage) -> None:
    mine = [USER_KEY, f"{USER_KEY}/", f"{USER_KEY}/settings", f"{USER_KEY}/a/b"]
    others = [f"{USER_KEY}2", f"x{USER_KEY}", "msteams/users", "msteams/users/", KEY, "29:ada"]
    await storage.write({key: Note(n=1) for key in [*mine, *others]})
    assert await storage.store.clear(USER_KEY) == len(mine)
    assert {*await storage.read([*mine, *others], target_cls=Note)} == {*others}


# Turns at once


async def test_agents_turns_that_change_different_properties_all_count(
    storage: BotSessionStorage, other: BotSessionStorage
) -> None:
    await storage.write({KEY: Note(start=0, gone=1, stays={"deep": [1]})})
    storages = storage, other, storage
    notes = [await read(where) for where in storages]
    notes[0].data["a"] = 1
    notes[1].data["b"] = [2]
    del notes[1].data["gone"]
    notes[2].data["stays"]["deep"].append(2)
    for note, where in zip(notes, storages, strict=True):
        await where.write({KEY: note})
    assert await data_of(storage) == {"start": 0, "stays": {"deep": [1, 2]}, "a": 1, "b": [2]}


CLASHES: dict[str, tuple[Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], Any]]] = {
    "both change": (lambda data: data.update(n=1), lambda data: data.update(n=2)),
    "both add": (lambda data: data.update(new=1), lambda data: data.update(new=2)),
    "removed and changed": (lambda data: data.pop("n"), lambda data: data.update(n=2)),
    "changed and removed": (lambda data: data.update(n=1), lambda data: data.pop("n")),
    "changed deep inside": (lambda data: data["deep"]["a"].append(1), lambda data: data["deep"]["a"].append(2)),
    "cleared": (lambda data: data.update(n=1), lambda data: data.clear()),
    "another type": (lambda data: data.update(n=1), lambda data: data.update(n=True)),
}


@pytest.mark.parametrize("name", CLASHES)
async def test_agents_turns_changing_one_property_conflict(
    storage: BotSessionStorage, other: BotSessionStorage, name: str
) -> None:
    await storage.write({KEY: Note(n=0, deep={"a": []}, more=0)})
    first, second = await read(storage), await read(other)
    for change, note in zip(CLASHES[name], (first, second), strict=True):
        change(note.data)
    second.data["more"] = 1
    await storage.write({KEY: first})
    with pytest.raises(VersionConflict) as caught:
        await other.write({KEY: second})
    assert caught.value.actual > caught.value.expected > 0
    assert await data_of(storage) == first.data
    # And again, until it is read again.
    with pytest.raises(VersionConflict):
        await other.write({KEY: second})


async def test_agents_turns_that_set_the_same_value_agree(storage: BotSessionStorage, other: BotSessionStorage) -> None:
    await storage.write({KEY: Note(step="name", gone=1)})
    first, second = await read(storage), await read(other)
    for note in first, second:
        note.data["step"] = "done"
        del note.data["gone"]
    second.data["own"] = 1
    await storage.write({KEY: first})
    await other.write({KEY: second})
    assert await data_of(storage) == {"step": "done", "own": 1}


@pytest.mark.parametrize("add", [lambda data: data.update(n=data["n"] + 1), lambda data: data["all"].append(1)])
async def test_agents_turns_that_count_from_the_same_value_conflict(
    storage: BotSessionStorage, other: BotSessionStorage, add: Callable[[dict[str, Any]], None]
) -> None:
    await storage.write({KEY: Note(n=0, all=[])})
    first, second = await read(storage), await read(other)
    add(first.data)
    add(second.data)
    await storage.write({KEY: first})
    with pytest.raises(VersionConflict):
        await other.write({KEY: second})
    again = await read(other)
    add(again.data)
    await other.write({KEY: again})
    assert (await data_of(storage)) in ({"n": 2, "all": []}, {"n": 0, "all": [1, 1]})


async def test_agents_asked_to_raise_it_raises_whatever_others_have_changed(
    store: SessionStore, other: BotSessionStorage
) -> None:
    storage = BotSessionStorage(store, on_conflict="raise")
    await storage.write({KEY: Note(n=0)})
    first, second = await read(storage), await read(other)
    first.data["a"] = 1
    second.data["b"] = 1
    await other.write({KEY: second})
    with pytest.raises(VersionConflict):
        await storage.write({KEY: first})
    assert await data_of(storage) == {"n": 0, "b": 1}
    again = await read(storage)
    again.data["a"] = 1
    await storage.write({KEY: again})
    again.data["a"] = 2
    await storage.write({KEY: again})
    assert await data_of(storage) == {"n": 0, "b": 1, "a": 2}


async def test_agents_asked_to_overwrite_the_last_one_wins_as_with_the_sdk(store: SessionStore) -> None:
    storage = BotSessionStorage(store, on_conflict="overwrite")
    await storage.write({KEY: Note(n=0)})
    first, second = await read(storage), await read(storage)
    first.data["a"] = 1
    second.data["b"] = 1
    await storage.write({KEY: first})
    await storage.write({KEY: second})
    assert await data_of(storage) == {"n": 0, "b": 1}
    await storage.delete([KEY])
    await storage.write({KEY: first})
    assert await data_of(storage) == {"n": 0, "a": 1}


async def test_agents_what_another_turn_has_deleted_does_not_come_back(
    storage: BotSessionStorage, other: BotSessionStorage
) -> None:
    await storage.write({KEY: Note(n=0)})
    first, second = await read(storage), await read(storage)
    await other.delete([KEY])
    first.data["n"] = second.data["m"] = 1
    with pytest.raises(SessionGone):
        await storage.write({KEY: first})
    assert await data_of(storage) is None
    # Nor does it get into what somebody has made in its place.
    await other.write({KEY: Note(fresh=1)})
    with pytest.raises(SessionGone):
        await storage.write({KEY: second})
    assert await data_of(storage) == {"fresh": 1}


@pytest.mark.parametrize("on_conflict", ["merge", "raise"])
async def test_agents_own_item_deleted_by_another_stays_deleted(
    store: SessionStore, other: BotSessionStorage, on_conflict: Any
) -> None:
    storage = BotSessionStorage(store, on_conflict=on_conflict)
    note = await read(storage) or Note()
    for n in range(2):
        note.data["n"] = n
        await storage.write({KEY: note})
    await other.delete([KEY])
    note.data["n"] = 2
    with pytest.raises(SessionGone):
        await storage.write({KEY: note})
    assert await data_of(storage) is None


async def test_agents_item_deleted_during_a_merge_stays_deleted(newest_url: str, prefix: str) -> None:
    class Watched(SessionStore):
        async def load(self, *ids: Any, touch: bool = False) -> Any:
            loaded = await super().load(*ids, touch=touch)
            if not touch:
                await self.delete(*ids)
            return loaded

    async with Watched.from_url(newest_url, prefix=prefix) as store:
        storage = BotSessionStorage(store)
        await storage.write({KEY: Note(n=0)})
        first, second = await read(storage), await read(storage)
        first.data["a"] = second.data["b"] = 1
        await storage.write({KEY: first})
        with pytest.raises(SessionGone):
            await storage.write({KEY: second})
        assert await data_of(storage) is None


async def test_agents_state_that_expires_while_it_is_written_is_gone() -> None:
    class Expiring(MemorySessionStore):
        async def write(self, *ids: Any) -> int:
            # What a store says when the session's own deadline has just passed.
            return 0

    store = Expiring()
    await store.set(KEY, "state", BotSession(KEY, "state", {"n": 0}))
    storage = BotSessionStorage(store)
    note = await read(storage)
    note.data["n"] = 1
    with pytest.raises(SessionGone, match="expired"):
        await storage.write({KEY: note})


@pytest.mark.parametrize(("overtaken", "kept"), [(5, True), (200, False)])
async def test_agents_merge_is_retried_a_bounded_number_of_times(
    newest_url: str, prefix: str, overtaken: int, kept: bool
) -> None:
    class Overtaken(SessionStore):
        loads = 0

        async def load(self, user_id: Any, channel_id: Any, *, touch: bool = False) -> Any:
            loaded = await super().load(user_id, channel_id, touch=touch)
            self.loads += 1
            if self.loads <= overtaken:
                await self.update(user_id, channel_id, {"theirs": self.loads})
            return loaded

    async with Overtaken.from_url(newest_url, prefix=prefix) as store:
        storage = BotSessionStorage(store)
        await storage.write({KEY: Note(n=0)})
        note = await read(storage)
        note.data["ours"] = 1
        with nullcontext() if kept else pytest.raises(VersionConflict):
            await storage.write({KEY: note})
        assert ("ours" in await data_of(storage)) is kept


async def test_agents_item_can_be_written_again_and_again(storage: BotSessionStorage, other: BotSessionStorage) -> None:
    await storage.write({KEY: Note(n=0)})
    note = await read(storage)
    for n in range(1, 4):
        note.data["n"] = n
        await storage.write({KEY: note})
        theirs = await read(other)
        assert theirs.data["n"] == n
        theirs.data[f"other {n}"] = n
        await other.write({KEY: theirs})
    assert await data_of(storage) == {"n": 3, "other 1": 1, "other 2": 2, "other 3": 3}


async def test_agents_later_writes_keep_what_a_merge_kept(storage: BotSessionStorage, other: BotSessionStorage) -> None:
    await storage.write({KEY: Note(n=0)})
    first, second = await read(storage), await read(other)
    second.data["theirs"] = 1
    await other.write({KEY: second})
    first.data["ours"] = 1
    await storage.write({KEY: first})
    # The item has still not seen "theirs".
    first.data["theirs"] = 2
    with pytest.raises(VersionConflict):
        await storage.write({KEY: first})
    assert await data_of(storage) == {"n": 0, "theirs": 1, "ours": 1}
    await other.delete([KEY])
    with pytest.raises(SessionGone):
        await storage.write({KEY: first})


async def test_agents_write_without_changes_writes_nothing(storage: BotSessionStorage, store: SessionStore) -> None:
    await storage.write({KEY: Note(words={"b", "a", "c"}, n=1)})
    before = await store.get(KEY, "state")
    await storage.write({KEY: await read(storage)})
    assert await store.get(KEY, "state") == before


async def test_agents_turns_that_found_nothing_merge(storage: BotSessionStorage, other: BotSessionStorage) -> None:
    both_have_read = asyncio.Barrier(2)

    async def turn(storage: BotSessionStorage, **changes: Any) -> None:
        note = await read(storage) or Note()
        await both_have_read.wait()
        note.data.update(changes)
        await storage.write({KEY: note})
        note.data["again"] = True
        await storage.write({KEY: note})

    await asyncio.gather(turn(storage, a=1), turn(other, b=2))
    assert await data_of(storage) == {"a": 1, "b": 2, "again": True}
    await storage.delete([KEY])
    results = await asyncio.gather(turn(storage, n=1), turn(storage, n=2), return_exceptions=True)
    assert [type(result) for result in results if result] == [VersionConflict]


async def test_agents_item_that_was_never_read_replaces_what_is_there(
    storage: BotSessionStorage, other: BotSessionStorage
) -> None:
    await storage.write({KEY: Note(a=1)})
    await storage.write({KEY: Note(b=1)})
    assert await as_a_turn(data_of(storage)) == {"b": 1}
    await storage.delete([KEY])
    assert await data_of(storage) is None
    # The first is what the turn makes where it has found nothing, the second is not.
    await storage.write({KEY: Note(c=1)})
    await storage.write({KEY: Note(d=1)})
    assert await as_a_turn(data_of(storage)) == {"d": 1}
    await storage.delete([KEY])
    assert await data_of(storage) is None
    await other.write({KEY: Note(e=1)})
    assert await data_of(storage) == {"e": 1}
    await storage.write({KEY: Note(b=1)})
    # One that another key was read into counts as new, too.
    note = await read(storage)
    note.data["c"] = 1
    await storage.write({"copy": Note(x=1)})
    await storage.write({"copy": note})
    assert await data_of(storage, "copy") == {"b": 1, "c": 1}


async def test_agents_no_turn_knows_what_another_has_not_found(storage: BotSessionStorage, other: BotSessionStorage) -> None:
    # What a program looks at before its turns is known to all of them.
    assert await data_of(storage, "before the turns") is None
    assert await as_a_turn(data_of(storage)) is None
    await other.write({KEY: Note(a=1)})
    await as_a_turn(storage.write({KEY: Note(b=1)}))
    assert await data_of(storage) == {"b": 1}


async def test_agents_long_tasks_forget_absent_keys(storage: BotSessionStorage) -> None:
    keys = [str(n) for n in range(1000)]
    assert await storage.read(keys, target_cls=Note) == {}
    marks = _agents_state._marks.get()
    assert marks is not None
    assert 0 < len(marks) <= 100


async def test_agents_state_that_was_loaded_in_another_task_merges_too(storage: BotSessionStorage) -> None:
    states, contexts = [], []
    for name in "ab":
        state, context = UserState(storage), TurnContext(Adapter(), message("hi"))
        await as_a_turn(state.load(context))
        value: Any = 1
        state.set_value(name, value)
        states.append(state)
        contexts.append(context)
    for state, context in zip(states, contexts, strict=True):
        await state.save(context)
    assert await data_of(storage, USER_KEY) == {"a": 1, "b": 1}


async def test_agents_item_can_be_written_while_it_is_being_written(storage: BotSessionStorage) -> None:
    await storage.write({KEY: Note(n=0)})
    note = await read(storage)
    writes = []
    for n in range(1, 6):
        note.data["n"] = n
        writes.append(asyncio.create_task(storage.write({KEY: note})))
        await asyncio.sleep(0)
    await asyncio.gather(*writes)
    assert await data_of(storage) == {"n": 5}


async def test_agents_turn_that_deletes_an_item_may_write_it_again(storage: BotSessionStorage) -> None:
    await storage.write({KEY: Note(a=1)})
    note = await read(storage)
    await storage.delete([KEY])
    await storage.write({KEY: note})
    assert await data_of(storage) == {"a": 1}


async def test_agents_items_are_tracked_by_identity(storage: BotSessionStorage) -> None:
    await storage.write({KEY: Note(n=0), "other": Note(n=0), "model": Model(name="x", steps=[1])})
    notes = await storage.read([KEY, "other"], target_cls=Note)
    model = await read(storage, "model", Model)
    await storage.write({KEY: Note(n=0, theirs=1), "other": Note(n=0, theirs=1)})
    notes[KEY].data["a"] = 1
    notes["other"].data["b"] = 1
    model.steps.append(2)
    await storage.write({**notes, "model": model})
    assert await data_of(storage) == {"n": 0, "theirs": 1, "a": 1}
    assert await data_of(storage, "other") == {"n": 0, "theirs": 1, "b": 1}
    assert (await read(storage, "model", Model)).steps == [1, 2]
    notes, model = {}, None
    gc.collect()
    assert len(storage._baselines) == 0


async def test_agents_refuses_items_without_weak_references(store: SessionStore) -> None:
    await BotSessionStorage(store).write({KEY: Note(n=1)})
    with pytest.raises(TypeError, match=r"Slotted.*weak references"):
        await read(BotSessionStorage(store), KEY, Slotted)
    assert (await read(BotSessionStorage(store, on_conflict="overwrite"), KEY, Slotted)).data == {"n": 1}


async def test_agents_store_without_packed_values_will_do(newest_url: str) -> None:
    class Plain(MemorySessionStore):
        async def load(self, *ids: Any, touch: bool = False) -> Any:
            loaded = await super().load(*ids, touch=touch)
            return loaded and Loaded(loaded.session)

    storage = BotSessionStorage(Plain())
    await storage.write({KEY: Note(n=0)})
    first, second = await read(storage), await read(storage)
    first.data["a"] = second.data["b"] = 1
    await storage.write({KEY: first})
    await storage.write({KEY: second})
    assert await data_of(storage) == {"n": 0, "a": 1, "b": 1}
    second.data["a"] = 2
    with pytest.raises(VersionConflict):
        await storage.write({KEY: second})


# eTags


@pytest.mark.parametrize("on_conflict", ["merge", "raise", "overwrite"])
async def test_agents_etag_is_the_version_that_a_write_needs(
    store: SessionStore, other: BotSessionStorage, on_conflict: Any
) -> None:
    storage = BotSessionStorage(store, on_conflict=on_conflict)
    tagged = Tagged("0", n=0)
    await storage.write({KEY: tagged})
    session = await store.get(KEY, "state")
    assert session is not None
    assert tagged.e_tag == str(session.version)
    with pytest.raises(VersionConflict):
        await storage.write({KEY: Tagged("0", n=1)})

    found = await read(storage, KEY, Tagged)
    assert found.e_tag == tagged.e_tag
    found.data["n"] = 1
    await storage.write({KEY: found})
    assert found.e_tag > tagged.e_tag
    # Of the version that it says, whatever the item had read.
    with pytest.raises(VersionConflict):
        await storage.write({KEY: Tagged(tagged.e_tag, n=2)})
    await storage.write({KEY: Tagged(found.e_tag, m=3)})
    assert await data_of(storage) == {"m": 3}
    with pytest.raises(VersionConflict):
        await storage.write({KEY: found})
    found.e_tag = "*"
    await storage.write({KEY: found})
    assert await data_of(storage) == {"n": 1}

    # Or by its e_tag: then it replaces that one.
    found = await read(storage, KEY, Tagged)
    theirs = await read(other, KEY, Tagged)
    theirs.data["theirs"] = 1
    await other.write({KEY: theirs})
    found.e_tag = theirs.e_tag
    await storage.write({KEY: found})
    assert await data_of(storage) == {"n": 1}

    late = await read(storage, KEY, Tagged)
    await other.write({KEY: Note(n=1, theirs=1)})
    with pytest.raises(VersionConflict):
        await storage.write({KEY: late})
    await other.delete([KEY])
    with pytest.raises(SessionError):
        await storage.write({KEY: late})
    assert await data_of(storage) is None


@pytest.mark.parametrize("tag", ["x", "-1", "1.5", 7, "٣"])
async def test_agents_etag_that_is_none_is_a_value_error(storage: BotSessionStorage, tag: Any) -> None:
    with pytest.raises(ValueError, match="e_tag"):
        await storage.write({KEY: Tagged(tag, n=1)})
    assert await data_of(storage) is None


async def test_agents_etag_that_cannot_be_set_is_left_alone(storage: BotSessionStorage) -> None:
    class Fixed(Note):
        e_tag = property(lambda self: "*")

    await storage.write({KEY: Fixed(n=1)})
    found = await read(storage, KEY, Fixed)
    assert found.data == {"n": 1}


# The states of the SDK, and its application


class Adapter(ChannelAdapter):
    """Takes what the agent says; sends nothing anywhere."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # the SDK's is not annotated
        self.said: list[str | None] = []

    async def send_activities(self, context: Any, activities: list[Activity]) -> list[ResourceResponse]:
        self.said += [activity.text for activity in activities]
        return [ResourceResponse(id=str(len(self.said))) for _ in activities]

    async def update_activity(self, context: Any, activity: Activity) -> None:
        raise NotImplementedError

    async def delete_activity(self, context: Any, reference: ConversationReference) -> None:
        raise NotImplementedError


def message(text: str, user: str = "29:ada", conversation: str = "19:abc") -> Activity:
    return Activity.model_validate(
        {
            "type": "message",
            "id": "1",
            "text": text,
            "channelId": "msteams",
            "serviceUrl": "https://smba.example/",
            "from": {"id": user},
            "recipient": {"id": "28:agent"},
            "conversation": {"id": conversation},
        }
    )


class Agent:
    """An application of the SDK with a few commands, and the adapter that feeds it."""

    def __init__(self, storage: Storage) -> None:
        self.adapter = Adapter()
        self.errors: list[Exception] = []
        self.barrier: asyncio.Barrier | None = None
        # Connections are for tokens, which no test asks for.
        connections: Any = object()
        app = AgentApplication[TurnState](storage=storage, connection_manager=connections, proactive=ProactiveOptions(storage))
        self.app = app

        @app.before_turn
        async def count(context: TurnContext, state: Any) -> bool:
            state.user.set_value("messages", state.user.get_value("messages", lambda: 0) + 1)
            return True

        @app.activity("message")
        async def on_message(context: TurnContext, state: Any) -> None:
            command, *rest = (context.activity.text or "").split()
            if self.barrier is not None:
                await self.barrier.wait()
            await getattr(self, command)(context, state, *rest)

        @app.error
        async def on_error(context: TurnContext, error: Exception) -> None:
            self.errors.append(error)

    async def hear(self, text: str, **ids: str) -> str | None:
        """Runs a turn in a task of its own, as web servers do; gives what the agent has said last."""
        context = TurnContext(self.adapter, message(text, **ids))
        await as_a_turn(self.adapter.run_pipeline(context, self.app.on_turn))
        return self.adapter.said[-1] if self.adapter.said else None

    async def set(self, context: TurnContext, state: Any, name: str, value: str) -> None:
        state.conversation.set_value(name, value)

    async def say(self, context: TurnContext, state: Any) -> None:
        values = {**state.conversation.get()}
        await context.send_activity(f"{values} {state.user.get_value('messages')}")

    async def forget(self, context: TurnContext, state: Any) -> None:
        state.conversation.clear(context)

    async def delete(self, context: TurnContext, state: Any) -> None:
        state.conversation.set_value("last", "words")
        await state.conversation.delete(context)
        await state.user.delete(context)

    async def anew(self, context: TurnContext, state: Any) -> None:
        await state.conversation.delete(context)
        await state.conversation.load(context)
        state.conversation.set_value("born", "again")

    async def follow(self, context: TurnContext, state: Any) -> None:
        await self.app.proactive.store_conversation(context)


async def test_agents_application_keeps_its_state_over_a_restart(storage: BotSessionStorage, other: BotSessionStorage) -> None:
    agent = Agent(storage)
    await agent.hear("set name Ada")
    await agent.hear("set city London")
    assert await agent.hear("say") == "{'name': 'Ada', 'city': 'London'} 3"
    assert await agent.hear("say", user="29:bob", conversation="19:other") == "{} 1"
    assert await Agent(other).hear("say") == "{'name': 'Ada', 'city': 'London'} 4"
    assert agent.errors == []


async def test_agents_same_application_on_the_memory_storage_says_the_same(storage: BotSessionStorage) -> None:
    texts = ("say", "set a 1", "set b 2", "set a 1", "say", "forget", "say", "set c 3", "say", "anew", "say")
    answers = [[await agent.hear(text) for text in texts] for agent in (Agent(storage), Agent(MemoryStorage()))]
    # If a state was deleted and created again in one turn, the SDK's own has nothing else in it, either.
    assert answers[0] == answers[1]
    assert answers[0][-1] == "{'born': 'again'} 11"


@pytest.mark.parametrize("start", ["new", "there"])
async def test_agents_two_applications_at_once_lose_nothing(
    storage: BotSessionStorage, other: BotSessionStorage, start: str
) -> None:
    agents = [Agent(storage), Agent(other)]
    if start == "there":
        await agents[0].hear("set start 1")
    both_have_loaded = asyncio.Barrier(2)
    for agent in agents:
        agent.barrier = both_have_loaded
    users = "29:ada", "29:bob"
    await asyncio.gather(*(agent.hear(f"set {user[3:]} 1", user=user) for agent, user in zip(agents, users, strict=True)))
    assert [agent.errors for agent in agents] == [[], []]
    state = await read(storage, KEY, CachedAgentState)
    assert state.state == {"ada": "1", "bob": "1"} | ({"start": "1"} if start == "there" else {})


@pytest.mark.parametrize("start", ["new", "there"])
async def test_agents_applications_setting_one_property_conflict(
    storage: BotSessionStorage, other: BotSessionStorage, start: str
) -> None:
    agents = [Agent(storage), Agent(other)]
    if start == "there":
        await agents[0].hear("set winner nobody")
    both_have_loaded = asyncio.Barrier(2)
    for agent in agents:
        agent.barrier = both_have_loaded
    users = "29:ada", "29:bob"
    await asyncio.gather(*(agent.hear(f"set winner {user}", user=user) for agent, user in zip(agents, users, strict=True)))
    errors = [error for agent in agents for error in agent.errors]
    assert [type(error) for error in errors] == [VersionConflict]
    assert "'winner' changed since the item was read" in str(errors[0])
    winner = users[0] if agents[1].errors else users[1]
    assert (await read(storage, KEY, CachedAgentState)).state == {"winner": winner}


async def test_agents_conversation_deleted_by_another_turn_stays_so(
    storage: BotSessionStorage, other: BotSessionStorage
) -> None:
    agent = Agent(storage)
    await agent.hear("set name Ada")
    agent.barrier = asyncio.Barrier(2)
    turn = asyncio.create_task(agent.hear("set city London"))
    while agent.barrier.n_waiting == 0:  # noqa: ASYNC110 - a barrier has no event for this
        await asyncio.sleep(0)
    await Agent(other).hear("delete", user="29:bob")
    await agent.barrier.wait()
    await turn
    assert [type(error) for error in agent.errors] == [SessionGone]
    assert await read(storage, KEY, CachedAgentState) is None


async def test_agents_deleted_state_is_not_saved_again(storage: BotSessionStorage, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent(storage)
    await agent.hear("set name Ada")
    await agent.hear("delete")
    assert agent.errors == []
    assert await storage.read([KEY, USER_KEY], target_cls=CachedAgentState) == {}
    records = [record.getMessage() for record in caplog.records if record.name.startswith("redis_botsession.")]
    assert len(records) == 2
    assert all("was deleted by this turn" in text for text in records)
    await agent.hear("set name Eve")
    assert await agent.hear("say") == "{'name': 'Eve'} 2"


async def test_agents_accessor_of_a_property_works_in_a_context(storage: BotSessionStorage) -> None:
    async def turn(change: str) -> Any:
        context = TurnContext(Adapter(), message("hi"))
        state = UserState(storage)
        profile: Any = state.create_property("profile")
        value = await profile.get(context, lambda: {"words": []})
        value["words"].append(change)
        await state.save(context)
        return value

    await turn("a")
    assert await turn("b") == {"words": ["a", "b"]}


async def test_agents_conversations_of_proactive_messages_are_kept(storage: BotSessionStorage) -> None:
    agent = Agent(storage)
    for _ in range(2):
        await agent.hear("follow")
    assert agent.errors == []
    found = await agent.app.proactive.get_conversation("19:abc")
    assert isinstance(found, Conversation)
    assert found.conversation_reference.service_url == "https://smba.example/"


WORKER = """
import asyncio, sys
from microsoft_agents.activity import Activity
from microsoft_agents.hosting.core import TurnContext
from microsoft_agents.hosting.core.app.state import ConversationState
from redis_botsession.adapters.microsoft_agents import BotSessionStorage

url, prefix, worker, mode = sys.argv[1:]
activity = {"type": "message", "channelId": "msteams", "from": {"id": "29:a"}, "conversation": {"id": "19:abc"}}

async def turn(storage, n):
    context = TurnContext(object(), Activity.model_validate(activity))
    state = ConversationState(storage)
    await state.load(context)
    await asyncio.sleep(0)
    state.set_value(f"{worker}-{n}", n)
    await state.save(context)

async def main():
    async with BotSessionStorage.from_url(url, prefix=prefix, on_conflict=mode) as storage:
        await storage.read(["x"], target_cls=object)
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(turn(storage, n) for n in range(50)))

asyncio.run(main())
"""


async def properties_kept(url: str, prefix: str, mode: str) -> int:
    """How many are there after each of two processes has run 50 turns at once, each turn adding one to the same state."""
    pipe = subprocess.PIPE
    lines = [(sys.executable, "-c", WORKER, url, prefix, str(worker), mode) for worker in range(2)]
    workers = [await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe) for line in lines]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    assert [worker.returncode for worker in workers] == [0, 0]
    async with BotSessionStorage.from_url(url, prefix=prefix) as storage:
        return len(await data_of(storage))


async def test_agents_hundred_turns_of_two_processes_are_all_kept(newest_url: str, prefix: str) -> None:
    assert await properties_kept(newest_url, prefix, "merge") == 100


async def test_agents_states_of_the_sdk_overwrite_each_other_where_asked_to(newest_url: str, prefix: str) -> None:
    # What the merge is for: the SDK writes whole states.
    assert await properties_kept(newest_url, prefix, "overwrite") < 100


# The storage's own life


async def test_agents_closes_only_the_store_that_it_has_made(newest_url: str, prefix: str, store: SessionStore) -> None:
    async with BotSessionStorage(store) as storage:
        await storage.write({KEY: Note(n=1)})
    assert await data_of(BotSessionStorage(store)) == {"n": 1}
    async with BotSessionStorage.from_url(newest_url, prefix=prefix) as owner:
        assert await data_of(owner) == {"n": 1}
    with pytest.raises(SessionError, match="closed"):
        await data_of(owner)


async def test_agents_items_last_unless_a_ttl_is_given_and_a_read_renews_it(newest_url: str, prefix: str) -> None:
    async with (
        BotSessionStorage.from_url(newest_url, prefix=prefix) as lasting,
        BotSessionStorage.from_url(newest_url, prefix=prefix, ttl=1000) as rolling,
        redis.asyncio.Redis.from_url(newest_url) as client,
    ):
        assert isinstance(lasting.store, SessionStore)
        key = lasting.store.key(KEY, "state")
        await lasting.write({KEY: Note(n=1)})
        assert await client.pttl(key) == -1
        await data_of(rolling)
        assert 0 < await client.pttl(key) <= 1_000_000
        await client.pexpire(key, 5_000)
        await data_of(rolling)
        assert await client.pttl(key) > 5_000


async def test_agents_bad_arguments_are_told(store: SessionStore) -> None:
    with pytest.raises(ValueError, match="on_conflict"):
        BotSessionStorage(store, on_conflict="ignore")  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError, match="from_url"):
        BotSessionStorage("redis://localhost")  # type: ignore[arg-type] # on purpose
