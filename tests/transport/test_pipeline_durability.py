"""Writes that replicas and disks confirm; without I/O."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from redis.exceptions import (
    OutOfMemoryError,
    ResponseError,
)

from redis_botsession import DurabilityUnproven, OutcomeUnknown, VersionConflict
from redis_botsession._protocol.durability import Durability
from redis_botsession._transport.reply_matching import Call, OutOfStepError, Pipeline

from ..support.pipeline_driver import PipelineDriver, StrayCalls, names, numbers, replying_with_errors

LOST = redis.ConnectionError("lost")
ONE_REPLICA = Durability(replicas=1, fsync=False, within=0.05)


def durable(durability: Durability = ONE_REPLICA, *, limit: int = 1024, proof: Any = 1, replies: Any = None) -> PipelineDriver:
    return PipelineDriver(Pipeline(max_in_flight=limit, durability=durability), replying_with_errors(replies or {}, proof))


@pytest.mark.parametrize(("count", "limit"), [(1, 1024), (100, 1024), (100, 33), (100, 1)])
def test_pipeline_sends_one_wait_before_each_fence(count: int, limit: int) -> None:
    driver = durable(limit=limit)
    driver.calls(count, is_durable=True)
    groups = 0
    while requests := driver.requests():
        *calls, wait, fence = requests
        assert {request[0] for request in calls} == {b"GET"}
        assert len(calls) <= limit
        assert wait == [b"WAIT", b"1", b"50"]
        assert fence[0] == b"ECHO"
        driver.pipeline.receive(b"".join(map(driver.answer, requests)))
        groups += 1
    assert groups == -(-count // limit)
    assert driver.results() == numbers(count)


def test_pipeline_sends_one_wait_for_each_write() -> None:
    driver = durable()
    driver.calls(7, is_durable=True, args=[bytes(100_000)])
    order = names(driver.requests())
    assert order.count(b"ECHO") > 1
    assert b" ".join(order).count(b"GET WAIT ECHO") == order.count(b"ECHO") == order.count(b"WAIT")


def conflict(reply: Any) -> Any:
    raise VersionConflict(f"is at version {reply}", key="k", expected=1, actual=2)


@pytest.mark.parametrize("enough", [False, True])
def test_pipeline_wait_shortfall_goes_to_applied_writes(enough: bool) -> None:
    driver = durable(proof=int(enough), replies={b"2": "WRONGTYPE no", b"5": "OOM no"})
    write = driver.call(is_durable=True, resend=False, parse=int)
    read = driver.call()
    refused = driver.call(is_durable=True)
    refuted = driver.call(is_durable=True, parse=conflict)
    cancelled = driver.call(is_durable=True)
    full = driver.call(is_durable=True)
    replies = driver.replies()
    cancelled.cancel()
    driver.pipeline.receive(b"".join(replies))
    assert read.result(0) == b"1"
    assert type(refused.exception(0)) is ResponseError
    assert type(full.exception(0)) is OutOfMemoryError
    if enough:
        # What it says is for the caller to read.
        assert (write.result(0), refuted.result(0)) == (b"0", b"3")
        return
    error = write.exception(0)
    assert isinstance(error, DurabilityUnproven)
    assert (error.key, error.result, error.__cause__) == ("key-0", 0, None)
    assert "0 of 1 replicas have it after 0.05 s" in str(error)
    assert type(refuted.exception(0)) is VersionConflict


def test_pipeline_wait_covers_the_writes_before_it() -> None:
    driver = durable(proof=0)
    first = driver.call(is_durable=True)
    replies = driver.replies()
    driver.answer = replying_with_errors({}, proof=2)
    second = driver.call(is_durable=True)
    replies += driver.replies()
    driver.answer = replying_with_errors({}, proof=0)
    third = driver.call(is_durable=True)
    driver.pipeline.receive(b"".join(replies + driver.replies()))
    assert isinstance(first.exception(0), DurabilityUnproven)
    assert second.result(0) == b"1"
    assert isinstance(third.exception(0), DurabilityUnproven)


def test_pipeline_refused_wait_is_the_cause() -> None:
    driver = durable(proof=ResponseError("ERR WAIT cannot be used with replica instances"))
    write, read = driver.call(is_durable=True), driver.call()
    driver.exchange()
    error = write.exception(0)
    assert isinstance(error, DurabilityUnproven)
    assert error.result == b"0"
    assert type(error.__cause__) is ResponseError
    assert "WAIT cannot be used" in str(error.__cause__)
    assert "WAIT cannot be used" in str(error)
    assert read.result(0) == b"1"


@pytest.mark.parametrize(
    ("replicas", "proof", "missing"),
    [
        (0, [1, 0], None),
        (1, [1, 1], None),
        (1, [1, 2], None),
        (0, [0, 0], "unproven: the primary has not synced it to disk after 0.05 s"),
        (2, [1, 1], "unproven: 1 of 2 replicas synced it after 0.05 s"),
        (1, [0, 1], "unproven: the primary has not synced it to disk after 0.05 s"),
        (1, [0, 0], "unproven: the primary has not synced it to disk and 0 of 1 replicas synced it after 0.05 s"),
        (1, ResponseError("ERR WAITAOF cannot be used when appendonly is off"), "unproven: WAITAOF cannot be used"),
    ],
)
def test_pipeline_waitaof_counts_disks(replicas: int, proof: Any, missing: str | None) -> None:
    driver = durable(Durability(replicas, fsync=True, within=0.05), proof=proof)
    caller = driver.call(is_durable=True)
    requests = driver.requests()
    assert requests[1] == [b"WAITAOF", b"1", b"%d" % replicas, b"50"]
    driver.pipeline.receive(b"".join(map(driver.answer, requests)))
    if missing is None:
        assert caller.result(0) == b"0"
    else:
        error = caller.exception(0)
        assert isinstance(error, DurabilityUnproven)
        assert missing in str(error)


@pytest.mark.parametrize("arrived", [1, 2, 3], ids=["no reply", "replies", "proof"])
def test_pipeline_lost_before_the_fence_of_a_wait_is_unknown(arrived: int) -> None:
    driver = durable()
    write, read = driver.call(is_durable=True, resend=False), driver.call()
    driver.pipeline.receive(b"".join(driver.replies()[:arrived]))
    assert not write.done()
    driver.pipeline.lost(LOST)
    assert isinstance(write.exception(0), OutcomeUnknown)
    driver.pipeline.connected()
    assert driver.sent() == [b"1"]
    assert not read.done()


# --- and all of it together: cancelled callers, lost connections, calls that ask, replies too many or too few


@dataclass
class Turn:
    """Some calls, and what becomes of them.

    Attributes:
        calls: Of each, whether it asks for what the server does not serve yet, and whether it may be sent again.
        before: Who is cancelled before sending.
        after: Who is cancelled after it.
        size: Bytes that come at once.
        fault: Where a reply is swallowed, or doubled.
        loss: How much of the replies comes before the connection is lost.
        replicas: How many have it.
    """

    calls: list[tuple[bool, bool]]
    before: set[int]
    after: set[int]
    size: int
    fault: tuple[str, int] | None
    loss: float | None
    replicas: int


positions = st.integers(0, 59)
turns = st.builds(
    Turn,
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60),
    st.sets(positions, max_size=8),
    st.sets(positions, max_size=8),
    st.integers(1, 1500),
    st.none() | st.tuples(st.sampled_from(["swallowed", "doubled"]), st.integers(0, 150)),
    st.none() | st.floats(0, 1),
    st.integers(0, 1),
)


@dataclass
class Importing:
    """A server that serves some calls only to those that ask."""

    asked: set[bytes] = field(default_factory=set)
    replicas: int = 1
    is_asking: bool = False

    def __call__(self, request: list[bytes]) -> bytes:
        is_asking, self.is_asking = self.is_asking, request[0] == b"ASKING"
        if request[0] == b"GET" and request[-1] in self.asked and not is_asking:
            return b"-ASK 12 10.0.0.2:7001\r\n"
        return replying_with_errors({}, self.replicas)(request)


@given(st.lists(turns, max_size=5), st.sampled_from([3, 40, 1024]), st.sampled_from([None, ONE_REPLICA]))
@example([Turn([(True, True)] * 40, {1}, {0, 2}, 1500, None, None, 1)], 1024, ONE_REPLICA)
@example([Turn([(True, False), (False, True)] * 9, set(), {1}, 7, ("swallowed", 3), None, 0)] * 2, 40, ONE_REPLICA)
@example([Turn([(True, True)] * 9, set(), {1}, 99, ("doubled", 0), 0.7, 0)] * 2, 1024, None)
def test_pipeline_matches_replies_with_waits(script: list[Turn], limit: int, durability: Durability | None) -> None:
    server, strays = Importing(), StrayCalls()
    pipeline = Pipeline(max_in_flight=limit, durability=durability, stray=strays)

    def asks(call: Call) -> None:
        call.detours += 1
        # It was sent behind its ASKING, on connections of which each may be lost.
        assert call.detours == 1
        call.is_asking = True
        pipeline.submit(call)

    strays.then = asks
    driver = PipelineDriver(pipeline, server)
    for turn in script:
        server.replicas = turn.replicas
        callers = []
        for is_elsewhere, resend in turn.calls:
            if is_elsewhere:
                server.asked.add(b"%d" % len(driver.callers))
            callers.append(driver.call(resend=resend, is_durable=not resend))
        cancel(callers, turn.before)
        replies = driver.replies()
        cancel(callers, turn.after)
        if turn.fault and replies:
            kind, index = turn.fault
            index %= len(replies)
            replies[index : index + 1] = [replies[index]] * (2 if kind == "doubled" else 0)
        stream = b"".join(replies)
        end = len(stream) if turn.loss is None else int(turn.loss * len(stream))
        is_lost = turn.loss is not None
        try:
            for start in range(0, end, turn.size):
                pipeline.receive(stream[start : min(start + turn.size, end)])
        except OutOfStepError:
            is_lost = True
        if is_lost:
            lose(pipeline, server)
    lose(pipeline, server)
    driver.exchange()
    for number, caller in zip(numbers(len(driver.callers)), driver.callers, strict=True):
        assert is_its_own(caller, number), f"{number!r}: {caller}"
    assert not pipeline.is_waiting


def cancel(callers: list[Future[Any]], who: set[int]) -> None:
    for index in who:
        if index < len(callers):
            callers[index].cancel()


def lose(pipeline: Pipeline, server: Importing) -> None:
    pipeline.lost(LOST)
    pipeline.connected()
    server.is_asking = False


def is_its_own(caller: Future[Any], number: bytes) -> bool:
    if caller.cancelled():
        return True
    error = caller.exception(0)
    if isinstance(error, DurabilityUnproven):
        return bool(error.result == number)
    return isinstance(error, OutcomeUnknown | redis.ConnectionError) or (error is None and caller.result() == number)
