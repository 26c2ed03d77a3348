"""The two sides of a pipeline: its callers, and the server; without I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import hiredis

from redis_botsession._protocol.commands import Command
from redis_botsession._protocol.scripts import Script
from redis_botsession._transport.pipeline import Call, Pipeline


def encoded(value: Any) -> bytes:
    """A reply as a server sends it."""
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
    """The reply to all of them: the last thing they were given."""
    return encoded(request[-1])


@dataclass
class PipelineDriver:
    """A pipeline, its callers, and the server's side of the connection."""

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
        """The caller ``n`` asks for its own number."""
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
        """What is written now."""
        server = hiredis.Reader()
        while data := self.pipeline.take():
            server.feed(data)
        return list(iter(server.gets, False))

    def sent(self) -> list[bytes]:
        """The numbers of the callers whose calls are written now."""
        return [request[-1] for request in self.requests() if request[0] == b"GET"]

    def replies(self) -> list[bytes]:
        """The replies to what is written now."""
        return [self.answer(request) for request in self.requests()]

    def exchange(self) -> None:
        """Writes and answers until there is nothing to write."""
        while replies := self.replies():
            self.pipeline.receive(b"".join(replies))

    def results(self) -> list[Any]:
        """What each caller has got; None if nothing yet."""
        return [caller.result() if caller.done() and not caller.cancelled() else None for caller in self.callers]


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


Answer = Callable[[list[bytes]], bytes]


def replying_with_errors(replies: dict[bytes, str], proof: Any = 1) -> Answer:
    """A server that answers these calls, by their last argument, with errors, and proofs with ``proof``."""

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
    """Takes strays; gives each to ``then``, if there is one."""

    came: list[tuple[Call, Exception]] = field(default_factory=list)
    then: Callable[[Call], None] | None = None

    def __call__(self, call: Call, error: Exception) -> None:
        self.came.append((call, error))
        if self.then is not None:
            self.then(call)

    @property
    def numbers(self) -> list[bytes]:
        return [call.command.args[-1] for call, _ in self.came if isinstance(call.command.args[-1], bytes)]
