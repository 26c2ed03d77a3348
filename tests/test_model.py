"""Stores against a plain dict: whatever is done to them, in whatever order, they say and hold what the dict does."""

from __future__ import annotations

import asyncio
import copy
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import fakeredis
import time_machine
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

from redis_botsession import (
    BotSession,
    BotSessionHelper,
    BotSessionStore,
    Codec,
    MemorySessionStore,
    SerializationError,
    SessionError,
    SessionGone,
    SessionStore,
    SessionTooLarge,
    VersionConflict,
)
from redis_botsession.session import KEEP, Keep
from redis_botsession.testing.harness import ODD_IDS, VALUES
from redis_botsession.times import EPOCH, from_micros

from .strategies import shape
from .test_contract import ClientStore

T = TypeVar("T")
Ids = tuple[str, str]

#: Little, so that sessions outgrow it.
MAX_BYTES = 200
# All deadlines are half a tick beside the times at which something is done: what happens in the very millisecond of a
# deadline is nobody's business.
TICK_MS = 125
BESIDE_MS = 50
#: What another process writes meanwhile.
MEDDLED: dict[str, Any] = {"a": "meddled"}


# --- the model


@dataclass
class Record:
    """A session; versions are the numbers of its writes, from 1 on, over all its lives."""

    data: dict[str, Any]
    version: int
    born: int
    created: datetime | int
    own_deadline: datetime | None
    deadline_ms: float


@dataclass(frozen=True)
class Seen:
    """What is to be seen of a session, the same in every store."""

    ids: Ids
    data: dict[str, Any]
    version: int
    created: datetime | int | None
    updated: datetime | int | None
    expires_at: datetime | None


