"""The two sides of a pipeline: its callers, and the server; without I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import hiredis

from redis_botsession.commands import Command
from redis_botsession.pipeline import Call, Pipeline
from redis_botsession.scripts import Script


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
class Talk:
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
