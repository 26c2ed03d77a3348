"""Calls that another server has to serve: ASKING, strays, connections that are given up; without I/O."""

from __future__ import annotations

import hiredis
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from redis_botsession import OutcomeUnknown
from redis_botsession._protocol.durability import Durability
from redis_botsession._protocol.scripts import Script
from redis_botsession._transport.reply_matching import FENCE_EVERY, MAX_LOSSES, Pipeline

from ..support.pipeline_driver import PipelineDriver, StrayCalls, echo, names, numbers, replying_with_errors

LOST = redis.ConnectionError("lost")
SCRIPT = Script("fake", b"return 1", b"5c5f0e8a", (), (), writes_data=True, preload=True)
REFUSAL = "You can't write against a read only replica."
IN_SCRIPT = "ERR Error running script (call to f_5c5f): @user_script:1: @user_script: 1: -"


# --- ASKING


@given(
    # Who asks, whose caller is cancelled, and how long the call is: some so long that a write ends with them.
    st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from([0, 0, 0, 1000, 90_000])), max_size=100),
    st.sampled_from([1, 2, 3, 7, 31, 32, 33, 1024]),
    st.sampled_from([None, Durability(replicas=1, fsync=False, within=0.05)]),
)
@example([(True, False, 0)] * 70, 1024, None)
@example([(False, False, 0)] * 31 + [(True, False, 0)] * 3, 1024, None)
@example([(True, False, 90_000)] * 7, 1024, Durability(replicas=1, fsync=False, within=0.05))
def test_pipeline_asking_goes_directly_before_its_command(
    calls: list[tuple[bool, bool, int]], limit: int, durability: Durability | None
) -> None:
    driver = PipelineDriver(Pipeline(max_in_flight=limit, durability=durability), replying_with_errors({}))
    for asks, is_cancelled, size in calls:
        caller = driver.call(is_asking=asks, args=[bytes(size)])
        if is_cancelled:
            caller.cancel()
    sent: list[int] = []
    while data := driver.pipeline.take():
        server = hiredis.Reader()
        server.feed(data)
        write = list(iter(server.gets, False))
        asked = False
        unfenced = 0
        for request in write:
            if request[0] == b"GET":
                number = int(request[-1])
                assert asked == calls[number][0]
                sent.append(number)
            else:
                assert not asked
            asked = request[0] == b"ASKING"
            unfenced = 0 if request[0] == b"ECHO" else unfenced + (request[0] == b"GET")
            assert unfenced <= FENCE_EVERY or durability
        assert write[-1][0] == b"ECHO"
        assert names(write).count(b"GET") <= limit
        driver.pipeline.receive(b"".join(map(driver.answer, write)))
    assert sent == [number for number, (_, is_cancelled, _) in enumerate(calls) if not is_cancelled]
    assert [caller.result() for caller in driver.callers if not caller.cancelled()] == [b"%d" % number for number in sent]
    assert not driver.pipeline.is_waiting


@pytest.mark.parametrize("fate", ["MOVED 12 10.0.0.2:7001", "TRYAGAIN later", "WRONGTYPE no", None])
def test_pipeline_refused_asking_ends_its_call_once(fate: str | None) -> None:
    strays = StrayCalls()
    refusals = {b"ASKING": "NOPERM no permissions to run 'asking'", **({b"1": fate} if fate else {})}
    driver = PipelineDriver(Pipeline(max_in_flight=1024, stray=strays), replying_with_errors(refusals))
    before, caller, after = driver.call(), driver.call(is_asking=True), driver.call()
    *replies, fence = driver.replies()
    driver.pipeline.receive(b"".join(replies))
    assert not caller.done()
    driver.pipeline.receive(fence)
    assert type(caller.exception(0)) is NoPermissionError
    assert (before.result(0), after.result(0)) == (b"0", b"2")
    assert strays.came == []
    assert driver.requests() == []


def test_pipeline_refused_asking_of_a_cancelled_call_is_dropped() -> None:
    driver = PipelineDriver(answer=replying_with_errors({b"ASKING": "NOPERM no"}))
    caller, after = driver.call(is_asking=True), driver.call()
    replies = driver.replies()
    caller.cancel()
    driver.pipeline.receive(b"".join(replies))
    assert after.result(0) == b"1"
    assert driver.requests() == []


