"""Calls on one connection and their replies, matched first in, first out. Nothing here does I/O.

A call is in one of three places:

    line    not sent yet, or to be sent again
    sent    its bytes were given to the connection; its place in this queue is the slot of its reply
    held    its reply has come, and waits for the fence that vouches for it

What keeps a reply from the wrong caller:

- A slot is never given up before its reply has come, whatever becomes of the caller. Shifting the queue when a caller was
  cancelled once gave users the chats of others (CVE-2023-28858).
- Every few calls, and at the end of every write, a fence is sent: ECHO with a number that no other fence has. Replies are
  handed out only once the fence after them has answered with its number, so a reply too many or too few, whoever added or
  lost it, shows before it does harm: the connection is given up, and what no fence has vouched for counts as unanswered.

Where writes have to be durable, WAIT or WAITAOF goes before each fence and speaks for all writes since the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Protocol

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
from .._protocol.replies import error_of, text_of

#: Calls between two fences at most; so many replies may wait for the last of them.
FENCE_EVERY = 32
#: Bytes after which a write ends.
WRITE_SIZE = 256 * 1024
#: How often a call that may be sent again may be lost: one that breaks connections must not break them for others for long.
MAX_LOSSES = 2

#: What a server says that does not serve a command, not now or not at all; nothing was done. (A MovedError is an AskError.)
ELSEWHERE = (AskError, TryAgainError, ClusterDownError, MasterDownError, ReadOnlyError, BusyLoadingError)

_MORE = object()
# Its own annotation is that of a tuple of one.
_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


_ASKING = _pack((b"ASKING",))


class Promise(Protocol):
    """What a caller waits for; an ``asyncio.Future`` is one."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


class OutOfStepError(RedisConnectionError):
    """The replies on a connection are not those to its calls, in their order."""


class Call:
    """A command on its way.

    Attributes:
        command: What is sent.
        promise: Gets the reply. Once it is done (the caller was cancelled, or the deadline has passed), nobody does.
        deadline: When the caller has waited long enough; seconds, on the clock of whoever calls ``Pipeline.expire``.
        losses: How often it was sent and the connection lost before the reply.
        detours: How often another server was tried.
        is_asking: Whether the server is to serve it although the slot is still another's: ASKING goes before it.
        server: Where it has to run; None: wherever its slot is.
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
        durability: What has to vouch for each write.
        retire_on: Errors after which the connection is given up for another, and the call sent again on that one.
        stray: Takes a call, and why, that this server does not serve or that does not reach it: for another server. None:
            there is none, the caller gets the error.
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
        # One proof is to do for as many writes as there are.
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
        #: Whether this connection is to be given up for another as soon as no reply is due on it any more.
        self.is_retiring = False

    @property
    def is_waiting(self) -> bool:
        """Whether replies are due."""
        return bool(self._sent)

    @property
    def has_line(self) -> bool:
        """Whether calls wait to be sent."""
        return bool(self._line)

    @property
    def refusal(self) -> Exception | None:
        """Why the server has not taken what is in the line, if it has said so."""
        return self._refusal

    def pending(self) -> list[Promise]:
        """Those that still wait for a reply."""
        return [call.promise for call in chain(self._in_flight(), self._line) if not call.promise.done()]

    def submit(self, call: Call) -> None:
        """Puts a call at the end of the line."""
        self._line.append(call)

    def connected(self, rest: bytes = b"") -> None:
        """A new connection is there, on which ``rest`` has been received already."""
        self._reader = _new_reader()
        self._reader.feed(rest)
        self.is_retiring = False
        self._refusal = None

    def take(self) -> bytes:
        """What to write next; empty if there is nothing, or if it has to wait."""
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
                    # It holds for the very next command only.
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
            hiredis.ProtocolError: no reply at all. After either of them, the connection is to be given up.
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
        """The connection is gone: what does no harm goes back into the line, in its order; for the rest it is an answer."""
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
        """There will be no connection: that is the answer to all in the line."""
        for call in self._line:
            if not call.promise.done():
                call.promise.set_exception(copy_of(error))
        self._line.clear()

    def scatter(self, error: Exception) -> None:
        """The server is to be left: all in the line are for another one, where there may be one."""
        line = list(self._line)
        self._line.clear()
        for call in line:
            self._hand_on(call, error)

    def expire(self, now: float, timeout: float, trouble: Exception | None) -> None:
        """Answers those whose deadline has passed. Their slots stay.

        Args:
            now: Seconds.
            timeout: How long a call may take, in seconds; for messages.
            trouble: Why nothing is sent, if that is known.
        """
        for call in self._in_flight():
            if call.deadline <= now and not call.promise.done():
                reason = f"no reply within {timeout:g} s"
                silence = RedisTimeoutError(f"{_about(call)}: {reason}")
                call.promise.set_exception(silence if call.command.resend else outcome_unknown(call.command, silence, reason))
        # Not in their order: those that come from another server are older than some before them.
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
        """When ``expire`` has something to do next."""
        # Not in their order: what was refused is sent again behind later ones.
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
        """For calls that were answered with an error: back into the line, to another server, or that is the answer."""
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
                call.promise.set_exception(error)
        self._line.extendleft(reversed(line))
        for call, error in strays:
            # The pipeline is at rest: the call may come back into its line.
            self._hand_on(call, error)

    def _hand_on(self, call: Call, error: Exception) -> None:
        try:
            if self._stray is not None:
                self._stray(call, error)
                return
        except Exception as failure:  # noqa: BLE001 - a user's address_remap, say: nobody else has the call now
            error = failure
        if not call.promise.done():
            call.promise.set_exception(copy_of(error))


def _new_reader() -> hiredis.Reader:
    return hiredis.Reader(protocolError=hiredis.ProtocolError, replyError=DefaultParser.parse_error, notEnoughData=_MORE)


def _about(call: Call) -> str:
    return f"{call.command.name} of {text_of(call.command.key)}"


def copy_of(error: Exception) -> Exception:
    """The same error for one more caller: each gets a traceback of its own, where it can be made again."""
    try:
        copy = type(error)(*error.args)
    except TypeError:
        return error
    copy.__cause__ = error
    return copy
