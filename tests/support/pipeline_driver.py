"""Drives a pipeline without I/O: plays its callers on one side and the server on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import hiredis

from redis_botsession._protocol.commands import Command
from redis_botsession._protocol.scripts import Script
from redis_botsession._transport.reply_matching import Call, Pipeline


def encoded(value: Any) -> bytes:
    """Returns the RESP bytes of a reply."""
    match value:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case str():
            return b"+%b\r\n" % value.encode()
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(encoded, value))
        case dict():
            return b"%%%d\r\n" % len(value) + b"".join(encoded(key) + encoded(item) for key, item in value.items())
        case Exception():
            return b"-%b\r\n" % str(value).encode()
    raise TypeError(value)


def echo(request: list[bytes]) -> bytes:
    """Replies to any request with its last argument."""
    return encoded(request[-1])


@dataclass
class PipelineDriver:
    """A pipeline, its callers, and the server's side of the connection.

    Attributes:
        pipeline: The pipeline under test.
        answer: Returns the server's reply to a request.
        callers: The promise of each call, in the order of ``call``.
    """

    pipeline: Pipeline = field(default_factory=lambda: Pipeline(max_in_flight=1024))
    answer: Callable[[list[bytes]], bytes] = echo
    callers: list[Future[Any]] = field(default_factory=list)

    def call(
        self,
        *,
        resend: bool = True,
        script: Script | None = None,
        deadline: float = 100.0,
        args: Iterable[bytes] = (),
        parse: Callable[[Any], Any] = bytes,
        is_durable: bool = False,
        is_asking: bool = False,
    ) -> Future[Any]:
        """Submits a GET of the caller's own number, so that ``echo`` as the server gives each caller its number."""
        caller: Future[Any] = Future()
        number = b"%d" % len(self.callers)
        command = Command("get", b"key-" + number, 0, (b"GET", *args, number), parse, resend, script, is_durable)
        call = Call(command, caller, deadline)
        call.is_asking = is_asking
        self.callers.append(caller)
        self.pipeline.submit(call)
        return caller

    def calls(self, count: int, **options: Any) -> list[Future[Any]]:
        return [self.call(**options) for _ in range(count)]

    def requests(self) -> list[list[bytes]]:
        """Takes the requests that the pipeline wants to write now."""
        server = hiredis.Reader()
        while data := self.pipeline.take():
            server.feed(data)
        return list(iter(server.gets, False))

    def sent(self) -> list[bytes]:
        """Takes the requests, and returns the numbers of the callers whose calls are among them."""
        return [request[-1] for request in self.requests() if request[0] == b"GET"]

    def replies(self) -> list[bytes]:
        """Takes the requests, and returns the server's replies to them."""
        return [self.answer(request) for request in self.requests()]

    def exchange(self) -> None:
        """Takes requests and feeds their replies to the pipeline until it has nothing to write."""
        while replies := self.replies():
            self.pipeline.receive(b"".join(replies))

    def results(self) -> list[Any]:
        """Returns each caller's result; None where there is none yet."""
        return [caller.result() if caller.done() and not caller.cancelled() else None for caller in self.callers]


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


Answer = Callable[[list[bytes]], bytes]


def replying_with_errors(replies: dict[bytes, str], proof: Any = 1) -> Answer:
    """Returns a server that replies with errors to some requests, and like ``echo`` to all others.

    Args:
        replies: Error lines, by the last argument of the request; by b"ASKING" for that command.
        proof: The reply to WAIT and WAITAOF.
    """

    def answer(request: list[bytes]) -> bytes:
        if request[0] == b"ASKING":
            return b"-%b\r\n" % replies[b"ASKING"].encode() if b"ASKING" in replies else encoded("OK")
        if request[0] in (b"WAIT", b"WAITAOF"):
            return encoded(proof)
        if request[0] != b"ECHO" and request[-1] in replies:
            return b"-%b\r\n" % replies[request[-1]].encode()
        return echo(request)

    return answer


def names(requests: Iterable[list[bytes]]) -> list[bytes]:
    return [request[0] for request in requests]


@dataclass
class StrayCalls:
    """Collects the calls that a pipeline hands out because another server has to serve them.

    Attributes:
        came: The calls with the error that sent each one away.
        then: Called with each of them, if it is set.
    """

    came: list[tuple[Call, Exception]] = field(default_factory=list)
    then: Callable[[Call], None] | None = None

    def __call__(self, call: Call, error: Exception) -> None:
        self.came.append((call, error))
        if self.then is not None:
            self.then(call)

    @property
    def numbers(self) -> list[bytes]:
        return [call.command.args[-1] for call, _ in self.came if isinstance(call.command.args[-1], bytes)]
