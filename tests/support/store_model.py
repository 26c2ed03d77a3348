"""A model of a store as a plain dict, and what is needed to compare real stores with it.

Stores give versions, times and errors of their own. Here a version is replaced by the number of the write that made it, so that
results of several stores and of the model can be compared with ``==``.
"""

from __future__ import annotations

import copy
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import fakeredis
import time_machine

from redis_botsession import (
    BotSession,
    BotSessionHelper,
    BotSessionStore,
    Codec,
    MemorySessionStore,
    SessionError,
    SessionGone,
    SessionStore,
    SessionTooLarge,
    VersionConflict,
)
from redis_botsession._session.record import KEEP, Keep
from redis_botsession._session.times import EPOCH, from_micros

from ..store.test_contract import ClientStore
from .strategies import shape

T = TypeVar("T")
Ids = tuple[str, str]

#: The size limit of the stores: small, so that sessions exceed it.
MAX_BYTES = 200
# Operations happen at multiples of a tick, deadlines lie between two of them: no result depends on what a store does in
# the very millisecond of a deadline.
TICK_MS = 125
BESIDE_MS = 50
#: The changes that another process writes while ``modify`` runs.
RIVAL_WRITE: dict[str, Any] = {"a": "meddled"}


# --- the model


@dataclass
class Record:
    """A session in the model.

    A version is the number of a write to this pair of ids, from 1 on; the count goes on after the session was deleted.
    """

    data: dict[str, Any]
    version: int
    born: int
    created: datetime | int
    own_deadline: datetime | None
    deadline_ms: float


@dataclass(frozen=True)
class Observed:
    """A session as its users see it, in a form that is the same for every store."""

    ids: Ids
    data: dict[str, Any]
    version: int
    created: datetime | int | None
    updated: datetime | int | None
    expires_at: datetime | None