def test_pipeline_resent_call_asks_again() -> None:
    requests: list[list[bytes]] = []
    answer = replying_with_errors({})

    def unknown(request: list[bytes]) -> bytes:
        requests.append(request)
        return b"-NOSCRIPT No matching script\r\n" if request[:2] == [b"GET", b"sha"] else answer(request)

    driver = PipelineDriver(answer=unknown)
    callers = [driver.call(), driver.call(is_asking=True, script=SCRIPT, args=[b"sha", b"0"]), driver.call()]
    driver.exchange()
    assert [caller.result(0) for caller in callers] == numbers(3)
    assert names(requests) == [b"GET", b"ASKING", b"GET", b"GET", b"ECHO", b"ASKING", b"EVAL", b"ECHO"]
    driver.call(is_asking=True)
    for _ in range(MAX_LOSSES):
        assert names(driver.requests()) == [b"ASKING", b"GET", b"ECHO"]
        assert len(driver.pipeline.pending()) == 1
        driver.pipeline.lost(LOST)
        driver.pipeline.connected()
    assert isinstance(driver.callers[-1].exception(0), redis.ConnectionError)
    assert driver.requests() == []


def test_pipeline_asking_call_expires() -> None:
    driver = PipelineDriver(answer=replying_with_errors({}))
    caller = driver.call(is_asking=True, deadline=10)
    replies = driver.replies()
    driver.call()
    replies += driver.replies()
    driver.pipeline.expire(10, 5, None)
    assert type(caller.exception(0)) is redis.TimeoutError
    driver.pipeline.receive(b"".join(replies))
    assert driver.callers[1].result(0) == b"1"


# --- strays

ELSEWHERE: dict[str, type[Exception]] = {
    "MOVED 12 10.0.0.2:7001": MovedError,
    "ASK 12 10.0.0.2:7001": AskError,
    "TRYAGAIN Multiple keys request during rehashing of slot": TryAgainError,
    "CLUSTERDOWN The cluster is down": ClusterDownError,
    "MASTERDOWN Link with MASTER is down": MasterDownError,
    f"READONLY {REFUSAL}": ReadOnlyError,
    f"{IN_SCRIPT}READONLY {REFUSAL}": ReadOnlyError,
    "LOADING Redis is loading the dataset in memory": BusyLoadingError,
}
HERE: dict[str, type[Exception]] = {
    "OOM command not allowed when used memory > 'maxmemory'.": OutOfMemoryError,
    f"{IN_SCRIPT}OOM command not allowed when used memory > 'maxmemory'.": OutOfMemoryError,
    "WRONGTYPE Operation against a key holding the wrong kind of value": ResponseError,
    "NOPERM this user has no permissions to run the 'hset' command": NoPermissionError,
    "MISCONF Redis is configured to save RDB snapshots": ResponseError,
}


@pytest.mark.parametrize("resend", [True, False])
def test_pipeline_stray_calls_leave_in_order(resend: bool) -> None:
    # Each error at an odd place, good replies between.
    lines = [*ELSEWHERE, *HERE, *ELSEWHERE]
    replies = {b"%d" % (2 * index + 1): line for index, line in enumerate(lines)}
    strays = StrayCalls()
    driver = PipelineDriver(Pipeline(max_in_flight=1024, stray=strays), replying_with_errors(replies))
    driver.calls(2 * len(lines) + 1, resend=resend)
    driver.exchange()
    gone = [number for number, line in replies.items() if line in ELSEWHERE]
    assert strays.numbers == gone
    assert [type(error) for _, error in strays.came] == [*ELSEWHERE.values()] * 2
    for number, caller in zip(numbers(len(driver.callers)), driver.callers, strict=True):
        if number in gone:
            assert not caller.done()
        elif number in replies:
            assert type(caller.exception(0)) is HERE[replies[number]]
        else:
            assert caller.result(0) == number
    assert [call.promise for call, _ in strays.came] == [driver.callers[int(number)] for number in gone]
    moved = strays.came[0][1]
    assert isinstance(moved, MovedError)
    assert (moved.host, moved.port) == ("10.0.0.2", 7001)
    assert not driver.pipeline.is_retiring
    assert driver.pipeline.pending() == []


def test_pipeline_cancelled_call_does_not_stray() -> None:
    strays = StrayCalls()
    driver = PipelineDriver(
        Pipeline(max_in_flight=1024, stray=strays), replying_with_errors(dict.fromkeys(numbers(3), "MOVED 1 h:1"))
    )
    callers = driver.calls(3)
    replies = driver.replies()
    callers[1].cancel()
    driver.pipeline.receive(b"".join(replies))
    assert strays.numbers == [b"0", b"2"]


@given(
    st.integers(1, 100),
    st.dictionaries(st.integers(0, 99), st.integers(1, 4)),
    st.sets(st.integers(0, 99)),
    st.sampled_from([1, 5, 33, 1024]),
    st.integers(1, 2000),
)
@example(70, dict.fromkeys(range(70), 2), {3}, 1024, 2000)
def test_pipeline_stray_may_come_back(count: int, times: dict[int, int], cancelled: set[int], limit: int, size: int) -> None:
    left = {b"%d" % number: repeats for number, repeats in times.items()}

    def answer(request: list[bytes]) -> bytes:
        if request[0] == b"GET" and left.get(request[-1]):
            left[request[-1]] -= 1
            return b"-TRYAGAIN later\r\n"
        return echo(request)

    strays = StrayCalls()
    pipeline = Pipeline(max_in_flight=limit, stray=strays)
    strays.then = pipeline.submit
    driver = PipelineDriver(pipeline, answer)
    callers = driver.calls(count)
    stream = b"".join(driver.replies())
    for number in cancelled & set(range(count)):
        callers[number].cancel()
    while stream:
        for start in range(0, len(stream), size):
            pipeline.receive(stream[start : start + size])
        stream = b"".join(driver.replies())
    for number, caller in enumerate(callers):
        assert caller.done()
        assert caller.cancelled() or caller.result() == b"%d" % number
    assert not pipeline.is_waiting


