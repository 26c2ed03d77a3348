"""Calls on one connection and their replies, matched first in, first out. Nothing here does I/O.

A call is in one of three places:

    line    not sent yet, or to be sent again
    sent    its bytes were given to the connection; its place in this queue is the slot of its reply
    held    its reply has arrived, and waits for the fence that proves it

What keeps a reply from the wrong caller:

- A slot stays until its reply has arrived, even if the caller is cancelled. A client that removed the slot at once handed
  the replies of one user to another (CVE-2023-28858).
- Every few calls, and at the end of every write, a fence is sent: ECHO with a number that no other fence has. Replies are
  handed out only once the fence after them has come back with its number. So an extra or a missing reply is noticed before it
  can reach a caller: the connection is closed, and replies without a fence count as not received.

Where writes have to be durable, WAIT or WAITAOF goes before each fence and covers all writes since the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Final, Protocol

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .._protocol.commands import Argument, Command, outcome_unknown
from .._protocol.durability import Durability, unproven
from .._protocol.replies import error_of, naming_key, text_of

#: Calls between two fences, at most; as many replies may wait for a fence.
FENCE_EVERY: Final = 32
#: Bytes after which a write ends.
WRITE_SIZE: Final = 256 * 1024
#: How often a call that may be resent may lose its connection: a call that breaks connections must not go on doing so.
MAX_LOSSES: Final = 2

#: Replies of a server that does not serve a command, now or at all, and has not run it. (A MovedError is an AskError.)
ELSEWHERE: Final = (AskError, TryAgainError, ClusterDownError, MasterDownError, ReadOnlyError, BusyLoadingError)

_MORE: Final = object()
# Its own annotation is that of a tuple of one.
_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


_ASKING: Final = _pack((b"ASKING",))


class Promise(Protocol):
    """Receives the reply or the error for a caller, as ``asyncio.Future`` does."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


class OutOfStepError(RedisConnectionError):
    """The replies on a connection are not those to its calls, in their order."""


class Call:
    """A command on its way through a connection.

    Attributes:
        command: What is sent.
        promise: Receives the reply. If it is done (cancelled by the caller, or past the deadline), the reply is dropped.
        deadline: When the call times out; seconds on the clock of ``Pipeline.expire``.
        losses: How often the connection was lost after the call was sent and before its reply.
        detours: How often the call was rerouted.
        is_asking: Whether ASKING goes before it, so that a node serves a slot that is being moved to it.
        server: The node that must run it; None: the one that serves its slot.
    """

    __slots__ = ("command", "deadline", "detours", "is_asking", "losses", "promise", "server")

    def __init__(self, command: Command[Any], promise: Promise, deadline: float) -> None:
        self.command = command
        self.promise = promise
        self.deadline = deadline
        self.losses = 0
        self.detours = 0
        self.is_asking = False
        self.server: Any = None