@dataclass
class Live:
    """A live session: what its handler has, and what of it is saved."""

    ids: Ids
    data: dict[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None
    version: int = 0
    created: datetime | int | None = None
    saved: dict[str, Any] = field(default_factory=dict)
    saved_expires_at: datetime | None = None

    def seen(self) -> Seen:
        created = self.created if self.version else None
        return Seen(self.ids, shapes(self.data), self.version, created, self.version or None, self.expires_at)


@dataclass(frozen=True)
class Raised:
    """An error, without what differs between stores."""

    kind: type[Exception]
    attributes: dict[str, Any]


def size_of(data: dict[str, Any]) -> int:
    fields = Codec().encode(data)
    return sum(map(len, fields)) + sum(map(len, fields.values()))


def shapes(data: dict[str, Any]) -> dict[str, Any]:
    return {name: shape(value) for name, value in data.items()}


def limited(size: int, at_least: int = 0) -> None:
    """Refuses more than ``MAX_BYTES`` bytes; what is too large already may shrink to less than it was."""
    if size > max(MAX_BYTES, at_least):
        # How much more, nobody says: what is too large is not packed to the end.
        raise SessionTooLarge("", size=True, limit=MAX_BYTES)


class Model:
    """A store in the simplest way there is."""

    def __init__(self, now_ms: Callable[[], int], ttl_ms: int) -> None:
        self._now_ms = now_ms
        self._ttl_ms = ttl_ms
        self._records: dict[Ids, Record] = {}
        self.writes: dict[Ids, int] = {}

    def all(self) -> list[Ids]:
        return sorted(ids for ids in self._records if self.find(ids))

    def find(self, ids: Ids) -> Record | None:
        record = self._records.get(ids)
        return record if record and record.deadline_ms > self._now_ms() else None

    def get(self, ids: Ids, *, touch: bool = False) -> Seen | None:
        if touch:
            self.touch(ids)
        record = self.find(ids)
        if record is None:
            return None
        return Seen(ids, shapes(record.data), record.version, record.created, record.version, record.own_deadline)

    def set(
        self, ids: Ids, data: dict[str, Any], created: datetime, expires_at: datetime | None, *, expected: int | None = None
    ) -> int:
        limited(size_of(data))
        record = self.find(ids)
        self._compare(record, expected)
        return self._write(ids, data, record, created, expires_at)

    def update(
        self,
        ids: Ids,
        changes: dict[str, Any],
        *,
        remove: Iterable[str] = (),
        expected: int | None = None,
        create: bool = True,
        expires_at: datetime | Keep | None = KEEP,
        since: int | None = None,
    ) -> int:
        limited(size_of(changes))
        record = self.find(ids)
        if record is None and (not create or since is not None):
            raise SessionGone("")
        if record is not None and since is not None and record.born > since:
            raise SessionGone("")
        self._compare(record, expected)
        before = {} if record is None else record.data
        own_deadline = (record.own_deadline if record else None) if isinstance(expires_at, Keep) else expires_at
        data = {name: value for name, value in before.items() if name not in remove} | changes
        if not self._has_passed(own_deadline):
            limited(size_of(data), at_least=size_of(before))
        return self._write(ids, data, record, record.created if record else None, own_deadline)

    def touch(self, ids: Ids, ttl_ms: int | None = None) -> bool:
        record = self.find(ids)
        if record is None:
            return False
        record.deadline_ms = self._deadline_ms(record.own_deadline, ttl_ms)
        return True

    def delete(self, ids: Ids, *, expected: int | None = None) -> bool:
        record = self.find(ids)
        self._compare(record, expected)
        return self._records.pop(ids, None) is not None and record is not None

    def clear(self, user: str) -> int:
        return sum([self.delete(ids) for ids in self.all() if ids[0] == user])

    def load(self, ids: Ids) -> Live:
        record = self.find(ids)
        if record is None:
            return Live(ids)
        own, data = record.own_deadline, copy.deepcopy(record.data)
        return Live(ids, data, own, record.version, record.created, copy.deepcopy(data), own)

    def save(self, live: Live, *, expected: int | None = None) -> bool:
        """Saves what has changed; whether the session is still there, as far as this tells."""
        limited(size_of(live.data))
        before, after = shapes(live.saved), shapes(live.data)
        changed = {name: live.data[name] for name in after if before.get(name) != after[name]}
        removed = before.keys() - after.keys()
        expires_at = KEEP if live.expires_at == live.saved_expires_at else live.expires_at
        if not changed and not removed and isinstance(expires_at, Keep):
            return True
        since = live.version or None if expected is None else None
        version = self.update(live.ids, changed, remove=removed, expected=expected, expires_at=expires_at, since=since)
        live.created = live.created if live.version else version
        live.version = version
        live.saved, live.saved_expires_at = copy.deepcopy(live.data), live.expires_at
        return version != 0

    def modify(self, ids: Ids, edits: list[Edit], expires_at: datetime | Keep | None, *, meddle: bool) -> Seen:
        live = self.load(ids)
        if meddle:
            self.update(ids, MEDDLED)
        change(live, edits, expires_at)
        try:
            self.save(live, expected=live.version)
        except VersionConflict:
            return self.modify(ids, edits, expires_at, meddle=False)
        return live.seen()

    def _compare(self, record: Record | None, expected: int | None) -> None:
        version = record.version if record else 0
        if expected is not None and expected != version:
            raise VersionConflict("", expected=expected, actual=version)

    def _write(
        self, ids: Ids, data: dict[str, Any], before: Record | None, created: datetime | int | None, own: datetime | None
    ) -> int:
        if self._has_passed(own):
            self._records.pop(ids, None)
            return 0
        version = self.writes[ids] = self.writes.get(ids, 0) + 1
        born = before.born if before else version
        created = version if created is None else created
        self._records[ids] = Record(copy.deepcopy(data), version, born, created, own, self._deadline_ms(own, None))
        return version

    def _has_passed(self, own_deadline: datetime | None) -> bool:
        return own_deadline is not None and self._deadline_ms(own_deadline, None) <= self._now_ms()

    def _deadline_ms(self, own_deadline: datetime | None, ttl_ms: int | None) -> float:
        if own_deadline is not None:
            return math.ceil((own_deadline - EPOCH) / timedelta(milliseconds=1))
        return self._now_ms() + (ttl_ms or self._ttl_ms)


# --- what a handler does to its data


@dataclass(frozen=True)
class Edit:
    """A change to the data of a session: put a value at a name, drop the name, or change in place what is there."""

    kind: str
    name: str
    value: Any = None

    def apply(self, data: dict[str, Any]) -> None:
        there = data.get(self.name)
        if self.kind == "put":
            data[self.name] = copy.deepcopy(self.value)
        elif self.kind == "drop":
            data.pop(self.name, None)
        elif isinstance(there, list):
            there.append("in place")
        elif isinstance(there, dict):
            there[len(there)] = "in place"
        elif isinstance(there, set):
            there.add(f"in place {len(there)}")
        else:
            data[self.name] = [{"deep": {"in": [there]}}]


def change(session: Live | BotSession, edits: Iterable[Edit], expires_at: datetime | Keep | None) -> None:
    for edit in edits:
        edit.apply(session.data)
    if not isinstance(expires_at, Keep):
        session.expires_at = expires_at


# --- the stores


class World:
    """Some stores under one clock."""

    #: The second of all TTLs and deadlines; an hour where the clock cannot be moved, so that nothing gets near to its end.
    second_ms = 1000

    def __init__(self) -> None:
        self._seconds = 1_800_000_000.0

    @property
    def ttl(self) -> timedelta:
        return self.lifetime(8)

    def lifetime(self, seconds: int) -> timedelta:
        return timedelta(milliseconds=seconds * self.second_ms + BESIDE_MS)

    def moment(self, seconds: int | None) -> datetime | None:
        return None if seconds is None else EPOCH + timedelta(milliseconds=self.now_ms()) + self.lifetime(seconds)

    def now(self) -> float:
        return self._seconds

    def now_ms(self) -> int:
        return math.floor(self.now() * 1000)

    def tick(self) -> None:
        """Something is about to be done."""

    def advance(self, ms: int) -> None:
        self._seconds += ms / 1000

    async def stores(self) -> list[BotSessionStore]:
        return [MemorySessionStore(ttl=self.ttl, max_bytes=MAX_BYTES, cleanup_interval=None, clock=self.now)]

    def close(self) -> None:
        """The stores are closed."""


class FakeWorld(World):
    """fakeredis and memory in lock-step; fakeredis takes the time of the process, so that is what moves."""

    def __init__(self) -> None:
        super().__init__()
        self._travel = time_machine.travel(self._seconds, tick=False)
        self._traveller = self._travel.start()

    def tick(self) -> None:
        # A server's clock does not stand still between two commands.
        self.advance(TICK_MS)

    def advance(self, ms: int) -> None:
        super().advance(ms)
        self._traveller.shift(timedelta(milliseconds=ms))

    async def stores(self) -> list[BotSessionStore]:
        fake = ClientStore(fakeredis.FakeAsyncRedis(), prefix="", ttl=self.ttl, max_bytes=MAX_BYTES)
        return [fake, *await super().stores()]

    def close(self) -> None:
        self._travel.stop()


class RealWorld(World):
    """A server and memory in lock-step; nobody moves a server's clock."""

    second_ms = 3_600_000

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def now(self) -> float:
        return time.time()

    def advance(self, ms: int) -> None:
        """Not here."""

    async def stores(self) -> list[BotSessionStore]:
        prefix = f"test:{uuid.uuid4().hex}:"
        real = SessionStore.from_url(self._url, prefix=prefix, ttl=self.ttl, max_bytes=MAX_BYTES)
        return [real, *await super().stores()]


class Side:
    """One of the stores, with the versions it has given: each store has its own, in one order."""

    def __init__(self, store: BotSessionStore) -> None:
        self.store = store
        self._versions: dict[Ids, list[int]] = {}

    def learn(self, ids: Ids, version: int) -> int:
        """The number of the write that gave ``version``.

        Raises:
            AssertionError: it is a new one and does not come after all that this session had, in all its lives.
        """
        versions = self._versions.setdefault(ids, [])
        if version not in (0, *versions):
            assert version > max([0, *versions])
            versions.append(version)
        return self.number(ids, version)

    def number(self, ids: Ids, version: int) -> int:
        """The number of the write that gave ``version``, 0 for none, one more than there were for one to come."""
        return [0, *self._versions.get(ids, ()), version].index(version)

    def version(self, ids: Ids, number: int | None) -> int | None:
        """The reverse of ``number``."""
        versions = [0, *self._versions.get(ids, ())]
        return None if number is None else versions[number] if number < len(versions) else versions[-1] + 10**12

    def see(self, session: BotSession | None) -> Seen | None:
        if session is None:
            return None
        ids = session.user_id, session.channel_id
        version = self.learn(ids, session.version)
        is_stored = session.version != 0
        created = self._when(ids, session.created_at) if is_stored else None
        updated = self._when(ids, session.updated_at) if is_stored else None
        return Seen(ids, shapes(session.data), version, created, updated, session.expires_at)

    def _when(self, ids: Ids, when: datetime) -> datetime | int:
        numbers = {from_micros(version): number for number, version in enumerate(self._versions[ids], 1)}
        return numbers.get(when, when)

    async def outcome(self, ids: Ids, operation: Callable[[Side], Awaitable[T]]) -> T | Raised:
        try:
            return await operation(self)
        except SessionError as error:
            attributes = dict(vars(error))
            # The name of the session is each store's own.
            attributes["key"] = None if error.key == self.store.key(*ids) else error.key
            for name in {"expected", "actual"} & attributes.keys():
                attributes[name] = self.number(ids, attributes[name])
            if isinstance(error, SessionTooLarge):
                attributes["size"] = error.size > error.limit
            return Raised(type(error), attributes)


def predicted(operation: Callable[[], T]) -> T | Raised:
    try:
        return operation()
    except SessionError as error:
        return Raised(type(error), vars(error))


@dataclass
class Pair:
    """A live session of the model, and its twin in each store."""

    model: Live
    contexts: list[AbstractAsyncContextManager[BotSessionHelper]]
    helpers: list[BotSessionHelper]


# --- what is drawn

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
# Few, so that what is done meets what was done before.
USER = CHANNEL = st.integers(0, 1)
# By clients whose clocks are behind and ahead.
CREATED = st.sampled_from([datetime(year, 1, 2, 3, 4, 5, 678901, tzinfo=UTC) for year in (2020, 2120)])
SECONDS = st.sampled_from([None, None, None, None, -1, 3, 30])
#: Which version to expect: any, the one there is, none, an old one, one to come.
EXPECTED = st.sampled_from([None] * 4 + ["current"] * 3 + ["none", "old", "to come"])
#: Since which version the session must have been there: none said, its newest, its first, one of a life before.
SINCE = st.sampled_from([None] * 3 + ["current", "first", "before"])
NEW_EXPIRES_AT = st.sampled_from([KEEP] * 5 + [None, None, -1, 3, 30])


def has_several(machine: StoreMachine) -> bool:
    """What takes away waits for this, or there would hardly ever be anything."""
    return len(machine.model.all()) > 1


class StoreMachine(RuleBasedStateMachine):
    """Does something to all stores of a world and to the model, and compares."""

    make_world: Callable[[], World]
    lives: Bundle[Pair] = Bundle("lives")

    def __init__(self) -> None:
        super().__init__()
        self.users: list[str] = []
        self.channels: list[str] = []
        self.world = self.make_world()
        self.runner = asyncio.Runner()
        self.model = Model(self.world.now_ms, self.world.ttl // timedelta(milliseconds=1))
        self.sides = [Side(store) for store in self.runner.run(self.world.stores())]

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

        async def operation(side: Side) -> Seen | None:
            return side.see(await side.store.get(spelled[0], spelled[1], touch=touch))

        self.do(ids, operation, lambda: self.model.get(ids, touch=touch))

    @rule(user=USER, channel=CHANNEL, data=DATA, created=CREATED, seconds=SECONDS, expect=EXPECTED)
    def set(
        self, user: int, channel: int, data: dict[str, Any], created: datetime, seconds: int | None, expect: str | None
    ) -> None:
        ids = self.ids(user, channel)
        expires_at, expected = self.world.moment(seconds), self.expected(ids, expect)

        async def operation(side: Side) -> int:
            session = BotSession(*ids, data, created, expires_at=expires_at)
            return side.learn(ids, await side.store.set(*ids, session, expected_version=side.version(ids, expected)))

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
        expires_at = seconds if isinstance(seconds, Keep) else self.world.moment(seconds)

        async def operation(side: Side) -> int:
            version = await side.store.update(
                *ids,
                changes,
                remove=remove,
                expected_version=side.version(ids, expected),
                create=create,
                expires_at=expires_at,
                since_version=side.version(ids, number),
            )
            return side.learn(ids, version)

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
        expires_at = seconds if isinstance(seconds, Keep) else self.world.moment(seconds)

        async def operation(side: Side) -> Seen | None:
            calls = 0

            async def fn(session: BotSession) -> None:
                nonlocal calls
                calls += 1
                if meddle and calls == 1:
                    side.learn(ids, await side.store.update(*ids, MEDDLED))
                change(session, edits, expires_at)

            return side.see(await side.store.modify(*ids, fn))

        self.do(ids, operation, lambda: self.model.modify(ids, edits, expires_at, meddle=meddle))

    @rule(user=USER, channel=CHANNEL, seconds=st.sampled_from([None, 2, 20]))
    def touch(self, user: int, channel: int, seconds: int | None) -> None:
        ids = self.ids(user, channel)
        ttl = None if seconds is None else self.world.lifetime(seconds)
        ttl_ms = None if ttl is None else ttl // timedelta(milliseconds=1)
        self.do(ids, lambda side: side.store.touch(*ids, ttl), lambda: self.model.touch(ids, ttl_ms))

    @precondition(has_several)
    @rule(user=USER, channel=CHANNEL, expect=EXPECTED)
    def delete(self, user: int, channel: int, expect: str | None) -> None:
        ids = self.ids(user, channel)
        expected = self.expected(ids, expect)

        async def operation(side: Side) -> bool:
            return await side.store.delete(*ids, expected_version=side.version(ids, expected))

        self.do(ids, operation, lambda: self.model.delete(ids, expected=expected))

    @precondition(has_several)
    @rule(user=USER)
    def clear(self, user: int) -> None:
        ids = self.ids(user, 0)
        self.do(ids, lambda side: side.store.clear(ids[0]), lambda: self.model.clear(ids[0]))

    @rule(user=USER, channel=CHANNEL, replace=st.booleans())
    def write_what_cannot_be_stored(self, user: int, channel: int, replace: bool) -> None:
        ids = self.ids(user, channel)
        data = {"a": {"b": [object()]}}

        async def operation(side: Side) -> int:
            if replace:
                return await side.store.set(*ids, BotSession(*ids, data))
            return await side.store.update(*ids, data)

        def model() -> int:
            raise SerializationError("", path="a.b[0]")

        self.do(ids, operation, model)

    # --- what there is

    # Apart, not in one: each of them forgets what has expired, and must not do it for the others.
    @rule()
    def scan(self) -> None:
        async def operation(side: Side) -> list[Ids]:
            return sorted([ids async for ids in side.store.scan()])

        self.do(self.ids(0, 0), operation, self.model.all)

    @rule()
    def size(self) -> None:
        self.do(self.ids(0, 0), lambda side: side.store.size(), lambda: len(self.model.all()))

    @rule(user=USER)
    def list_channels(self, user: int) -> None:
        ids = self.ids(user, 0)

        async def operation(side: Side) -> list[str]:
            return sorted(await side.store.channels(ids[0]))

        self.do(ids, operation, lambda: [channel for owner, channel in self.model.all() if owner == ids[0]])

    @rule()
    def get_all(self) -> None:
        for user in range(2):
            for channel in range(2):
                self.get(user, channel, touch=False, as_number=False)

    # --- live sessions

    @rule(target=lives, user=USER, channel=CHANNEL, exists=st.booleans())
    def open(self, user: int, channel: int, exists: bool) -> Pair:
        ids = self.ids(user, channel)
        if exists:
            self.modify(user, channel, [Edit("put", "a", [1])], KEEP, meddle=False)
        self.world.tick()
        self.model.touch(ids)
        contexts = [side.store.session(*ids) for side in self.sides]
        pair = Pair(self.model.load(ids), contexts, [self.runner.run(_enter(context)) for context in contexts])
        self.compare_live(pair)
        return pair

    @rule(pair=lives, edits=EDITS, seconds=NEW_EXPIRES_AT)
    def save_live(self, pair: Pair, edits: list[Edit], seconds: int | Keep | None) -> None:
        self.edit(pair, edits, seconds)
        self.do_live(pair, lambda number: pair.helpers[number].save(), lambda: self.save_model(pair))

    @rule(pair=lives, changes=DATA)
    def update_live(self, pair: Pair, changes: dict[str, Any]) -> None:
        def model() -> None:
            limited(size_of(changes))
            pair.model.data.update(copy.deepcopy(changes))
            self.save_model(pair)

        self.do_live(pair, lambda number: pair.helpers[number].update(copy.deepcopy(changes)), model)

    @rule(pair=lives)
    def delete_live(self, pair: Pair) -> None:
        def model() -> None:
            self.model.delete(pair.model.ids)
            pair.model = Live(pair.model.ids)

        self.do_live(pair, lambda number: pair.helpers[number].delete(), model)

    @rule(pair=consumes(lives), edits=EDITS, seconds=NEW_EXPIRES_AT)
    def close_live(self, pair: Pair, edits: list[Edit], seconds: int | Keep | None) -> None:
        self.edit(pair, edits, seconds)

        async def close(number: int) -> None:
            await pair.contexts[number].__aexit__(None, None, None)

        self.do_live(pair, close, lambda: self.save_model(pair))

    @rule(pair=consumes(lives), edits=EDITS)
    def fail_live(self, pair: Pair, edits: list[Edit]) -> None:
        self.edit(pair, edits, KEEP)
        error = LookupError("the handler failed")

        async def fail(number: int) -> None:
            assert not await pair.contexts[number].__aexit__(LookupError, error, None)

        self.do_live(pair, fail, lambda: None)

    # --- time

    @precondition(has_several)
    @rule(seconds=st.sampled_from([1, 1, 4, 9, 40]))
    def let_time_pass(self, seconds: int) -> None:
        self.world.advance(seconds * self.world.second_ms)

    @rule()
    def clean_up(self) -> None:
        for side in self.sides:
            if isinstance(side.store, MemorySessionStore):
                side.store.cleanup()

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

    def edit(self, pair: Pair, edits: list[Edit], seconds: int | Keep | None) -> None:
        expires_at = seconds if isinstance(seconds, Keep) else self.world.moment(seconds)
        change(pair.model, edits, expires_at)
        for helper in pair.helpers:
            change(helper, edits, expires_at)

    def save_model(self, pair: Pair) -> None:
        if not self.model.save(pair.model):
            pair.model = Live(pair.model.ids)

    def do(self, ids: Ids, operation: Callable[[Side], Awaitable[T]], model: Callable[[], T]) -> None:
        """Does it to the model and to each store; they must say the same."""
        self.world.tick()
        expected = predicted(model)
        for side in self.sides:
            assert self.runner.run(side.outcome(ids, operation)) == expected, side.store

    def do_live(self, pair: Pair, operation: Callable[[int], Awaitable[None]], model: Callable[[], None]) -> None:
        numbers = {side: number for number, side in enumerate(self.sides)}
        self.do(pair.model.ids, lambda side: operation(numbers[side]), model)
        self.compare_live(pair)

    def compare_live(self, pair: Pair) -> None:
        for side, helper in zip(self.sides, pair.helpers, strict=True):
            assert side.see(helper) == pair.model.seen(), side.store

    def teardown(self) -> None:
        try:
            self.runner.run(self.dispose())
            self.runner.close()
        finally:
            self.world.close()

    async def dispose(self) -> None:
        for side in self.sides:
            for user in self.users:
                await side.store.clear(user)
            await side.store.aclose()


async def _enter(context: AbstractAsyncContextManager[BotSessionHelper]) -> BotSessionHelper:
    return await context.__aenter__()


def run(world: Callable[[], World], *, examples: int, steps: int) -> None:
    class Machine(StoreMachine):
        make_world = staticmethod(world)

    # A long run is what finds things: drawing its steps takes as long as doing them.
    patience = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(Machine, settings=patience)


def test_memory_does_what_the_model_does() -> None:
    run(World, examples=150, steps=60)


def test_fakeredis_and_memory_do_what_the_model_does() -> None:
    run(FakeWorld, examples=150, steps=50)


def test_a_server_and_memory_do_what_the_model_does(newest_url: str) -> None:
    run(lambda: RealWorld(newest_url), examples=80, steps=50)
