"""The store in memory: for development, tests and bots of one process."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, TypeVar

from ._codec.codec import DEFAULT_MAX_BYTES, Codec
from ._protocol.commands import Command, Commands
from ._protocol.layout import CREATED_AT, EXPIRES_AT, OWNER, VERSION
from ._protocol.replies import Status
from ._session.times import DEFAULT_TTL, TTL
from ._store.command_store import CommandStore
from .errors import SessionError

T = TypeVar("T")

#: A number in a command, or b"" for a number that is not given.
OptionalInt = int | bytes
Reply = tuple[int, int] | tuple[int, int, list[bytes]]


# Which method does what a plain Redis command does.
_PLAIN: Final[dict[bytes | int, str]] = {
    b"HGETALL": "_hgetall",
    b"ZRANGE": "_zrange",
    b"EXISTS": "_exists",
    b"SCAN": "_scan",
    b"ECHO": "_echo",
}


@dataclass(slots=True)
class _Record:
    """A session as the hash in Redis holds it. ``deadline`` is in milliseconds since 1970, inf for none."""

    index: bytes
    member: bytes
    owner: bytes
    version: int
    created_at: int
    born: int
    own_deadline: int | None
    deadline: float
    fields: dict[bytes, bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.fields)) + sum(map(len, self.fields.values()))


@dataclass(slots=True)
class _Holder:
    """The holder of a lease. ``deadline`` is in milliseconds since 1970."""

    token: bytes
    deadline: int
    is_awaited: bool = False


class MemoryExecutor:
    """Runs commands on a dict, as the scripts in ``lua/`` run them on Redis.

    Values are kept packed, so nothing that is stored can be changed from outside.

    Args:
        clock: The time in seconds since 1970.
        cleanup_interval: Seconds between two clean-ups while the event loop runs; None: never.
    """

    def __init__(self, clock: Callable[[], float], cleanup_interval: float | None) -> None:
        self._clock = clock
        self._cleanup_interval = cleanup_interval
        self._timer: asyncio.TimerHandle | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None
        self._records: dict[bytes, _Record] = {}
        self._indexes: dict[bytes, dict[bytes, bytes]] = {}
        self._leases: dict[bytes, _Holder] = {}
        self._last_version = 0
        self._closed = False

    async def run(self, command: Command[T]) -> T:
        if self._closed:
            raise SessionError("this store is closed; make a new one")
        self._keep_clean()
        if command.script is None:
            return command.parse(getattr(self, _PLAIN[command.args[0]])(*command.args[1:]))
        # The method takes the arguments by the names in the script's header. args begin with EVALSHA and the SHA.
        script = command.script
        return command.parse(getattr(self, f"_{script.name}")(**script.bind(command.args[2:])))

    async def run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        return [await self.run(command) for command in commands]

    async def primaries(self) -> Sequence[MemoryExecutor]:
        return [self]

    async def listen(self) -> None:
        """Returns None: nothing is published, since no other process shares this store."""

    async def aclose(self) -> None:
        self.stop_cleanup()
        self._closed = True

    def _keep_clean(self) -> None:
        loop = asyncio.get_running_loop()
        if self._cleanup_interval is not None and self._timer_loop is not loop:
            self._timer_loop = loop
            self._timer = loop.call_later(self._cleanup_interval, _clean, weakref.ref(self))

    def stop_cleanup(self) -> None:
        """Stops the clean-ups in the background."""
        self._cleanup_interval = None
        if self._timer is not None:
            self._timer.cancel()

    def cleanup(self) -> int:
        """Removes expired sessions and leases; returns how many sessions that were."""
        now_ms = self._now_ms()
        expired = [key for key, record in self._records.items() if record.deadline <= now_ms]
        for key in expired:
            self._remove(key)
        for lease in [lease for lease, holder in self._leases.items() if holder.deadline <= now_ms]:
            del self._leases[lease]
        return len(expired)

    def _now_ms(self) -> int:
        return math.floor(self._clock() * 1000)

    def _live(self, key: bytes) -> _Record | None:
        record = self._records.get(key)
        if record is not None and record.deadline <= self._now_ms():
            self._remove(key)
            return None
        return record

    def _remove(self, key: bytes) -> bool:
        record = self._records.pop(key, None)
        if record is None:
            return False
        index = self._indexes[record.index]
        del index[record.member]
        if not index:
            del self._indexes[record.index]
        return True

    def _hgetall(self, key: bytes) -> dict[bytes, bytes]:
        record = self._live(key)
        if record is None:
            return {}
        reply = {
            **record.fields,
            VERSION: b"%d" % record.version,
            CREATED_AT: b"%d" % record.created_at,
            OWNER: record.owner,
        }
        if record.own_deadline is not None:
            reply[EXPIRES_AT] = b"%d" % record.own_deadline
        return reply

    def _exists(self, key: bytes) -> bool:
        return self._live(key) is not None

    def _zrange(self, index: bytes, *_: int) -> list[bytes]:
        return list(self._indexes.get(index, ()))

    def _scan(self, *_: Any) -> tuple[int, list[bytes]]:
        return 0, [key for key in list(self._records) if self._live(key) is not None]

    def _echo(self, text: bytes) -> bytes:
        return text

    def _touch(self, *, session: bytes, index: bytes, member: bytes, ttl_ms: OptionalInt) -> Reply:
        record = self._live(session)
        if record is None:
            return Status.GONE, 0
        record.deadline = self._deadline(record.own_deadline, ttl_ms)
        return Status.OK, 0

    def _delete(self, *, session: bytes, index: bytes, member: bytes, expected_version: OptionalInt) -> Reply:
        record = self._live(session)
        version = 0 if record is None else record.version
        if expected_version not in (b"", version):
            return Status.CONFLICT, version
        return (Status.OK if self._remove(session) else Status.GONE), 0

    def _clear(self, *, index: bytes, sessions: Sequence[bytes], members: Sequence[bytes]) -> Reply:
        return Status.OK, sum([self._live(key) is not None and self._remove(key) for key in sessions])

    def _acquire(self, *, lease: bytes, token: bytes, lease_ms: int) -> Reply:
        now_ms = self._now_ms()
        holder = self._leases.get(lease)
        if holder is None or holder.deadline <= now_ms:
            self._leases[lease] = _Holder(token, now_ms + lease_ms)
        elif holder.token == token:
            holder.deadline = now_ms + lease_ms
        else:
            holder.is_awaited = True
            return Status.HELD, holder.deadline - now_ms
        return Status.OK, 0

    def _renew(self, *, lease: bytes, token: bytes, lease_ms: int) -> Reply:
        holder = self._holder(lease, token)
        if holder is None:
            return Status.GONE, 0
        holder.deadline = self._now_ms() + lease_ms
        return Status.OK, 0

    def _release(self, *, lease: bytes, token: bytes) -> Reply:
        holder = self._holder(lease, token)
        if holder is None:
            return Status.GONE, 0
        del self._leases[lease]
        return Status.OK, int(holder.is_awaited)

    def _holder(self, lease: bytes, token: bytes) -> _Holder | None:
        """The holder of a lease, if this token holds it; else None."""
        holder = self._leases.get(lease)
        return holder if holder is not None and holder.token == token and holder.deadline > self._now_ms() else None

    def _set(
        self,
        *,
        session: bytes,
        index: bytes,
        member: bytes,
        owner: bytes,
        ttl_ms: OptionalInt,
        expected_version: OptionalInt,
        created_at: int,
        expires_at: OptionalInt,
        size: int,
        fields: Sequence[bytes],
    ) -> Reply:
        before = self._live(session)
        version = 0 if before is None else before.version
        if expected_version not in (b"", version):
            return Status.CONFLICT, version
        new = self._next_version()
        born = new if before is None else before.born
        own = None if isinstance(expires_at, bytes) else expires_at
        packed = dict(zip(fields[::2], fields[1::2], strict=True))
        record = _Record(index, member, owner, new, created_at, born, own, self._deadline(own, ttl_ms), packed)
        return self._store(session, record)

    def _update(
        self,
        *,
        session: bytes,
        index: bytes,
        member: bytes,
        owner: bytes,
        ttl_ms: OptionalInt,
        expected_version: OptionalInt,
        create: int,
        since_version: OptionalInt,
        expires_at: OptionalInt,
        max_bytes: int,
        modes: bytes,
        named: int,
        fields: Sequence[bytes],
    ) -> Reply:
        before = self._live(session)
        is_another = before is not None and isinstance(since_version, int) and before.born > since_version
        if is_another or (before is None and not create):
            return Status.GONE, 0
        version = 0 if before is None else before.version
        if expected_version not in (b"", version):
            return Status.CONFLICT, version
        own = None if before is None else before.own_deadline
        if expires_at != b"":
            own = expires_at if isinstance(expires_at, int) else None
        after = {} if before is None else dict(before.fields)
        names = fields[:named]
        for name in set(after).difference(names) if b"r" in modes else names:
            after.pop(name, None)
        after.update(zip(fields[named::2], fields[named + 1 :: 2], strict=True))
        if b"e" in modes and not after:
            self._remove(session)
            return Status.REMOVED, 0
        new = self._next_version()
        created_at, born = (new, new) if before is None else (before.created_at, before.born)
        record = _Record(index, member, owner, new, created_at, born, own, self._deadline(own, ttl_ms), after)
        too_large = record.size > max_bytes and record.size > (0 if before is None else before.size)
        if too_large and record.deadline > self._now_ms():
            return Status.TOO_LARGE, record.size
        reply = self._store(session, record)
        if b"g" in modes and reply[0] == Status.OK:
            return *reply, [*chain.from_iterable(self._hgetall(session).items())]
        return reply

    def _store(self, key: bytes, record: _Record) -> tuple[int, int]:
        if record.deadline <= self._now_ms():
            self._remove(key)
            return Status.REMOVED, 0
        self._last_version = record.version
        self._records[key] = record
        self._indexes.setdefault(record.index, {})[record.member] = key
        return Status.OK, record.version

    def _next_version(self) -> int:
        # One counter for all sessions: so a version never repeats for a deleted session, whatever the clock does.
        return max(self._last_version + 1, math.floor(self._clock() * 1_000_000))

    def _deadline(self, own_deadline: int | None, ttl_ms: OptionalInt) -> float:
        if own_deadline is not None:
            return math.ceil(own_deadline / 1000)
        return math.inf if isinstance(ttl_ms, bytes) else self._now_ms() + ttl_ms


def _clean(reference: weakref.ref[MemoryExecutor]) -> None:
    # A weak reference: the timer must not keep an unused store alive.
    executor = reference()
    if executor is not None:
        executor.cleanup()
        executor._timer_loop = None
        executor._keep_clean()


def _wall_clock() -> float:
    # Looked up at each call: freezegun and time-machine replace it.
    return time.time()


class MemorySessionStore(CommandStore):
    """Sessions in the memory of this process, which are gone when it ends. Everything else is as in ``SessionStore``.

    Not thread-safe: one event loop.

    Args:
        ttl: The rolling TTL that every write and touch renews: seconds, a timedelta, or None for no expiry.
        cleanup_interval: Seconds between two clean-ups of what has expired; None: never. (An expired session is not given
            out in either case.)
        codec: Packs the values; give one with your own types registered.
        max_bytes: Limit on the bytes of one session, in and out.
        clock: Returns the time in seconds since 1970; default: ``time.time``. Tests give a clock of their own.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(
        self,
        *,
        ttl: TTL = DEFAULT_TTL,
        cleanup_interval: float | None = 60.0,
        codec: Codec | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if cleanup_interval is not None and not cleanup_interval > 0:
            raise ValueError(f"cleanup_interval must be positive, not {cleanup_interval!r}; None means never")
        self._memory = MemoryExecutor(clock or _wall_clock, cleanup_interval)
        super().__init__(Commands(prefix="", ttl=ttl, codec=codec or Codec(), max_bytes=max_bytes), self._memory)

    def cleanup(self) -> int:
        """Removes expired sessions now; returns how many."""
        return self._memory.cleanup()

    def destroy(self) -> None:
        """Stops the clean-up in the background. The sessions stay readable."""
        self._memory.stop_cleanup()


#: Another name, as in the documentation of @igniter-js/bot, whose stores this package replaces.
memory_store = MemorySessionStore
