"""Compares stores with a model of them: random operations in random order must return and leave the same."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from redis_botsession import BotSession, BotSessionHelper, MemorySessionStore, SerializationError
from redis_botsession._session.record import KEEP, Keep
from redis_botsession.testing.harness import ODD_IDS, VALUES

from ..support.store_model import (
    MAX_BYTES,
    RIVAL_WRITE,
    Edit,
    FakeredisSetup,
    Ids,
    LivePair,
    ModelLiveSession,
    Observed,
    ObservedStore,
    ServerSetup,
    StoreModel,
    StoreSetup,
    T,
    change,
    limited,
    predicted,
    size_of,
)

NAMES = st.sampled_from(("a", "b", "", "v", "ключ", "\udcffv"))
VALUE = st.one_of(
    st.sampled_from(VALUES),
    st.integers(0, 3),
    st.integers(0, MAX_BYTES).map("x".__mul__),
    st.integers(MAX_BYTES // 3, MAX_BYTES // 2).map("x".__mul__),
    st.just([{"nested": {"in": [1]}}]),
).map(copy.deepcopy)
DATA = st.dictionaries(NAMES, VALUE, max_size=3)
EDITS = st.lists(
    st.one_of(
        st.builds(Edit, st.just("put"), NAMES, VALUE),
        st.builds(Edit, st.sampled_from(["drop", "in place"]), NAMES),
    ),
    max_size=3,
)
# Only two, so that operations often meet the same session.
USER = CHANNEL = st.integers(0, 1)
# As written by clients whose clocks are years behind or ahead.
CREATED = st.sampled_from([datetime(year, 1, 2, 3, 4, 5, 678901, tzinfo=UTC) for year in (2020, 2120)])
SECONDS = st.sampled_from([None, None, None, None, -1, 3, 30])
#: The expected version: any (None), the current one, 0, an old one, or a future one.
EXPECTED = st.sampled_from([None] * 4 + ["current"] * 3 + ["none", "old", "to come"])
#: ``since_version``: not given, the newest version, the first one, or one from before the session was last created.
SINCE = st.sampled_from([None] * 3 + ["current", "first", "before"])
NEW_EXPIRES_AT = st.sampled_from([KEEP] * 5 + [None, None, -1, 3, 30])


def has_several(machine: StoreMachine) -> bool:
    """Precondition of rules that remove sessions: without it there would hardly ever be a session."""
    return len(machine.model.all()) > 1


class StoreMachine(RuleBasedStateMachine):
    """Applies random operations to all stores of a setup and to the model, and compares results and contents."""

    make_setup: Callable[[], StoreSetup]
    lives: Bundle[LivePair] = Bundle("lives")

    def __init__(self) -> None:
        super().__init__()
        self.users: list[str] = []
        self.channels: list[str] = []
        self.setup = self.make_setup()
        self.runner = asyncio.Runner()
        self.model = StoreModel(self.setup.now_ms, self.setup.ttl // timedelta(milliseconds=1))
        self.stores = [ObservedStore(store) for store in self.runner.run(self.setup.stores())]

    @initialize(
        users=st.lists(st.sampled_from(ODD_IDS), min_size=2, max_size=2, unique=True),
        channels=st.lists(st.sampled_from(ODD_IDS), min_size=2, max_size=2, unique=True),
    )
    def name(self, users: list[str], channels: list[str]) -> None:
        self.users, self.channels = users, channels

    # --- one call

    @rule(user=USER, channel=CHANNEL, touch=st.booleans(), as_number=st.booleans())
    def get(self, user: int, channel: int, touch: bool, as_number: bool) -> None:
        ids = self.ids(user, channel)
        spelled = [int(text) if as_number and text in {"1", "2"} else text for text in ids]

        async def operation(observed: ObservedStore) -> Observed | None:
            return observed.see(await observed.store.get(spelled[0], spelled[1], touch=touch))

        self.do(ids, operation, lambda: self.model.get(ids, touch=touch))

    @rule(user=USER, channel=CHANNEL, data=DATA, created=CREATED, seconds=SECONDS, expect=EXPECTED)
    def set(
        self, user: int, channel: int, data: dict[str, Any], created: datetime, seconds: int | None, expect: str | None
    ) -> None:
        ids = self.ids(user, channel)
        expires_at, expected = self.setup.moment(seconds), self.expected(ids, expect)

        async def operation(observed: ObservedStore) -> int:
            session = BotSession(*ids, data, created, expires_at=expires_at)
            return observed.learn(
                ids, await observed.store.set(*ids, session, expected_version=observed.version(ids, expected))
            )

        self.do(ids, operation, lambda: self.model.set(ids, data, created, expires_at, expected=expected))

    @rule(
        user=USER,
        channel=CHANNEL,
        changes=DATA,
        names=st.lists(NAMES, max_size=3),
        expect=EXPECTED,
        create=st.sampled_from([True, True, False]),
        seconds=NEW_EXPIRES_AT,
        since=SINCE,
    )
    def update(
        self,
        user: int,
        channel: int,
        changes: dict[str, Any],
        names: list[str],
        expect: str | None,
        create: bool,
        seconds: int | Keep | None,
        since: str | None,
    ) -> None:
        ids = self.ids(user, channel)
        remove = [name for name in names if name not in changes]
        expected, number = self.expected(ids, expect), self.since(ids, since)
        expires_at = seconds if isinstance(seconds, Keep) else self.setup.moment(seconds)

        async def operation(observed: ObservedStore) -> int:
            version = await observed.store.update(
                *ids,
                changes,
                remove=remove,
                expected_version=observed.version(ids, expected),
                create=create,
                expires_at=expires_at,
                since_version=observed.version(ids, number),
            )
            return observed.learn(ids, version)

        self.do(
            ids,
            operation,
            lambda: self.model.update(
                ids, changes, remove=remove, expected=expected, create=create, expires_at=expires_at, since=number
            ),
        )

    @rule(user=USER, channel=CHANNEL, edits=EDITS, seconds=NEW_EXPIRES_AT, meddle=st.booleans())
    def modify(self, user: int, channel: int, edits: list[Edit], seconds: int | Keep | None, meddle: bool) -> None:
        ids = self.ids(user, channel)
        expires_at = seconds if isinstance(seconds, Keep) else self.setup.moment(seconds)

        async def operation(observed: ObservedStore) -> Observed | None:
            calls = 0

            async def fn(session: BotSession) -> None:
                nonlocal calls
                calls += 1
                if meddle and calls == 1:
                    observed.learn(ids, await observed.store.update(*ids, RIVAL_WRITE))
                change(session, edits, expires_at)

            return observed.see(await observed.store.modify(*ids, fn))

        self.do(ids, operation, lambda: self.model.modify(ids, edits, expires_at, meddle=meddle))

    @rule(user=USER, channel=CHANNEL, seconds=st.sampled_from([None, 2, 20]))
    def touch(self, user: int, channel: int, seconds: int | None) -> None:
        ids = self.ids(user, channel)
        ttl = None if seconds is None else self.setup.lifetime(seconds)
        ttl_ms = None if ttl is None else ttl // timedelta(milliseconds=1)
        self.do(ids, lambda observed: observed.store.touch(*ids, ttl), lambda: self.model.touch(ids, ttl_ms))

    @precondition(has_several)
    @rule(user=USER, channel=CHANNEL, expect=EXPECTED)
    def delete(self, user: int, channel: int, expect: str | None) -> None:
        ids = self.ids(user, channel)
        expected = self.expected(ids, expect)

        async def operation(observed: ObservedStore) -> bool:
            return await observed.store.delete(*ids, expected_version=observed.version(ids, expected))

        self.do(ids, operation, lambda: self.model.delete(ids, expected=expected))

    @precondition(has_several)
    @rule(user=USER)
    def clear(self, user: int) -> None:
        ids = self.ids(user, 0)
        self.do(ids, lambda observed: observed.store.clear(ids[0]), lambda: self.model.clear(ids[0]))

    @rule(user=USER, channel=CHANNEL, replace=st.booleans())
    def write_what_cannot_be_stored(self, user: int, channel: int, replace: bool) -> None:
        ids = self.ids(user, channel)
        data = {"a": {"b": [object()]}}

        async def operation(observed: ObservedStore) -> int:
            if replace:
                return await observed.store.set(*ids, BotSession(*ids, data))
            return await observed.store.update(*ids, data)

        def model() -> int:
            raise SerializationError("", path="a.b[0]")

        self.do(ids, operation, model)

    # --- what there is

    # Separate rules, because each of these calls removes what has expired, and would do it for the next one.
    @rule()
    def scan(self) -> None:
        async def operation(observed: ObservedStore) -> list[Ids]:
            return sorted([ids async for ids in observed.store.scan()])

        self.do(self.ids(0, 0), operation, self.model.all)

    @rule()
    def size(self) -> None:
        self.do(self.ids(0, 0), lambda observed: observed.store.size(), lambda: len(self.model.all()))

    @rule(user=USER)
    def list_channels(self, user: int) -> None:
        ids = self.ids(user, 0)

        async def operation(observed: ObservedStore) -> list[str]:
            return sorted(await observed.store.channels(ids[0]))

        self.do(ids, operation, lambda: [channel for owner, channel in self.model.all() if owner == ids[0]])

    @rule()
    def get_all(self) -> None:
        for user in range(2):
            for channel in range(2):
                self.get(user, channel, touch=False, as_number=False)

    # --- live sessions

    @rule(target=lives, user=USER, channel=CHANNEL, exists=st.booleans())
    def open(self, user: int, channel: int, exists: bool) -> LivePair:
        ids = self.ids(user, channel)
        if exists:
            self.modify(user, channel, [Edit("put", "a", [1])], KEEP, meddle=False)
        self.setup.tick()
        self.model.touch(ids)
        contexts = [observed.store.session(*ids) for observed in self.stores]
        pair = LivePair(self.model.load(ids), contexts, [self.runner.run(_enter(context)) for context in contexts])
        self.compare_live(pair)
        return pair

    @rule(pair=lives, edits=EDITS, seconds=NEW_EXPIRES_AT)
    def save_live(self, pair: LivePair, edits: list[Edit], seconds: int | Keep | None) -> None:
        self.edit(pair, edits, seconds)
        self.do_live(pair, lambda number: pair.helpers[number].save(), lambda: self.save_model(pair))

    @rule(pair=lives, changes=DATA)
    def update_live(self, pair: LivePair, changes: dict[str, Any]) -> None:
        def model() -> None:
            limited(size_of(changes))
            pair.model.data.update(copy.deepcopy(changes))
            self.save_model(pair)

        self.do_live(pair, lambda number: pair.helpers[number].update(copy.deepcopy(changes)), model)

    @rule(pair=lives)
    def delete_live(self, pair: LivePair) -> None:
        def model() -> None:
            self.model.delete(pair.model.ids)
            pair.model = ModelLiveSession(pair.model.ids)

        self.do_live(pair, lambda number: pair.helpers[number].delete(), model)

    @rule(pair=consumes(lives), edits=EDITS, seconds=NEW_EXPIRES_AT)
    def close_live(self, pair: LivePair, edits: list[Edit], seconds: int | Keep | None) -> None:
        self.edit(pair, edits, seconds)

        async def close(number: int) -> None:
            await pair.contexts[number].__aexit__(None, None, None)

        self.do_live(pair, close, lambda: self.save_model(pair))

    @rule(pair=consumes(lives), edits=EDITS)
    def fail_live(self, pair: LivePair, edits: list[Edit]) -> None:
        self.edit(pair, edits, KEEP)
        error = LookupError("the handler failed")

        async def fail(number: int) -> None:
            assert not await pair.contexts[number].__aexit__(LookupError, error, None)

        self.do_live(pair, fail, lambda: None)

    # --- time

    @precondition(has_several)
    @rule(seconds=st.sampled_from([1, 1, 4, 9, 40]))
    def let_time_pass(self, seconds: int) -> None:
        self.setup.advance(seconds * self.setup.second_ms)

    @rule()
    def clean_up(self) -> None:
        for observed in self.stores:
            if isinstance(observed.store, MemorySessionStore):
                observed.store.cleanup()

    # --- how it is done

    def ids(self, user: int, channel: int) -> Ids:
        return self.users[user], self.channels[channel]

    def expected(self, ids: Ids, which: str | None) -> int | None:
        record = self.model.find(ids)
        writes = self.model.writes.get(ids, 0)
        current, old = (record.version, record.version - 1) if record else (0, writes)
        return None if which is None else {"current": current, "none": 0, "old": old, "to come": writes + 1}[which]

    def since(self, ids: Ids, which: str | None) -> int | None:
        record = self.model.find(ids)
        if which is None:
            return None
        if record is None:
            return self.model.writes.get(ids, 0)
        return {"current": record.version, "first": record.born, "before": record.born - 1}[which]

    def edit(self, pair: LivePair, edits: list[Edit], seconds: int | Keep | None) -> None:
        expires_at = seconds if isinstance(seconds, Keep) else self.setup.moment(seconds)
        change(pair.model, edits, expires_at)
        for helper in pair.helpers:
            change(helper, edits, expires_at)

    def save_model(self, pair: LivePair) -> None:
        if not self.model.save(pair.model):
            pair.model = ModelLiveSession(pair.model.ids)

    def do(self, ids: Ids, operation: Callable[[ObservedStore], Awaitable[T]], model: Callable[[], T]) -> None:
        """Applies an operation to the model and to each store, and compares the results."""
        self.setup.tick()
        expected = predicted(model)
        for observed in self.stores:
            assert self.runner.run(observed.outcome(ids, operation)) == expected, observed.store

    def do_live(self, pair: LivePair, operation: Callable[[int], Awaitable[None]], model: Callable[[], None]) -> None:
        numbers = {observed: number for number, observed in enumerate(self.stores)}
        self.do(pair.model.ids, lambda observed: operation(numbers[observed]), model)
        self.compare_live(pair)

    def compare_live(self, pair: LivePair) -> None:
        for observed, helper in zip(self.stores, pair.helpers, strict=True):
            assert observed.see(helper) == pair.model.seen(), observed.store

    def teardown(self) -> None:
        try:
            self.runner.run(self.dispose())
            self.runner.close()
        finally:
            self.setup.close()

    async def dispose(self) -> None:
        for observed in self.stores:
            for user in self.users:
                await observed.store.clear(user)
            await observed.store.aclose()


async def _enter(context: AbstractAsyncContextManager[BotSessionHelper]) -> BotSessionHelper:
    return await context.__aenter__()


def run(setup: Callable[[], StoreSetup], *, examples: int, steps: int) -> None:
    class Machine(StoreMachine):
        make_setup = staticmethod(setup)

    # Long runs find most, and drawing their steps takes as long as running them.
    patience = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(Machine, settings=patience)


def test_store_model_touch_keeps_sessions_with_a_deadline_listed() -> None:
    # Random runs hardly ever have these five steps in a row.
    class Machine(StoreMachine):
        make_setup = FakeredisSetup

    machine = Machine()
    try:
        machine.name(users=["u", "v"], channels=["c", "d"])
        machine.set(user=0, channel=0, data={}, created=datetime(2020, 1, 1, tzinfo=UTC), seconds=30, expect=None)
        machine.touch(user=0, channel=0, seconds=None)
        machine.setup.advance(9 * machine.setup.second_ms)
        # A write to another session of the user removes expired entries from the index.
        machine.modify(user=0, channel=1, edits=[Edit("put", "a", 1)], seconds=KEEP, meddle=False)
        machine.list_channels(user=0)
        machine.clear(user=0)
        machine.get_all()
    finally:
        machine.teardown()


def test_store_model_memory_does_what_the_model_does() -> None:
    run(StoreSetup, examples=150, steps=60)


def test_store_model_fakeredis_and_memory_do_what_the_model_does() -> None:
    run(FakeredisSetup, examples=150, steps=50)


def test_store_model_server_and_memory_do_what_the_model_does(newest_url: str) -> None:
    run(lambda: ServerSetup(newest_url), examples=80, steps=50)
