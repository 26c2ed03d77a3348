"""Records the operations on sessions and their results, and checks whether one order of the operations explains the results.

A test records what a workload does, loads the final state of the sessions, and calls ``check``, which returns the violations.
This module does not depend on Redis, on faults, or on how the store is connected.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from redis_botsession import BotSession

#: The top-level key of a chain session that holds the ids of its writes.
CHAIN_KEY = "chain"


class Kind(StrEnum):
    """How a session is written.

    CHAIN: by compare-and-set, each write appends its id to a list. MERGE: each write sets a key of its own.
    """

    CHAIN = "chain"
    MERGE = "merge"


class Outcome(StrEnum):
    """How a write ended for its caller; PENDING until it has ended."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Target:
    """A session and how it is written."""

    kind: Kind
    user: str
    channel: str = "c"

    def __str__(self) -> str:
        return f"{self.kind} session {self.user}/{self.channel}"


@dataclass(frozen=True)
class State:
    """A session as it was loaded; version 0 and no data if there is none."""

    version: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, session: BotSession | None) -> State:
        return cls() if session is None else cls(session.version, session.data)

    @property
    def chain(self) -> list[int]:
        """The ids of the writes in a chain session."""
        return list(self.data.get(CHAIN_KEY, ()))


@dataclass(eq=False)
class Read:
    """A load. ``start`` and ``end`` are times of the history's clock; a failed load has no ``state``."""

    worker: str
    target: Target
    start: int
    end: int = 0
    state: State | None = None


@dataclass(eq=False)
class Write:
    """An update.

    Attributes:
        id: Its number, which no other write has.
        worker: The worker that made it.
        target: The session.
        base: The state whose version its compare-and-set expects; None for a merge.
        start: When it began, on the history's clock.
        end: When it ended for its caller. A write whose outcome is UNKNOWN may reach the server later.
        outcome: How it ended.
        version: The version that it returned; 0 if it returned none.
        reason: The name of the error, if it was not acknowledged.
    """

    id: int
    worker: str
    target: Target
    base: State | None
    start: int
    end: int = 0
    outcome: Outcome = Outcome.PENDING
    version: int = 0
    reason: str = ""

    @property
    def key(self) -> str:
        """The key that a merge sets."""
        return f"op-{self.id}"

    @property
    def value(self) -> str:
        """The value that a merge sets, different in every session."""
        return f"{self.target.user}/{self.id}"

    @property
    def changes(self) -> dict[str, Any]:
        """The changes to call ``update`` with."""
        return {self.key: self.value} if self.base is None else {CHAIN_KEY: [*self.base.chain, self.id]}

    @property
    def is_acknowledged(self) -> bool:
        return self.outcome is Outcome.ACKNOWLEDGED


@dataclass(frozen=True)
class Violation:
    """A broken promise: the session, the operations (ids of writes, workers of reads), and what is wrong."""

    target: Target
    operations: tuple[int | str, ...]
    what: str
    seed: str

    def __str__(self) -> str:
        return f"{self.target}: {self.what} (operations {', '.join(map(str, self.operations)) or 'none'}; seed {self.seed})"


