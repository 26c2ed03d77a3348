"""Replies reach who they are for, whatever comes of the stream, the callers and the connection; without I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import hiredis
import pytest
import redis
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from redis_botsession import OutcomeUnknown
from redis_botsession._protocol.scripts import Script
from redis_botsession._transport.reply_matching import WRITE_SIZE, Call, OutOfStepError, Pipeline

from ..support.pipeline_driver import PipelineDriver, echo, encoded, numbers
from ..support.proxy_random import PUSHES, end_of_reply
from ..support.shifting_pipeline import ShiftingPipeline

LOST = redis.ConnectionError("lost")
#: How often a read is sent at most, when the connection is lost each time.
MAX_SENDS = 2
SCRIPT = Script("fake", b"return 1", b"5c5f0e8a", (), (), writes_data=True, preload=True)


def pieces_of(data: bytes, edges: Iterable[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise((0, *sorted(edges), len(data)))]


# --- each its own


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_pipeline_replies_in_order(count: int, size: int) -> None:
    driver = PipelineDriver()
    order: list[Future[Any]] = []
    for caller in driver.calls(count):
        caller.add_done_callback(order.append)
    stream = b"".join(driver.replies())
    for start in range(0, len(stream), size):
        driver.pipeline.receive(stream[start : start + size])
    assert driver.results() == numbers(count)
    assert order == driver.callers
    assert not driver.pipeline.is_waiting
    assert not driver.pipeline.has_line
    assert driver.pipeline.pending() == []


@dataclass
class Round:
    """Some calls, who of them (by position) is cancelled before and after sending, and where the replies are split."""

    calls: int
    before: set[int]
    after: set[int]
    #: Callers cancelled once so many pieces have come.
    during: dict[int, int]
    edges: list[float]
    #: Whether the replies to this round come before the next is sent.
    is_answered: bool


indexes = st.integers(0, 79)
rounds = st.builds(
    Round,
    st.integers(0, 80),
    st.sets(indexes),
    st.sets(indexes),
    st.dictionaries(indexes, st.integers(1, 5)),
    st.lists(st.floats(0, 1), max_size=12),
    st.booleans(),
)


def check_that_each_gets_its_own(pipeline: Pipeline, script: list[Round]) -> None:
    """Each caller that was not cancelled gets its own reply, and all of them get one."""
    driver = PipelineDriver(pipeline)
    stream = b""
    for turn in script:
        first = len(driver.callers)
        callers = driver.calls(turn.calls)
        unsent = {first + index for index in turn.before if index < turn.calls}
        for index in unsent:
            driver.callers[index].cancel()
        requests = driver.requests()
        written = [int(request[-1]) for request in requests if request[0] == b"GET"]
        assert written == [index for index in range(first, len(driver.callers)) if index not in unsent]
        stream += b"".join(map(echo, requests))
        for index in turn.after:
            if index < turn.calls:
                callers[index].cancel()
        if turn.is_answered:
            for number, piece in enumerate(pieces_of(stream, [int(edge * len(stream)) for edge in turn.edges]), 1):
                receive(driver, piece)
                for index, moment in turn.during.items():
                    if moment == number and index < turn.calls:
                        callers[index].cancel()
            stream = b""
    receive(driver, stream)
    for number, caller in enumerate(driver.callers):
        assert caller.done(), f"caller {number} is left without an answer"
        assert caller.cancelled() or caller.result() == b"%d" % number


def receive(driver: PipelineDriver, data: bytes) -> None:
    try:
        driver.pipeline.receive(data)
    except OutOfStepError as error:
        raise AssertionError("the server answered each call once, in order") from error


@example([Round(80, {1, 40}, {0, 2, 33}, {50: 1}, [0.5], False), Round(5, set(), {0}, {}, [], True)])
@given(st.lists(rounds, max_size=4))
def test_pipeline_matches_replies_with_any_cancellations_and_splits(script: list[Round]) -> None:
    check_that_each_gets_its_own(Pipeline(max_in_flight=1024), script)


def test_pipeline_holds_replies_until_their_fence() -> None:
    driver = PipelineDriver()
    driver.calls(3)
    *replies, fence = driver.replies()
    driver.pipeline.receive(b"".join(replies) + fence[:-1])
    assert driver.results() == [None] * 3
    assert driver.pipeline.is_waiting
    assert driver.pipeline.pending() == driver.callers
    driver.pipeline.receive(fence[-1:])
    assert driver.results() == numbers(3)


def test_pipeline_ends_each_write_with_a_unique_fence() -> None:
    driver = PipelineDriver()
    fences = []
    for _ in range(5):
        driver.calls(100)
        requests = driver.requests()
        assert requests[-1][0] == b"ECHO"
        fences += [request[1] for request in requests if request[0] == b"ECHO"]
    assert len(set(fences)) == len(fences)


def test_pipeline_receives_five_megabytes() -> None:
    value = random.Random(5).randbytes(5 << 20)  # noqa: S311 - the same bytes each time
    driver = PipelineDriver(answer=lambda request: encoded([value, request[1]]) if request[0] == b"GET" else echo(request))
    driver.calls(3)
    stream = b"".join(driver.replies())
    for start in range(0, len(stream), 65_536):
        driver.pipeline.receive(stream[start : start + 65_536])
    assert driver.results() == [[value, number] for number in numbers(3)]


def test_pipeline_splits_large_requests_into_writes() -> None:
    driver = PipelineDriver()
    driver.calls(20, args=[bytes(100_000)])
    writes = []
    while data := driver.pipeline.take():
        writes.append(data)
    assert len(writes) > 1
    assert max(map(len, writes)) < WRITE_SIZE + 101_000
    server = hiredis.Reader()
    for data in writes:
        server.feed(data)
    driver.pipeline.receive(b"".join(map(echo, iter(server.gets, False))))
    assert driver.results() == numbers(20)


def test_pipeline_reads_bytes_received_while_connecting() -> None:
    driver = PipelineDriver()
    driver.pipeline.connected(PUSHES[0] + PUSHES[1][:5])
    driver.call()
    driver.pipeline.receive(PUSHES[1][5:] + b"".join(driver.replies()))
    assert driver.results() == numbers(1)


# --- a stream that is not what it should be


def test_pipeline_rejects_a_reply_with_nothing_due() -> None:
    driver = PipelineDriver()
    with pytest.raises(OutOfStepError):
        driver.pipeline.receive(encoded(b"0"))
    driver = PipelineDriver()
    driver.call()
    driver.exchange()
    with pytest.raises(OutOfStepError):
        driver.pipeline.receive(encoded(b"0"))
    assert issubclass(OutOfStepError, redis.ConnectionError)


surplus = st.one_of(
    st.sampled_from([encoded(b"7"), encoded([]), encoded(None), encoded({}), encoded("OK"), encoded(1), b"-ERR no\r\n"]),
    st.integers(0, 99),
)


def nobody_has_anothers(driver: PipelineDriver) -> bool:
    return all(result in (None, number) for result, number in zip(driver.results(), numbers(len(driver.callers)), strict=True))


@given(st.integers(1, 80), st.integers(0, 99), surplus, st.sets(st.integers(0, 79)), st.integers(1, 2000))
def test_pipeline_rejects_a_surplus_reply_anywhere(
    count: int, position: int, extra: bytes | int, cancelled: set[int], size: int
) -> None:
    driver = PipelineDriver()
    callers = driver.calls(count)
    replies = driver.replies()
    for index in cancelled:
        if index < count:
            callers[index].cancel()
    # A number stands for a reply of this very stream, a fence's too, that comes twice.
    replies.insert(position % (len(replies) + 1), replies[extra % len(replies)] if isinstance(extra, int) else extra)
    stream = b"".join(replies)

    def receive_all() -> None:
        for start in range(0, len(stream), size):
            driver.pipeline.receive(stream[start : start + size])

    with pytest.raises(OutOfStepError):
        receive_all()
    assert nobody_has_anothers(driver)
    driver.pipeline.lost(LOST)
    driver.pipeline.connected()
    driver.exchange()
    assert all(caller.done() for caller in callers)
    assert nobody_has_anothers(driver)


@given(st.integers(1, 80), st.integers(0, 99), st.sets(st.integers(0, 79)))
def test_pipeline_fence_finds_a_swallowed_reply(count: int, position: int, cancelled: set[int]) -> None:
    driver = PipelineDriver()
    callers = driver.calls(count)
    replies = driver.replies()
    for index in cancelled:
        if index < count:
            callers[index].cancel()
    del replies[position % len(replies)]

    def receive_all() -> None:
        driver.pipeline.receive(b"".join(replies))
        driver.call()
        driver.exchange()

    with pytest.raises(OutOfStepError):
        receive_all()
    assert nobody_has_anothers(driver)
    driver.pipeline.lost(LOST)
    driver.pipeline.connected()
    driver.exchange()
    assert all(caller.done() for caller in driver.callers)
    assert nobody_has_anothers(driver)


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from(PUSHES)), min_size=1, max_size=10), st.integers(1, 500))
def test_pipeline_skips_push_messages(pushes: list[tuple[int, bytes]], size: int) -> None:
    driver = PipelineDriver()
    driver.calls(40)
    replies = driver.replies()
    for position, push in pushes:
        replies.insert(position % (len(replies) + 1), push)
    stream = PUSHES[0] + b"".join(replies) + PUSHES[1]
    for start in range(0, len(stream), size):
        driver.pipeline.receive(stream[start : start + size])
    assert driver.results() == numbers(40)


@pytest.mark.parametrize("garbage", [b"\x00", b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b"*1\r\n?\r\n"])
def test_pipeline_rejects_garbage(garbage: bytes) -> None:
    driver = PipelineDriver()
    driver.calls(2)
    driver.exchange()
    callers = driver.calls(2)
    first, *_ = driver.replies()
    with pytest.raises(hiredis.ProtocolError):
        driver.pipeline.receive(first + garbage)
    assert driver.results() == [b"0", b"1", None, None]
    driver.pipeline.lost(LOST)
    driver.pipeline.connected()
    driver.exchange()
    assert [caller.result() for caller in callers] == [b"2", b"3"]


# --- error replies


def test_pipeline_error_reply_goes_to_one_caller() -> None:
    def answer(request: list[bytes]) -> bytes:
        return b"-WRONGTYPE not a hash\r\n" if request[-1] == b"1" else echo(request)

    driver = PipelineDriver(answer=answer)
    first, second, third = driver.calls(3)
    driver.exchange()
    assert (first.result(), third.result()) == (b"0", b"2")
    assert isinstance(second.exception(), redis.ResponseError)
    assert "not a hash" in str(second.exception())


def test_pipeline_keeps_errors_inside_of_replies() -> None:
    def answer(request: list[bytes]) -> bytes:
        return encoded([b"a", [redis.ResponseError("ERR inner")], 1]) if request[-1] == b"1" else echo(request)

    driver = PipelineDriver(answer=answer)
    first, second, third = driver.calls(3)
    driver.exchange()
    assert (first.result(), third.result()) == (b"0", b"2")
    start, (error,), end = second.result()
    assert (start, type(error), end) == (b"a", redis.ResponseError, 1)


@pytest.mark.parametrize("value", [None, b"", 0, [], {}, [None], {b"k": b"v"}, "OK"])
def test_pipeline_hands_out_all_types(value: Any) -> None:
    driver = PipelineDriver(answer=lambda request: encoded(value) if request[0] == b"GET" else echo(request))
    caller = driver.call()
    driver.exchange()
    assert caller.done()
    assert caller.result() == (value.encode() if isinstance(value, str) else value)


@pytest.mark.parametrize("resend", [True, False])
def test_pipeline_noscript_sends_the_source(resend: bool) -> None:
    asked: list[list[bytes]] = []

    def answer(request: list[bytes]) -> bytes:
        asked.append(request)
        return b"-NOSCRIPT No matching script\r\n" if request[:2] == [b"GET", b"sha"] else echo(request)

    driver = PipelineDriver(answer=answer)
    before = driver.call()
    caller = driver.call(resend=resend, script=SCRIPT, args=[b"sha", b"1", b"key"])
    after = driver.call()
    driver.exchange()
    assert (before.result(), caller.result(), after.result()) == (b"0", b"1", b"2")
    runs = [request for request in asked if request[-1] == b"1" and request[0] != b"ECHO"]
    assert runs == [[b"GET", b"sha", b"1", b"key", b"1"], [b"EVAL", SCRIPT.source, b"1", b"key", b"1"]]


def test_pipeline_noscript_calls_go_first_in_order() -> None:
    driver = PipelineDriver(
        Pipeline(max_in_flight=4),
        lambda request: b"-NOSCRIPT No matching script\r\n" if request[1] == b"sha" else echo(request),
    )
    driver.calls(8, script=SCRIPT, args=[b"sha", b"0"])
    driver.callers[1].cancel()
    first = driver.requests()
    tried = [request[-1] for request in first if request[0] == b"GET"]
    assert 0 < len(tried) < 7
    driver.pipeline.receive(b"".join(map(driver.answer, first)))
    assert driver.results() == [None] * 8
    again = [request[-1] for request in driver.requests() if request[0] == b"EVAL"]
    assert again == tried == [b"0", b"2", b"3", b"4", b"5", b"6"][: len(tried)]


def test_pipeline_noscript_of_a_cancelled_call_is_dropped() -> None:
    driver = PipelineDriver(
        answer=lambda request: b"-NOSCRIPT No matching script\r\n" if request[1] == b"sha" else echo(request)
    )
    caller = driver.call(script=SCRIPT, args=[b"sha"])
    replies = driver.replies()
    caller.cancel()
    driver.pipeline.receive(b"".join(replies))
    assert driver.requests() == []


def test_pipeline_noscript_without_script_is_an_error() -> None:
    driver = PipelineDriver(answer=lambda request: b"-NOSCRIPT what?\r\n" if request[0] == b"GET" else echo(request))
    caller = driver.call()
    driver.exchange()
    assert isinstance(caller.exception(), redis.exceptions.NoScriptError)


@pytest.mark.parametrize("resend", [True, False])
def test_pipeline_loading_returns_calls_to_the_line(resend: bool) -> None:
    driver = PipelineDriver(answer=lambda request: b"-LOADING in memory\r\n" if request[0] == b"GET" else echo(request))
    driver.calls(3, resend=resend)
    driver.pipeline.receive(b"".join(driver.replies()))
    assert driver.results() == [None] * 3
    assert driver.pipeline.is_retiring
    assert not driver.pipeline.is_waiting
    assert driver.pipeline.has_line
    driver.call()
    assert driver.pipeline.take() == b""
    # However often it happens.
    for _ in range(MAX_SENDS + 1):
        driver.pipeline.lost(LOST)
        driver.pipeline.connected()
        assert not driver.pipeline.is_retiring
        driver.pipeline.receive(b"".join(driver.replies()))
    driver.answer = echo
    driver.pipeline.lost(LOST)
    driver.pipeline.connected()
    driver.exchange()
    assert driver.results() == numbers(4)


def test_pipeline_expire_reports_loading() -> None:
    driver = PipelineDriver(answer=lambda request: b"-LOADING in memory\r\n" if request[0] == b"GET" else echo(request))
    caller = driver.call(deadline=10)
    driver.pipeline.receive(b"".join(driver.replies()))
    driver.pipeline.expire(10, 5, None)
    assert isinstance(caller.exception(), redis.exceptions.BusyLoadingError)


# --- the line


def test_pipeline_bounds_calls_in_flight() -> None:
    driver = PipelineDriver(Pipeline(max_in_flight=10))
    driver.calls(95)
    order: list[bytes] = []
    while requests := driver.requests():
        sent = [request[-1] for request in requests if request[0] == b"GET"]
        assert 0 < len(sent) <= 10
        assert driver.requests() == []
        order += sent
        driver.pipeline.receive(b"".join(map(echo, requests)))
    assert order == numbers(95)
    assert driver.results() == numbers(95)


def test_pipeline_works_with_one_in_flight() -> None:
    driver = PipelineDriver(Pipeline(max_in_flight=1))
    driver.calls(3)
    for number in numbers(3):
        requests = driver.requests()
        assert [request[-1] for request in requests if request[0] == b"GET"] == [number]
        driver.pipeline.receive(b"".join(map(echo, requests)))
    assert driver.results() == numbers(3)


def test_pipeline_does_not_send_cancelled_calls() -> None:
    driver = PipelineDriver(Pipeline(max_in_flight=4))
    callers = driver.calls(40)
    for step in range(40):
        callers[(step * 7) % 40].cancel()
        requests = driver.requests()
        assert not any(callers[int(request[-1])].cancelled() for request in requests if request[0] == b"GET")
        driver.pipeline.receive(b"".join(map(echo, requests)))
    assert all(caller.done() for caller in callers)
    assert nobody_has_anothers(driver)
    driver = PipelineDriver()
    for caller in driver.calls(3):
        caller.cancel()
    assert driver.pipeline.take() == b""
    assert not driver.pipeline.has_line


# --- the connection is lost


def test_pipeline_lost_resends_reads_first_in_order() -> None:
    driver = PipelineDriver(Pipeline(max_in_flight=4))
    driver.calls(8)
    sent = driver.sent()
    driver.pipeline.lost(LOST)
    assert not driver.pipeline.is_waiting
    assert driver.pipeline.pending() == driver.callers
    driver.pipeline.connected()
    assert driver.sent() == sent
    driver.pipeline.lost(redis.TimeoutError("silent"))
    for number, caller in enumerate(driver.callers):
        if b"%d" % number in sent:
            assert type(caller.exception()) is redis.TimeoutError
        else:
            assert not caller.done()
    driver.pipeline.connected()
    driver.exchange()
    assert [caller.result() for caller in driver.callers[len(sent) :]] == numbers(8)[len(sent) :]


def test_pipeline_lost_limits_resends() -> None:
    driver = PipelineDriver()
    caller = driver.call()
    for _ in range(MAX_SENDS):
        assert not caller.done()
        assert driver.sent() == [b"0"]
        driver.pipeline.lost(LOST)
        driver.pipeline.connected()
    error = caller.exception()
    assert isinstance(error, redis.ConnectionError)
    # Each has an error, and with it a traceback, of its own.
    assert error is not LOST
    assert error.__cause__ is LOST
    assert driver.sent() == []


def test_pipeline_lost_keeps_unsent_calls() -> None:
    driver = PipelineDriver()
    driver.call(resend=False)
    driver.call()
    for _ in range(5):
        driver.pipeline.lost(LOST)
        driver.pipeline.connected()
    driver.exchange()
    assert driver.results() == numbers(2)


def test_pipeline_lost_makes_sent_writes_unknown() -> None:
    driver = PipelineDriver()
    read, write, other = driver.call(), driver.call(resend=False), driver.call()
    driver.requests()
    driver.pipeline.lost(LOST)
    error = write.exception()
    assert isinstance(error, OutcomeUnknown)
    assert error.__cause__ is LOST
    assert error.key == "key-1"
    assert "key-1" in str(error)
    driver.pipeline.connected()
    assert driver.sent() == [b"0", b"2"]
    assert not read.done()
    assert not other.done()


def test_pipeline_lost_discards_replies_without_a_fence() -> None:
    driver = PipelineDriver()
    read, write = driver.call(), driver.call(resend=False)
    *replies, _ = driver.replies()
    driver.pipeline.receive(b"".join(replies))
    driver.pipeline.lost(LOST)
    assert isinstance(write.exception(), OutcomeUnknown)
    assert not read.done()
    driver.pipeline.connected()
    driver.exchange()
    assert read.result() == b"0"


def test_pipeline_lost_forgets_half_a_reply() -> None:
    driver = PipelineDriver()
    driver.calls(2)
    stream = b"".join(driver.replies())
    driver.pipeline.receive(stream[:-3])
    driver.pipeline.lost(LOST)
    driver.pipeline.connected()
    driver.exchange()
    assert driver.results() == numbers(2)


def test_pipeline_lost_drops_cancelled_calls() -> None:
    driver = PipelineDriver()
    callers = [driver.call(), driver.call(resend=False), driver.call()]
    driver.requests()
    for caller in callers[:2]:
        caller.cancel()
    driver.pipeline.lost(LOST)
    driver.pipeline.connected()
    assert driver.sent() == [b"2"]


def test_pipeline_lost_resends_source_as_source() -> None:
    driver = PipelineDriver(
        answer=lambda request: b"-NOSCRIPT No matching script\r\n" if request[1] == b"sha" else echo(request)
    )
    caller = driver.call(script=SCRIPT, args=[b"sha"])
    driver.pipeline.receive(b"".join(driver.replies()))
    assert driver.requests()[0][0] == b"EVAL"
    driver.pipeline.lost(LOST)
    driver.pipeline.connected()
    driver.exchange()
    assert caller.result() == b"0"


# --- no connection, no time


def test_pipeline_refuse_ends_the_line() -> None:
    driver = PipelineDriver()
    callers = driver.calls(3)
    callers[1].cancel()
    reason = redis.AuthenticationError("wrong password")
    driver.pipeline.refuse(reason)
    assert not driver.pipeline.has_line
    errors = [caller.exception() for caller in (callers[0], callers[2])]
    assert [type(error) for error in errors] == [redis.AuthenticationError] * 2
    assert [str(error) for error in errors] == ["wrong password"] * 2
    assert errors[0] is not errors[1]


class Refused(Exception):
    """An error that is not made again from its ``args``, like many of those of other libraries."""

    def __init__(self, response: dict[str, str], operation: str) -> None:
        super().__init__(f"{operation}: {response['reason']}")


@pytest.mark.parametrize("way", ["refuse", "expire"])
def test_pipeline_refuse_shares_errors_that_cannot_be_copied(way: str) -> None:
    driver = PipelineDriver()
    callers = driver.calls(3, deadline=10)
    reason = Refused({"reason": "no credentials"}, "login")
    if way == "refuse":
        driver.pipeline.refuse(reason)
    else:
        driver.pipeline.expire(10, 5, reason)
    for caller in callers:
        assert caller.done()
        error = caller.exception()
        assert reason in (error, error.__cause__ if error else None)


def test_pipeline_expire_reports_unsent_calls() -> None:
    driver = PipelineDriver()
    late, write, early = driver.call(deadline=10), driver.call(deadline=10, resend=False), driver.call(deadline=11)
    driver.pipeline.expire(9.9, 5, None)
    assert driver.results() == [None] * 3
    assert driver.pipeline.next_deadline() == 10
    driver.pipeline.expire(10, 5, None)
    for caller in (late, write):
        assert type(caller.exception()) is redis.TimeoutError
        assert "not sent" in str(caller.exception())
    assert not early.done()
    assert driver.pipeline.next_deadline() == 11
    assert driver.sent() == [b"2"]


def test_pipeline_expire_gives_the_known_reason() -> None:
    driver = PipelineDriver()
    callers = driver.calls(2, deadline=10, resend=False)
    trouble = redis.ConnectionError("connection refused")
    driver.pipeline.expire(10, 5, trouble)
    for caller in callers:
        error = caller.exception()
        assert isinstance(error, redis.ConnectionError)
        assert str(error) == "connection refused"
    assert callers[0].exception() is not callers[1].exception()


def test_pipeline_expire_drops_late_replies() -> None:
    driver = PipelineDriver()
    read, write = driver.call(deadline=10), driver.call(deadline=10, resend=False)
    replies = driver.replies()
    driver.call(deadline=20)
    replies += driver.replies()
    assert driver.pipeline.next_deadline() == 10
    driver.pipeline.expire(10, 5, None)
    assert type(read.exception()) is redis.TimeoutError
    error = write.exception()
    assert isinstance(error, OutcomeUnknown)
    assert error.key == "key-1"
    assert type(error.__cause__) is redis.TimeoutError
    assert driver.pipeline.is_waiting
    assert driver.pipeline.next_deadline() == 20
    driver.call(deadline=30)
    replies += driver.replies()
    driver.pipeline.receive(b"".join(replies))
    assert [caller.result() for caller in driver.callers[2:]] == [b"2", b"3"]
    assert driver.pipeline.next_deadline() is None


def test_pipeline_expire_covers_held_replies() -> None:
    driver = PipelineDriver()
    caller = driver.call(deadline=10)
    reply, fence = driver.replies()
    driver.pipeline.receive(reply)
    driver.pipeline.expire(10, 5, None)
    assert type(caller.exception()) is redis.TimeoutError
    driver.pipeline.receive(fence)
    caller = driver.call()
    driver.exchange()
    assert caller.result() == b"1"


@pytest.mark.parametrize("reply", [b"$1\r\n0\r\n", b"-WRONGTYPE not a hash\r\n"])
def test_pipeline_expire_ignores_discarded_replies(reply: bytes) -> None:
    driver = PipelineDriver()
    caller = driver.call(deadline=10)
    driver.requests()
    driver.pipeline.receive(reply)
    driver.pipeline.lost(LOST)
    driver.pipeline.expire(10, 5, None)
    assert caller.done()
    assert type(caller.exception()) is redis.TimeoutError


def test_pipeline_expire_handles_deadlines_out_of_order() -> None:
    driver = PipelineDriver(
        answer=lambda request: b"-NOSCRIPT No matching script\r\n" if request[1] == b"sha" else echo(request)
    )
    caller = driver.call(deadline=10, script=SCRIPT, args=[b"sha"])
    replies = driver.replies()
    driver.call(deadline=20)
    driver.requests()
    driver.pipeline.receive(b"".join(replies))
    driver.requests()
    assert driver.pipeline.next_deadline() == 10
    driver.pipeline.expire(10, 5, None)
    assert type(caller.exception()) is redis.TimeoutError


# --- planted


class ForgettingPipeline(Pipeline):
    """Once a caller is cancelled, its slot is no more: it looks as if one reply too many came.

    For calls that are answered and not sent again: then what is sent is the line without those cancelled by then.
    """

    def __init__(self) -> None:
        super().__init__(max_in_flight=1024)
        self.line: list[Call] = []
        self.slots: list[Call | None] = []
        self.received = b""

    def submit(self, call: Call) -> None:
        self.line.append(call)
        super().submit(call)

    def take(self) -> bytes:
        line = iter([call for call in self.line if not call.promise.done()])
        self.line.clear()
        data = super().take()
        server = hiredis.Reader()
        server.feed(data)
        self.slots += [None if request[0] == b"ECHO" else next(line) for request in iter(server.gets, False)]
        self.line = list(line)
        return data

    def receive(self, data: bytes) -> None:
        self.received += data
        while end := end_of_reply(self.received, 0):
            reply, self.received = self.received[:end], self.received[end:]
            while self.slots and (call := self.slots[0]) is not None and call.promise.done():
                self.slots.pop(0)
                # For the pipeline below, which still has the slot.
                super().receive(encoded(None))
            del self.slots[:1]
            super().receive(reply)


# Two calls are sent, the caller of the first is cancelled, the replies come.
CANCELLED = [Round(2, set(), {0}, {}, [], True)]


def test_pipeline_tests_find_one_that_frees_cancelled_slots() -> None:
    with pytest.raises(AssertionError, match="b'0' == b'1'"):
        check_that_each_gets_its_own(ShiftingPipeline(max_in_flight=1024), CANCELLED)

    @settings(phases=[Phase.generate], derandomize=True, database=None)
    @given(st.lists(rounds, max_size=4))
    def check_any(script: list[Round]) -> None:
        check_that_each_gets_its_own(ShiftingPipeline(max_in_flight=1024), script)

    with pytest.raises(AssertionError):
        check_any()


def test_pipeline_fences_find_one_that_frees_cancelled_slots() -> None:
    with pytest.raises(AssertionError, match="each call once") as caught:
        check_that_each_gets_its_own(ForgettingPipeline(), CANCELLED)
    assert isinstance(caught.value.__cause__, OutOfStepError)
    check_that_each_gets_its_own(ForgettingPipeline(), [Round(80, {1}, set(), {}, [0.5], True)])
    driver = PipelineDriver(ForgettingPipeline())
    callers = driver.calls(100)
    replies = driver.replies()
    callers[50].cancel()
    with pytest.raises(OutOfStepError):
        driver.pipeline.receive(b"".join(replies))
    assert nobody_has_anothers(driver)
