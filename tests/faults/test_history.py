"""The checker of histories finds each kind of violation, in histories built by hand.

``test_planted.py`` lets it find bugs in real stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_botsession import BotSession

from .history import CHAIN_KEY, History, Kind, Outcome, Read, State, Target, Write, check

CHAIN, MERGE = Target(Kind.CHAIN, "u"), Target(Kind.MERGE, "m")
NOTHING = State()
UNKNOWN, REFUSED = Outcome.UNKNOWN, Outcome.REFUSED


class HistoryBuilder:
    """Builds a history of operations that end before the next one begins; ``begin`` makes one that ends later."""

    def __init__(self) -> None:
        self.history = History("its-seed")

    def begin(self, target: Target, base: State | None = None) -> Write:
        return self.history.begin_write("w", target, base)

    def end(self, write: Write, result: int | Outcome, reason: str = "") -> None:
        if isinstance(result, Outcome):
            self.history.end_write(write, result, reason=reason)
        else:
            self.history.end_write(write, Outcome.ACKNOWLEDGED, version=result)

    def append(self, base: State, result: int | Outcome, reason: str = "") -> None:
        """Adds a compare-and-set on the chain session."""
        self.end(self.begin(CHAIN, base), result, reason)

    def merge(self, result: int | Outcome) -> None:
        self.end(self.begin(MERGE), result)

    def begin_read(self, target: Target) -> Read:
        return self.history.begin_read("r", target)

    def load(self, state: State, target: Target = CHAIN, read: Read | None = None) -> None:
        session = BotSession(target.user, target.channel, dict(state.data), version=state.version) if state.version else None
        self.history.end_read(read or self.begin_read(target), session)

    def violations(self, chain: State = NOTHING, merged: State = NOTHING) -> list[str]:
        return [str(violation) for violation in check(self.history, {CHAIN: chain, MERGE: merged})]


def chain(version: int, *ids: int) -> State:
    return State(version, {CHAIN_KEY: list(ids)})


def merged(version: int, *ids: int, **others: Any) -> State:
    return State(version, {f"op-{id_}": f"m/{id_}" for id_ in ids} | {key.replace("_", "-"): it for key, it in others.items()})


# --- correct histories


def test_history_accepts_a_correct_chain() -> None:
    builder = HistoryBuilder()
    builder.load(NOTHING)
    builder.append(NOTHING, 10)
    rivals = [builder.begin(CHAIN, chain(10, 1)) for _ in range(3)]
    early = builder.begin_read(CHAIN)
    # A write with an unknown outcome may be present, and be seen.
    builder.end(rivals[1], UNKNOWN)
    builder.end(rivals[0], REFUSED, "VersionConflict")
    builder.end(rivals[2], REFUSED, "VersionConflict")
    builder.load(chain(20, 1, 3))
    builder.load(chain(10, 1), read=early)
    # It may also take effect much later, or never.
    builder.append(chain(20, 1, 3), UNKNOWN)
    builder.append(chain(20, 1, 3), 30)
    builder.append(chain(30, 1, 3, 6), REFUSED, "OOM")
    builder.load(chain(30, 1, 3, 6))
    late = builder.begin(CHAIN, chain(30, 1, 3, 6))
    builder.end(late, UNKNOWN)
    assert builder.violations(chain(30, 1, 3, 6)) == []
    assert builder.violations(chain(40, 1, 3, 6, 8)) == []
    assert builder.history.counts() == {
        "reads": 4,
        "writes": 8,
        "acknowledged": 2,
        "refused": 3,
        "unknown": 3,
    }


def test_history_accepts_correct_merges() -> None:
    builder = HistoryBuilder()
    builder.load(NOTHING, MERGE)
    builder.merge(10)
    builder.merge(UNKNOWN)
    builder.merge(REFUSED)
    one, other = builder.begin(MERGE), builder.begin(MERGE)
    early = builder.begin_read(MERGE)
    builder.end(other, 30)
    builder.end(one, 40)
    builder.load(merged(10, 1), MERGE, early)
    builder.load(merged(40, 1, 4, 5), MERGE)
    assert builder.violations(merged=merged(40, 1, 4, 5)) == []
    # Write 2 with its unknown outcome was applied late.
    assert builder.violations(merged=merged(50, 1, 2, 4, 5)) == []


# --- histories with a violation

A, AB = chain(10, 1), chain(20, 1, 2)


def two(builder: HistoryBuilder) -> None:
    """Adds two successful writes."""
    builder.append(NOTHING, 10)
    builder.append(A, 20)


def lost(builder: HistoryBuilder) -> State:
    two(builder)
    return A


def twice(builder: HistoryBuilder) -> State:
    two(builder)
    return chain(20, 1, 2, 2)


def unknown_twice(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, UNKNOWN)
    return chain(30, 1, 2, 2)


def refused(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, REFUSED, "ConnectionError")
    return AB


def backwards(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, 5)
    return chain(10, 1, 2)


def same_version(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, 10)
    return chain(10, 1, 2)


def lost_update(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    first, second = builder.begin(CHAIN, A), builder.begin(CHAIN, A)
    builder.end(first, 20)
    builder.end(second, 30)
    return chain(30, 1, 3)


def onto_another(builder: HistoryBuilder) -> State:
    two(builder)
    builder.append(A, 30)
    return chain(30, 1, 2, 3)


def onto_another_version(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(chain(9, 1), 20)
    return AB


def out_of_order(builder: HistoryBuilder) -> State:
    builder.append(chain(20, 2), 30)
    builder.append(NOTHING, 20)
    return chain(30, 2, 1)


def false_conflict(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, REFUSED, "VersionConflict")
    # This write began too late to be the reason.
    builder.append(A, 20)
    return chain(20, 1, 3)


def false_conflict_at_the_end(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, REFUSED, "VersionConflict")
    return A


def never_ended(builder: HistoryBuilder) -> State:
    builder.begin(CHAIN, NOTHING)
    return NOTHING


def stranger(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    return chain(10, 1, 77)


def strange_key(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    return State(10, {CHAIN_KEY: [1], "op-3": "x"})


def applied_again(builder: HistoryBuilder) -> State:
    two(builder)
    return chain(25, 1, 2)


def stale(builder: HistoryBuilder) -> State:
    two(builder)
    builder.load(A)
    return AB


def not_monotone(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, UNKNOWN)
    builder.load(AB)
    builder.load(A)
    return AB


def seen_and_gone(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, UNKNOWN)
    builder.load(AB)
    return A


def refused_seen(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.append(A, REFUSED, "OOM")
    builder.load(AB)
    return A


def from_the_future(builder: HistoryBuilder) -> State:
    builder.load(A)
    builder.append(NOTHING, 10)
    return A


def wrong_version(builder: HistoryBuilder) -> State:
    builder.append(NOTHING, 10)
    builder.load(chain(11, 1))
    return A


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lost, "acknowledged as version 20 and lost (operations 2;"),
        (twice, "present 2 times (operations 2;"),
        (unknown_twice, "present 2 times (operations 2;"),
        (refused, "refused (ConnectionError), but present (operations 2;"),
        (backwards, "version 5 comes after 10 (operations 1, 2;"),
        (same_version, "version 10 returned 2 times (operations 1, 2;"),
        (lost_update, "acknowledged as version 20 and lost (operations 2;"),
        (onto_another, "applied after [1, 2], but had loaded [1] (operations 3;"),
        (onto_another, "the second expected version 10, but was applied to 20 (operations 2, 3;"),
        (onto_another_version, "the second expected version 9, but was applied to 10 (operations 1, 2;"),
        (out_of_order, "the first had ended before the second began, but comes after it (operations 1, 2;"),
        (false_conflict, "refused with a conflict, but there was no other write (operations 2;"),
        (false_conflict_at_the_end, "refused with a conflict, but there was no other write (operations 2;"),
        (never_ended, "the write never ended (operations 1;"),
        (stranger, "present, but never written to this session (operations 77;"),
        (strange_key, "present, but never written to this session (operations op-3;"),
        (applied_again, "the last version is 25, the last acknowledged one 20"),
        (stale, "a load saw 1 of the 2 writes that were visible before it began (operations 2, r;"),
        (not_monotone, "a load saw 1 of the 2 writes that were visible before it began (operations r, r;"),
        (seen_and_gone, "a load saw a chain that the final one does not begin with: ...[1, 2] (operations 2, r;"),
        (refused_seen, "a load saw a refused write (operations 2, r;"),
        (from_the_future, "a load saw a write that had not begun (operations 1, r;"),
        (wrong_version, "a load returned version 11, but its last write was acknowledged as 10 (operations 1, r;"),
    ],
)
def test_history_finds_violations_in_chains(build: Callable[[HistoryBuilder], State], what: str) -> None:
    builder = HistoryBuilder()
    violations = builder.violations(chain=build(builder))
    assert [text for text in violations if f"chain session u/c: {what}" in text], violations
    assert all("seed its-seed" in text for text in violations)


def merge_lost(builder: HistoryBuilder) -> State:
    builder.merge(10)
    builder.merge(20)
    return merged(20, 2)


def merge_refused(builder: HistoryBuilder) -> State:
    builder.merge(REFUSED)
    return merged(10, 1)


def merge_damaged(builder: HistoryBuilder) -> State:
    builder.merge(10)
    return merged(10, op_1="m/2")


def merge_stranger(builder: HistoryBuilder) -> State:
    builder.merge(10)
    return merged(10, 1, op_77="x")


def merge_applied_again(builder: HistoryBuilder) -> State:
    builder.merge(10)
    return merged(11, 1)


def merge_backwards(builder: HistoryBuilder) -> State:
    builder.merge(20)
    builder.merge(10)
    return merged(20, 1, 2)


def merge_stale(builder: HistoryBuilder) -> State:
    builder.merge(10)
    builder.load(NOTHING, MERGE)
    return merged(10, 1)


def merge_not_monotone(builder: HistoryBuilder) -> State:
    builder.merge(UNKNOWN)
    builder.load(merged(10, 1), MERGE)
    builder.load(NOTHING, MERGE)
    return merged(10, 1)


def merge_gone(builder: HistoryBuilder) -> State:
    builder.merge(UNKNOWN)
    builder.load(merged(10, 1), MERGE)
    return NOTHING


def merge_refused_seen(builder: HistoryBuilder) -> State:
    builder.merge(REFUSED)
    builder.load(merged(10, 1), MERGE)
    return NOTHING


def merge_damage_seen(builder: HistoryBuilder) -> State:
    builder.merge(10)
    builder.load(merged(10, op_1="x"), MERGE)
    return merged(10, 1)


def merge_half_seen(builder: HistoryBuilder) -> State:
    write = builder.begin(MERGE)
    read = builder.begin_read(MERGE)
    builder.end(write, 10)
    builder.load(State(10), MERGE, read)
    return merged(10, 1)


def merge_from_the_future(builder: HistoryBuilder) -> State:
    builder.load(merged(10, 1), MERGE)
    builder.merge(10)
    return merged(10, 1)


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (merge_lost, "acknowledged as version 10 and lost (operations 1;"),
        (merge_refused, "refused (), but present (operations 1;"),
        (merge_damaged, "wrote 'm/1', but the final value is 'm/2' (operations 1;"),
        (merge_stranger, "present, but never written to this session (operations op-77;"),
        (merge_applied_again, "the last version is 11, the last acknowledged one 10"),
        (merge_backwards, "the first had ended before the second began, but comes after it (operations 1, 2;"),
        (merge_stale, "a load did not see op-1, which was visible before it began (operations 1, r;"),
        (merge_not_monotone, "a load did not see op-1, which was visible before it began (operations r, r;"),
        (merge_gone, "a load saw a write that is missing at the end (operations 1, r;"),
        (merge_refused_seen, "a load saw a refused write (operations 1, r;"),
        (merge_damage_seen, "wrote 'm/1', a load saw 'x' (operations 1, r;"),
        (merge_half_seen, "a load of version 10 did not see the write of version 10 (operations 1, r;"),
        (merge_from_the_future, "a load saw a write that had not begun (operations 1, r;"),
    ],
)
def test_history_finds_violations_in_merges(build: Callable[[HistoryBuilder], State], what: str) -> None:
    builder = HistoryBuilder()
    violations = builder.violations(merged=build(builder))
    assert [text for text in violations if f"merge session m/c: {what}" in text], violations