class History:
    """The operations on sessions, as their callers saw them.

    Times are counted by one clock: an operation that ended before another one began has an ``end`` below the other one's
    ``start``.

    Args:
        seed: The seed of the workload; every violation shows it.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self._clock = itertools.count(1)

    def begin_read(self, worker: str, target: Target) -> Read:
        """Records the begin of a load. Call it before the load."""
        self.reads.append(Read(worker, target, next(self._clock)))
        return self.reads[-1]

    def end_read(self, read: Read, session: BotSession | None) -> State:
        """Records the result of a load, and returns it as a state. Failed loads are not recorded."""
        read.end, read.state = next(self._clock), State.of(session)
        return read.state

    def begin_write(self, worker: str, target: Target, base: State | None = None) -> Write:
        """Records the begin of a write. Call it before ``update``, and pass the ``changes`` of the result to that.

        Args:
            worker: The worker that writes.
            target: The session.
            base: The loaded state, whose version the compare-and-set expects; None for a merge.
        """
        self.writes.append(Write(len(self.writes) + 1, worker, target, base, next(self._clock)))
        return self.writes[-1]

    def end_write(self, write: Write, outcome: Outcome, *, version: int = 0, reason: str = "") -> None:
        """Records how a write ended for its caller."""
        write.end, write.outcome, write.version, write.reason = next(self._clock), outcome, version, reason

    @property
    def targets(self) -> list[Target]:
        """All sessions of the history."""
        return list(dict.fromkeys([read.target for read in self.reads] + [write.target for write in self.writes]))

    def counts(self) -> Counter[str]:
        """Returns the number of reads, of writes, and of writes by outcome."""
        counts: Counter[str] = Counter(write.outcome.value for write in self.writes)
        counts["reads"] = sum(read.state is not None for read in self.reads)
        counts["writes"] = len(self.writes)
        return counts


def check(history: History, final: Mapping[Target, State]) -> list[Violation]:
    """Returns the violations in a history.

    Args:
        history: All operations on its sessions; all of them have ended.
        final: The final state of each of ``history.targets``.

    Returns:
        The violations of these promises: every acknowledged write is present, once, in the order of acknowledgement; no refused
        write is present or was ever seen; and every load returned the session as it was at one instant during the load.
    """
    writes: dict[Target, dict[int, Write]] = defaultdict(dict)
    for write in history.writes:
        writes[write.target][write.id] = write
    reads: dict[Target, list[Read]] = defaultdict(list)
    for read in history.reads:
        if read.state is not None:
            reads[read.target].append(read)
    found: list[Violation] = []
    for target in history.targets:
        problems = _chain_problems if target.kind is Kind.CHAIN else _merge_problems
        for operations, what in problems(writes[target], reads[target], final[target]):
            found.append(Violation(target, operations, what, history.seed))
    return found


Problem = tuple[tuple[int | str, ...], str]


def _common_problems(present: Mapping[int, Write], writes: Mapping[int, Write], final: State) -> Iterator[Problem]:
    """Checks which writes are present at the end, and their versions."""
    for write in writes.values():
        if write.outcome is Outcome.PENDING:
            yield (write.id,), "the write never ended"
        elif write.is_acknowledged and write.id not in present:
            yield (write.id,), f"acknowledged as version {write.version} and lost"
        elif write.outcome is Outcome.REFUSED and write.id in present:
            yield (write.id,), f"refused ({write.reason}), but present"
    acknowledged = [write for write in writes.values() if write.is_acknowledged]
    for version, count in Counter(write.version for write in acknowledged).items():
        if count > 1:
            same = tuple(write.id for write in acknowledged if write.version == version)
            yield same, f"version {version} returned {count} times"
    newest = max((write.version for write in acknowledged), default=0)
    doubtful = [write.id for write in present.values() if not write.is_acknowledged]
    if final.version < newest or (final.version > newest and not doubtful):
        yield (
            (),
            f"the last version is {final.version}, the last acknowledged one {newest}: something was written again or undone",
        )


def _time_problems(ordered: list[Write]) -> Iterator[Problem]:
    """Checks writes in the order in which they took effect: none may have begun after a later one had ended."""
    latest: Write | None = None
    for write in ordered:
        if latest is not None and write.is_acknowledged and write.end < latest.start:
            yield (write.id, latest.id), "the first had ended before the second began, but comes after it"
        if latest is None or write.start > latest.start:
            latest = write


def _chain_problems(writes: Mapping[int, Write], reads: list[Read], final: State) -> Iterator[Problem]:
    chain = final.chain
    yield from _strangers(final.data.keys() - {CHAIN_KEY})
    yield from _strangers(id_ for id_ in chain if id_ not in writes)
    for id_, count in Counter(chain).items():
        if count > 1:
            yield (id_,), f"present {count} times"
    ordered = [writes[id_] for id_ in dict.fromkeys(chain) if id_ in writes]
    yield from _common_problems({write.id: write for write in ordered}, writes, final)
    yield from _time_problems(ordered)
    before = Write(0, "", Target(Kind.CHAIN, ""), None, 0, outcome=Outcome.ACKNOWLEDGED)
    for write in ordered:
        if write.is_acknowledged and before.is_acknowledged:
            if write.version <= before.version:
                yield (before.id, write.id), f"version {write.version} comes after {before.version}"
            if write.base is not None and write.base.version != before.version:
                yield (
                    (before.id, write.id),
                    f"the second expected version {write.base.version}, but was applied to {before.version}",
                )
        before = write
    for write in writes.values():
        base = write.base.chain if write.base is not None else []
        if write.id in chain and chain[: chain.index(write.id)] != base:
            yield (write.id,), f"applied after {chain[: chain.index(write.id)][-3:]}, but had loaded {base[-3:]}"
        if write.reason == "VersionConflict":
            rival = writes.get(chain[len(base)]) if len(base) < len(chain) else None
            if rival is None or rival.start > write.end:
                yield (write.id,), "refused with a conflict, but there was no other write"
    yield from _chain_read_problems(writes, reads, chain)


def _chain_read_problems(writes: Mapping[int, Write], reads: list[Read], chain: list[int]) -> Iterator[Problem]:
    # The lengths that the chain is known to have reached: since when, and by which write or reader.
    place = {id_: number for number, id_ in enumerate(chain, start=1)}
    known: list[tuple[int, int, int | str]] = [
        (write.end, place[write.id], write.id) for write in writes.values() if write.is_acknowledged and write.id in place
    ]
    known += [(read.end, len(read.state.chain), read.worker) for read in reads if read.state is not None]
    known.sort(key=lambda item: item[0])
    length, witness, upcoming = 0, "" if not known else known[0][2], 0
    for read in sorted(reads, key=lambda read: read.start):
        seen, version = (read.state.chain, read.state.version) if read.state is not None else ([], 0)
        while upcoming < len(known) and known[upcoming][0] < read.start:
            if known[upcoming][1] > length:
                _, length, witness = known[upcoming]
            upcoming += 1
        if seen != chain[: len(seen)]:
            lost = [id_ for id_ in seen if id_ not in place]
            yield (*lost, read.worker), f"a load saw a chain that the final one does not begin with: ...{seen[-3:]}"
        if len(seen) < length:
            yield (witness, read.worker), f"a load saw {len(seen)} of the {length} writes that were visible before it began"
        yield from _seen_problems(read, [writes[id_] for id_ in seen if id_ in writes])
        last = writes.get(seen[-1]) if seen else None
        if last is not None and last.is_acknowledged and last.version != version:
            yield (
                (last.id, read.worker),
                f"a load returned version {version}, but its last write was acknowledged as {last.version}",
            )


def _merge_problems(writes: Mapping[int, Write], reads: list[Read], final: State) -> Iterator[Problem]:
    by_key = {write.key: write for write in writes.values()}
    yield from _strangers(final.data.keys() - by_key.keys())
    present = {by_key[key].id: by_key[key] for key in final.data if key in by_key}
    yield from _common_problems(present, writes, final)
    for write in present.values():
        if final.data[write.key] != write.value:
            yield (write.id,), f"wrote {write.value!r}, but the final value is {final.data[write.key]!r}"
    acknowledged = sorted((write for write in present.values() if write.is_acknowledged), key=lambda write: write.version)
    yield from _time_problems(acknowledged)
    # Per key, the earliest time at which a write or a reader shows that it is visible. It must stay visible.
    known: dict[str, tuple[int, int | str]] = {write.key: (write.end, write.id) for write in acknowledged}
    for read in reads:
        for key in read.state.data if read.state is not None else ():
            if key not in known or read.end < known[key][0]:
                known[key] = (read.end, read.worker)
            if key not in final.data:
                yield (
                    (*((by_key[key].id,) if key in by_key else (key,)), read.worker),
                    "a load saw a write that is missing at the end",
                )
    order = sorted((time, key, witness) for key, (time, witness) in known.items())
    for read in reads:
        state = read.state or State()
        for time, key, witness in order:
            if time >= read.start:
                break
            if key not in state.data:
                yield (witness, read.worker), f"a load did not see {key}, which was visible before it began"
        for key, value in state.data.items():
            if key in by_key and value != by_key[key].value:
                yield (by_key[key].id, read.worker), f"wrote {by_key[key].value!r}, a load saw {value!r}"
        yield from _seen_problems(read, [by_key[key] for key in state.data if key in by_key])
        for write in acknowledged:
            if (write.version <= state.version) != (write.key in state.data):
                seen = "saw" if write.key in state.data else "did not see"
                yield (write.id, read.worker), f"a load of version {state.version} {seen} the write of version {write.version}"


def _strangers(keys: Any) -> Iterator[Problem]:
    for key in keys:
        yield (key,), "present, but never written to this session"


def _seen_problems(read: Read, seen: list[Write]) -> Iterator[Problem]:
    for write in seen:
        if write.outcome is Outcome.REFUSED:
            yield (write.id, read.worker), "a load saw a refused write"
        if write.start > read.end:
            yield (write.id, read.worker), "a load saw a write that had not begun"