@dataclass
class ModelLiveSession:
    """A live session of the model: what its handler has, and what of it is saved."""

    ids: Ids
    data: dict[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None
    version: int = 0
    created: datetime | int | None = None
    saved: dict[str, Any] = field(default_factory=dict)
    saved_expires_at: datetime | None = None

    def seen(self) -> Observed:
        """Returns the session as its handler sees it."""
        created = self.created if self.version else None
        return Observed(self.ids, shapes(self.data), self.version, created, self.version or None, self.expires_at)


@dataclass(frozen=True)
class ObservedError:
    """An error without the details that differ between stores."""

    kind: type[Exception]
    attributes: dict[str, Any]


def size_of(data: dict[str, Any]) -> int:
    """Returns the size of a session with this data, as stores count it."""
    fields = Codec().encode(data)
    return sum(map(len, fields)) + sum(map(len, fields.values()))


def shapes(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the data with each value in its comparable form."""
    return {name: shape(value) for name, value in data.items()}


def limited(size: int, at_least: int = 0) -> None:
    """Raises SessionTooLarge above ``MAX_BYTES`` bytes, or above ``at_least``, the size that a session has already."""
    if size > max(MAX_BYTES, at_least):
        # A store that stops packing at the limit does not know the full size; only whether it exceeds the limit is compared.
        raise SessionTooLarge("", size=True, limit=MAX_BYTES)


class StoreModel:
    """A store as a dict: what each operation must do, in the simplest way."""

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

    def get(self, ids: Ids, *, touch: bool = False) -> Observed | None:
        if touch:
            self.touch(ids)
        record = self.find(ids)
        if record is None:
            return None
        return Observed(ids, shapes(record.data), record.version, record.created, record.version, record.own_deadline)

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

    def load(self, ids: Ids) -> ModelLiveSession:
        record = self.find(ids)
        if record is None:
            return ModelLiveSession(ids)
        own, data = record.own_deadline, copy.deepcopy(record.data)
        return ModelLiveSession(ids, data, own, record.version, record.created, copy.deepcopy(data), own)

    def save(self, live: ModelLiveSession, *, expected: int | None = None) -> bool:
        """Saves what changed; returns False if that removed the session, because its new deadline has passed."""
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

    def modify(self, ids: Ids, edits: list[Edit], expires_at: datetime | Keep | None, *, meddle: bool) -> Observed:
        live = self.load(ids)
        if meddle:
            self.update(ids, RIVAL_WRITE)
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


# --- changes that a handler makes


@dataclass(frozen=True)
class Edit:
    """A change to a session's data, by ``kind``: "put" sets a value, "drop" removes the name, "in place" modifies its value."""

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


def change(session: ModelLiveSession | BotSession, edits: Iterable[Edit], expires_at: datetime | Keep | None) -> None:
    for edit in edits:
        edit.apply(session.data)
    if not isinstance(expires_at, Keep):
        session.expires_at = expires_at


# --- the stores


class StoreSetup:
    """A memory store with a clock that the test moves. Subclasses add a second store under the same clock."""

    #: The length of a "second" of TTLs and deadlines; an hour where the clock cannot be moved, so that nothing expires.
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
        """Called before each operation."""

    def advance(self, ms: int) -> None:
        self._seconds += ms / 1000

    async def stores(self) -> list[BotSessionStore]:
        return [MemorySessionStore(ttl=self.ttl, max_bytes=MAX_BYTES, cleanup_interval=None, clock=self.now)]

    def close(self) -> None:
        """Called when the stores are closed."""


class FakeredisSetup(StoreSetup):
    """A store on fakeredis and one in memory. fakeredis uses the time of the process, so time_machine moves that."""

    def __init__(self) -> None:
        super().__init__()
        self._travel = time_machine.travel(self._seconds, tick=False)
        self._traveller = self._travel.start()

    def tick(self) -> None:
        # As on a server, whose clock goes on between two commands.
        self.advance(TICK_MS)

    def advance(self, ms: int) -> None:
        super().advance(ms)
        self._traveller.shift(timedelta(milliseconds=ms))

    async def stores(self) -> list[BotSessionStore]:
        fake = ClientStore(fakeredis.FakeAsyncRedis(), prefix="", ttl=self.ttl, max_bytes=MAX_BYTES)
        return [fake, *await super().stores()]

    def close(self) -> None:
        self._travel.stop()


class ServerSetup(StoreSetup):
    """A store on a server and one in memory, by real time."""

    second_ms = 3_600_000

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def now(self) -> float:
        return time.time()

    def advance(self, ms: int) -> None:
        """Does nothing: the clock of a server cannot be moved."""

    async def stores(self) -> list[BotSessionStore]:
        prefix = f"test:{uuid.uuid4().hex}:"
        real = SessionStore.from_url(self._url, prefix=prefix, ttl=self.ttl, max_bytes=MAX_BYTES)
        return [real, *await super().stores()]


class ObservedStore:
    """A store under test, with the versions that it has returned for each session, in their order."""

    def __init__(self, store: BotSessionStore) -> None:
        self.store = store
        self._versions: dict[Ids, list[int]] = {}

    def learn(self, ids: Ids, version: int) -> int:
        """Notes a version that the store returned, and returns the number of the write that made it.

        Raises:
            AssertionError: the version is new, but not greater than every version that these ids have had.
        """
        versions = self._versions.setdefault(ids, [])
        if version not in (0, *versions):
            assert version > max([0, *versions])
            versions.append(version)
        return self.number(ids, version)

    def number(self, ids: Ids, version: int) -> int:
        """Returns the number of the write that made ``version``; 0 for version 0, the next number for an unknown version."""
        return [0, *self._versions.get(ids, ()), version].index(version)

    def version(self, ids: Ids, number: int | None) -> int | None:
        """Returns the version that write ``number`` made; one far in the future if that write has not happened yet."""
        versions = [0, *self._versions.get(ids, ())]
        return None if number is None else versions[number] if number < len(versions) else versions[-1] + 10**12

    def see(self, session: BotSession | None) -> Observed | None:
        """Returns a session of this store in the comparable form."""
        if session is None:
            return None
        ids = session.user_id, session.channel_id
        version = self.learn(ids, session.version)
        is_stored = session.version != 0
        created = self._when(ids, session.created_at) if is_stored else None
        updated = self._when(ids, session.updated_at) if is_stored else None
        return Observed(ids, shapes(session.data), version, created, updated, session.expires_at)

    def _when(self, ids: Ids, when: datetime) -> datetime | int:
        numbers = {from_micros(version): number for number, version in enumerate(self._versions[ids], 1)}
        return numbers.get(when, when)

    async def outcome(self, ids: Ids, operation: Callable[[ObservedStore], Awaitable[T]]) -> T | ObservedError:
        """Runs an operation on this store; returns its result, or its error in the comparable form."""
        try:
            return await operation(self)
        except SessionError as error:
            attributes = dict(vars(error))
            # Each store has keys of its own form, so only whether the error names the right one is compared.
            attributes["key"] = None if error.key == self.store.key(*ids) else error.key
            for name in {"expected", "actual"} & attributes.keys():
                attributes[name] = self.number(ids, attributes[name])
            if isinstance(error, SessionTooLarge):
                attributes["size"] = error.size > error.limit
            return ObservedError(type(error), attributes)


def predicted(operation: Callable[[], T]) -> T | ObservedError:
    """Runs an operation on the model; returns its result, or its error in the comparable form."""
    try:
        return operation()
    except SessionError as error:
        return ObservedError(type(error), vars(error))


@dataclass
class LivePair:
    """A live session of the model, with the same live session of each store."""

    model: ModelLiveSession
    contexts: list[AbstractAsyncContextManager[BotSessionHelper]]
    helpers: list[BotSessionHelper]