def test_pipeline_scatter_hands_on_the_line_only() -> None:
    strays = StrayCalls()
    driver = PipelineDriver(Pipeline(max_in_flight=1024, stray=strays))
    strays.then = driver.pipeline.submit
    driver.calls(3)
    replies = driver.replies()
    driver.calls(3)
    driver.pipeline.scatter(LOST)
    assert strays.numbers == [b"3", b"4", b"5"]
    assert {error for _, error in strays.came} == {LOST}
    assert not any(caller.done() for caller in driver.callers)
    driver.pipeline.receive(b"".join(replies))
    assert driver.results() == [*numbers(3), None, None, None]
    # Those that came back at once are in the line again.
    assert driver.sent() == [b"3", b"4", b"5"]
    driver.pipeline.scatter(LOST)
    assert len(strays.came) == 3


def test_pipeline_stray_failure_ends_the_call() -> None:
    lines = [line for line, kind in ELSEWHERE.items() if kind is not BusyLoadingError]
    driver = PipelineDriver(answer=replying_with_errors(dict(zip(numbers(len(lines)), lines, strict=True))))
    driver.calls(len(lines))
    driver.exchange()
    assert [type(caller.exception(0)) for caller in driver.callers] == [ELSEWHERE[line] for line in lines]
    caller = driver.call()
    driver.pipeline.scatter(LOST)
    error = caller.exception(0)
    assert isinstance(error, redis.ConnectionError)
    assert error.__cause__ is LOST


# --- connections that are given up


@pytest.mark.parametrize("resend", [True, False])
@pytest.mark.parametrize("line", [f"READONLY {REFUSAL}", f"{IN_SCRIPT}READONLY {REFUSAL}", "LOADING in memory"])
def test_pipeline_retiring_resends_on_the_next_connection(line: str, resend: bool) -> None:
    pipeline = Pipeline(max_in_flight=1024, retire_on=(BusyLoadingError, ReadOnlyError))
    driver = PipelineDriver(pipeline, replying_with_errors({b"1": line, b"2": line}))
    driver.calls(4, resend=resend)
    driver.pipeline.receive(b"".join(driver.replies()))
    assert driver.results() == [b"0", None, None, b"3"]
    assert pipeline.is_retiring
    assert pipeline.take() == b""
    pipeline.lost(LOST)
    pipeline.connected()
    assert not pipeline.is_retiring
    driver.answer = echo
    driver.call()
    assert driver.sent() == [b"1", b"2", b"4"]
    pipeline.lost(LOST)
    told = [caller.exception(0) if caller.done() else None for caller in driver.callers[1:3]]
    assert [type(error) for error in told] == [type(None) if resend else OutcomeUnknown] * 2


@pytest.mark.parametrize("line", [f"READONLY {REFUSAL}", f"{IN_SCRIPT}READONLY {REFUSAL}"])
def test_pipeline_does_not_retire_on_readonly_by_default(line: str) -> None:
    driver = PipelineDriver(answer=replying_with_errors({b"0": line}))
    caller = driver.call(resend=False)
    driver.exchange()
    assert type(caller.exception(0)) is ReadOnlyError
    assert not driver.pipeline.is_retiring


def test_pipeline_stray_goes_before_retiring() -> None:
    strays = StrayCalls()
    pipeline = Pipeline(max_in_flight=8, retire_on=(BusyLoadingError, ReadOnlyError), stray=strays)
    driver = PipelineDriver(pipeline, replying_with_errors({b"0": "LOADING in memory", b"1": f"READONLY {REFUSAL}"}))
    driver.calls(2)
    driver.exchange()
    assert strays.numbers == [b"0", b"1"]
    assert not pipeline.is_retiring


def test_pipeline_deadlines_pass_in_any_order() -> None:
    driver = PipelineDriver()
    late, early = driver.call(deadline=10.0), driver.call(deadline=5.0)
    # One that comes from another server is older than those it stands behind.
    assert driver.pipeline.next_deadline() == 5.0
    driver.pipeline.expire(6.0, 1.0, None)
    assert isinstance(early.exception(), redis.TimeoutError)
    assert not late.done()
    assert driver.sent() == [b"0"]