class _Asking:
    """The slot of the reply to ASKING, which goes before a call."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class _Proof:
    """The slot of the reply to WAIT or WAITAOF."""

    __slots__ = ()


#: The token of a fence, which is in the queue for the reply to it.
_Fence = bytes
#: The place of a reply that is due.
_Slot = Call | _Asking | _Proof | _Fence


class Pipeline:
    """The calls of one connection, and of its successors when it is lost.

    Args:
        max_in_flight: Replies that may be due at once; calls beyond wait in the line.
        durability: What each write waits for; None: nothing.
        retire_on: Errors after which the connection is replaced, and the call sent again on the new one.
        stray: Called with a call that this server does not serve, or that cannot reach it, and the error, so that the call is
            rerouted. None: the caller gets the error.
    """

    def __init__(
        self,
        *,
        max_in_flight: int,
        durability: Durability | None = None,
        retire_on: tuple[type[Exception], ...] = (BusyLoadingError,),
        stray: Callable[[Call, Exception], None] | None = None,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._durability = durability
        self._proof_request = b"" if durability is None else _pack(durability.request())
        # One WAIT covers as many writes as possible.
        self._fence_every = FENCE_EVERY if durability is None else max_in_flight
        self._proof: Any = None
        self._retire_on = retire_on
        self._stray = stray
        self._line: deque[Call] = deque()
        self._sent: deque[_Slot] = deque()
        self._held: list[Call] = []
        self._replies: list[Any] = []
        # Calls whose ASKING was refused.
        self._not_asked: list[tuple[Call, Exception]] = []
        self._refusal: Exception | None = None
        self._fences = 0
        self._reader = _new_reader()
        #: Whether this connection is to be replaced as soon as no reply is due on it.
        self.is_retiring = False

    @property
    def is_waiting(self) -> bool:
        """Whether the server owes replies."""
        return bool(self._sent)

    @property
    def has_line(self) -> bool:
        """Whether calls wait to be sent."""
        return bool(self._line)

    @property
    def refusal(self) -> Exception | None:
        """The error with which the server refused the calls in the line, if there is one."""
        return self._refusal

    def pending(self) -> list[Promise]:
        """Returns the promises that still wait for a reply."""
        return [call.promise for call in chain(self._in_flight(), self._line) if not call.promise.done()]

    def submit(self, call: Call) -> None:
        """Puts a call at the end of the line."""
        self._line.append(call)

    def connected(self, rest: bytes = b"") -> None:
        """Starts on a new connection, on which ``rest`` has been received already."""
        self._reader = _new_reader()
        self._reader.feed(rest)
        self.is_retiring = False
        self._refusal = None

    def take(self) -> bytes:
        """Returns the bytes to write next; empty if no call waits, or if they have to wait."""
        line, sent = self._line, self._sent
        if not line or self.is_retiring:
            return b""
        requests: list[bytes] = []
        size = unfenced = 0
        limit, fence_every = self._max_in_flight, self._fence_every
        while line and size < WRITE_SIZE and len(sent) < limit:
            call = line[0]
            if not call.promise.done():
                if call.is_asking:
                    # ASKING is valid for the next command only.
                    requests.append(_ASKING)
                    sent.append(_Asking(call))
                request = _pack(call.command.args)
                requests.append(request)
                size += len(request)
                sent.append(call)
                unfenced += 1
                if unfenced == fence_every:
                    requests.append(self._fence())
                    unfenced = 0
            line.popleft()
        if unfenced:
            requests.append(self._fence())
        return b"".join(requests)

    def receive(self, data: bytes) -> None:
        """Hands out the replies in ``data``.

        Raises:
            OutOfStepError: a reply too many or too few.
            hiredis.ProtocolError: bytes that are no reply. After either error the connection must be dropped.
        """
        gets, sent, held, replies = self._reader.gets, self._sent, self._held, self._replies
        self._reader.feed(data)
        while (reply := gets()) is not _MORE:
            if type(reply) is hiredis.PushNotification:
                continue
            if not sent:
                raise OutOfStepError("a reply came that no call was waiting for")
            slot = sent.popleft()
            # By far the most, so it goes first, and not by isinstance.
            if type(slot) is Call:
                held.append(slot)
                replies.append(reply)
                continue
            match slot:
                case _Fence():
                    if reply != slot:
                        raise OutOfStepError("a reply too many or too few came: the fence after it was not where it should be")
                    self._hand_out()
                case _Proof():
                    self._proof = reply
                case _Asking() if isinstance(reply, Exception):
                    self._not_asked.append((slot.call, reply))

    def lost(self, error: Exception) -> None:
        """Handles a lost connection: calls that may be resent return to the line, in order; the others end with the error."""
        again = []
        for call in self._in_flight():
            if call.promise.done():
                continue
            call.losses += 1
            if not call.command.resend:
                call.promise.set_exception(outcome_unknown(call.command, error))
            elif call.losses < MAX_LOSSES:
                again.append(call)
            else:
                call.promise.set_exception(copy_of(error))
        self._held.clear()
        self._replies.clear()
        self._not_asked.clear()
        self._sent.clear()
        self._line.extendleft(reversed(again))

    def refuse(self, error: Exception) -> None:
        """Ends all calls in the line with the error, since there will be no connection."""
        for call in self._line:
            if not call.promise.done():
                call.promise.set_exception(copy_of(error))
        self._line.clear()

    def scatter(self, error: Exception) -> None:
        """Hands all calls in the line on to other servers, since this one is being left."""
        line = list(self._line)
        self._line.clear()
        for call in line:
            self._hand_on(call, error)

    def expire(self, now: float, timeout: float, trouble: Exception | None) -> None:
        """Ends the calls whose deadline has passed. Their slots stay.

        Args:
            now: Seconds.
            timeout: How long a call may take, in seconds; for messages.
            trouble: Why no call can be sent, if that is known.
        """
        for call in self._in_flight():
            if call.deadline <= now and not call.promise.done():
                reason = f"no reply within {timeout:g} s"
                silence = RedisTimeoutError(f"{_about(call)}: {reason}")
                call.promise.set_exception(silence if call.command.resend else outcome_unknown(call.command, silence, reason))
        # Deadlines are not in order: rerouted calls are older than some before them.
        late = [call for call in self._line if call.deadline <= now or call.promise.done()]
        if late:
            self._line = deque(call for call in self._line if call.deadline > now and not call.promise.done())
        for call in late:
            if call.promise.done():
                continue
            known = trouble or self._refusal
            if known is not None:
                error = copy_of(known)
            else:
                error = RedisTimeoutError(f"{_about(call)}: not sent within {timeout:g} s, since the server takes no more")
            call.promise.set_exception(error)

    def next_deadline(self) -> float | None:
        """Returns when the next call expires."""
        # Deadlines are not in order: refused calls are sent again behind later ones.
        deadlines = [call.deadline for call in self._in_flight() if not call.promise.done()]
        deadlines += [call.deadline for call in self._line]
        return min(deadlines, default=None)

    def _in_flight(self) -> Iterable[Call]:
        return (call for call in chain(self._held, self._sent) if isinstance(call, Call))

    def _fence(self) -> bytes:
        if self._proof_request:
            self._sent.append(_Proof())
        self._fences += 1
        token = b"fence-%d" % self._fences
        self._sent.append(token)
        # Not PING: a server that cannot save (MISCONF) refuses it, though it serves reads.
        return self._proof_request + _pack((b"ECHO", token))

    def _hand_out(self) -> None:
        refused: list[tuple[Call, Exception]] = []
        shortfall = self._durability.shortfall(self._proof) if self._durability is not None else None
        for call, reply in self._not_asked:
            # A refusal that leads to another server comes in reply to the call itself as well, and counts there.
            if not isinstance(reply, ELSEWHERE) and not call.promise.done():
                call.promise.set_exception(reply)
        for call, reply in zip(self._held, self._replies, strict=True):
            promise = call.promise
            if promise.done():
                continue
            if isinstance(reply, Exception):
                refused.append((call, reply))
            elif shortfall is not None and call.command.is_durable:
                error = unproven(call.command, reply, shortfall, self._proof)
                if error is None:
                    promise.set_result(reply)
                else:
                    promise.set_exception(error)
            else:
                promise.set_result(reply)
        self._held.clear()
        self._replies.clear()
        self._not_asked.clear()
        if refused:
            self._find_place(refused)

    def _find_place(self, refused: list[tuple[Call, Exception]]) -> None:
        """Handles error replies: the call returns to the line, goes to another server, or ends with the error."""
        line: list[Call] = []
        strays: list[tuple[Call, Exception]] = []
        for call, reply in refused:
            error = error_of(reply)
            if isinstance(error, NoScriptError) and call.command.script is not None:
                call.command = call.command.with_source()
                line.append(call)
            elif self._stray is not None and isinstance(error, ELSEWHERE):
                strays.append((call, error))
            elif isinstance(error, self._retire_on):
                self.is_retiring = True
                self._refusal = error
                line.append(call)
            else:
                call.promise.set_exception(naming_key(error, call.command.key))
        self._line.extendleft(reversed(line))
        for call, error in strays:
            # Last, when all lists are consistent: the call may come back into this line.
            self._hand_on(call, error)

    def _hand_on(self, call: Call, error: Exception) -> None:
        try:
            if self._stray is not None:
                self._stray(call, error)
                return
        except Exception as failure:  # noqa: BLE001 - from a user's address_remap, for example: the call must end
            error = failure
        if not call.promise.done():
            call.promise.set_exception(copy_of(error))


def _new_reader() -> hiredis.Reader:
    return hiredis.Reader(protocolError=hiredis.ProtocolError, replyError=DefaultParser.parse_error, notEnoughData=_MORE)


def _about(call: Call) -> str:
    return f"{call.command.name} of {text_of(call.command.key)}"


def copy_of(error: Exception) -> Exception:
    """Returns a copy of an error, so that each caller has a traceback of its own; the error itself if it cannot be copied."""
    try:
        copy = type(error)(*error.args)
    except TypeError:
        return error
    copy.__cause__ = error
    return copy
