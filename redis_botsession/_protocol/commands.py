"""Each operation of a store as a Redis command with the parser of its reply. Nothing here does I/O.

An operation that takes several round trips is a generator: it yields the commands of one round trip and is sent their results.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from .._codec.codec import Codec
from .._codec.walk import SURROGATES
from .._session.changes import Write
from .._session.record import KEEP, BotSession, Id, Loaded, normal_id
from .._session.times import TTL, to_micros, ttl_to_ms
from ..errors import OutcomeUnknown
from .layout import Keys, Location, channel_of, slot_of
from .replies import (
    count_of,
    held_for,
    is_awaited,
    loaded_of,
    text_of,
    version_of,
    was_there,
    written_of,
)
from .scripts import SCRIPTS, Script

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Argument = bytes | int
#: An operation of several round trips: yields the commands of each, is sent their results in the same order.
Flow = Generator[Sequence["Command[Any]"], list[Any], T]

#: Sessions that one script of ``clear`` removes. The server serves no other client while a script runs.
CLEAR_BATCH: Final = 500
#: How many locations are cached, with their commands. A session that was loaded is mostly saved soon, and making its keys
#: and commands costs 5 µs. A full cache takes some 15 MB (1.9 KB a session).
PLACES: Final = 8192
#: How many keys of the server SCAN examines in one round trip.
SCAN_COUNT: Final = 1000
#: EXISTS commands in one round trip of ``channels``.
EXISTS_BATCH: Final = 1000


_WRITE: Final = SCRIPTS["write"]


@dataclass(slots=True, eq=False)
class Command(Generic[T_co]):
    """One Redis command and the parser of its reply. Treat it as immutable: ``frozen=True`` costs 1 µs a command.

    Attributes:
        name: The operation, for messages.
        key: The Redis key it is about, for messages.
        slot: The hash slot of all its keys. All commands of one user have the same slot.
        args: The words of the command.
        parse: Turns the reply (RESP2 or RESP3, not decoded) into the result; raises this package's errors.
        resend: Whether it may be sent again after its connection was lost before the reply.
        script: The script that ``args`` calls with EVALSHA, for a server that has not loaded it yet.
        is_durable: Whether it writes session data, which replicas and disks may have to confirm.
    """

    name: str
    key: bytes
    slot: int
    args: tuple[Argument, ...]
    parse: Callable[[Any], T_co]
    resend: bool
    script: Script | None = None
    is_durable: bool = False

    def with_source(self) -> Command[T_co]:
        """The same command as EVAL, which sends the script along: the server runs it and remembers it for EVALSHA."""
        if self.script is None:
            raise ValueError(f"{self.name} calls no script")
        args = (b"EVAL", self.script.source, *self.args[2:])
        return Command(self.name, self.key, self.slot, args, self.parse, self.resend, None, self.is_durable)


class _Place:
    """The location of a session, and the commands for it that are always the same, once they have been needed."""

    __slots__ = ("load", "location", "touch")

    def __init__(self, location: Location) -> None:
        self.location = location
        self.load: Command[Loaded | None] | None = None
        self.touch: Command[bool] | None = None


class Commands:
    """Makes the commands for the sessions under one prefix.

    Args:
        prefix: What all keys begin with.
        ttl: The rolling TTL: seconds, a timedelta, or None for no expiry.
        codec: Packs the values.
        max_bytes: Limit on the bytes of one session, in and out.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(self, *, prefix: str, ttl: TTL, codec: Codec, max_bytes: int) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes must be int, not {type(max_bytes).__name__}")
        if max_bytes <= 0:
            raise ValueError(f"max_bytes must be positive, not {max_bytes}")
        if not isinstance(codec, Codec):
            raise TypeError(f"codec must be a redis_botsession.Codec, not {type(codec).__name__}")
        self.keys = Keys(prefix)
        self.codec = codec
        self.max_bytes = max_bytes
        self._ttl_ms = _optional(ttl_to_ms(ttl))
        # typed: True equals 1 and must not find the location of user 1; it is refused as an id.
        self._places = lru_cache(PLACES, typed=True)(self._make_place)

    def load(self, user_id: Id, channel_id: Id) -> Command[Loaded | None]:
        """Loads a session; None if there is none."""
        place = self._place(user_id, channel_id)
        if place.load is None:
            at = place.location
            parse = partial(loaded_of, at, self.codec, self.max_bytes)
            place.load = Command("get", at.session, at.slot, (b"HGETALL", at.session), parse, resend=True)
        return place.load

    def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> Command[int]:
        """Replaces a session as a whole; returns its new version, 0 if its ``expires_at`` has passed."""
        at = self._place(user_id, channel_id).location
        if not isinstance(session, BotSession):
            raise TypeError(f"session must be a BotSession, not {type(session).__name__}")
        theirs = normal_id(session.user_id, "session.user_id"), normal_id(session.channel_id, "session.channel_id")
        if theirs != (at.user, at.channel):
            raise ValueError(
                f"session {at.name} cannot be set from one of another user or channel, {theirs!r}; "
                "give a BotSession(user_id, channel_id, data) of its own"
            )
        expected = _version(expected_version)
        created_at = to_micros(session.created_at, "created_at")
        expires_at = _optional(None if session.expires_at is None else to_micros(session.expires_at, "expires_at"))
        fields = self.codec.encode(session.data, max_bytes=self.max_bytes, key=at.name)
        size = sum(map(len, fields)) + sum(map(len, fields.values()))
        args = (
            at.member,
            at.owner,
            self._ttl_ms,
            expected,
            created_at,
            expires_at,
            size,
            *chain.from_iterable(fields.items()),
        )
        parse = partial(version_of, at.session, expected_version, self.max_bytes)
        return _script("set", at.slot, (at.session, at.index), args, parse, resend=False)

    def write(self, user_id: Id, channel_id: Id, write: Write) -> Command[int]:
        """Applies a write; returns the new version, 0 if the session was removed or is left without keys."""
        at = self._place(user_id, channel_id).location
        return self._write(at, write, partial(version_of, at.session, write.expected_version, self.max_bytes), loads=False)

    def write_and_load(self, user_id: Id, channel_id: Id, write: Write) -> Command[Loaded | None]:
        """Applies a write and returns the session as it is right after it; None if it was removed."""
        at = self._place(user_id, channel_id).location
        parse = partial(written_of, at, write.expected_version, self.codec, self.max_bytes)
        return self._write(at, write, parse, loads=True)

    def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> Command[bool]:
        """Renews the rolling TTL (``ttl`` counts until the next write or touch); returns False if there is no session."""
        place = self._place(user_id, channel_id)
        if ttl is not None:
            return self._touch(place.location, _optional(ttl_to_ms(ttl)))
        if place.touch is None:
            place.touch = self._touch(place.location, self._ttl_ms)
        return place.touch

    def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> Command[bool]:
        """Removes a session; returns False if there was none."""
        at = self._place(user_id, channel_id).location
        args = (at.member, _version(expected_version))
        parse = partial(was_there, at.session, expected_version)
        # A conditional delete is not resent: after its own success it would report a conflict.
        return _script("delete", at.slot, (at.session, at.index), args, parse, resend=expected_version is None)

    def clear(self, user_id: Id) -> Flow[int]:
        """Removes all sessions that the user has at the start; returns how many."""
        user = normal_id(user_id, "user_id")
        slot, index = slot_of(user), self.keys.index(user)
        (members,) = yield [Command("clear", index, slot, (b"ZRANGE", index, 0, -1), list, resend=True)]
        total = 0
        for first in range(0, len(members), CLEAR_BATCH):
            batch = members[first : first + CLEAR_BATCH]
            keys = (index, *(self.keys.session(user, channel_of(item)) for item in batch))
            (count,) = yield [_script("clear", slot, keys, batch, count_of, resend=True)]
            total += count
        return total

    def channels(self, user_id: Id) -> Flow[list[str]]:
        """The channels in which the user has a live session."""
        user = normal_id(user_id, "user_id")
        slot, index = slot_of(user), self.keys.index(user)
        (members,) = yield [Command("channels", index, slot, (b"ZRANGE", index, 0, -1), list, resend=True)]
        channels = [channel_of(item) for item in members]
        live: list[str] = []
        for first in range(0, len(channels), EXISTS_BATCH):
            batch = channels[first : first + EXISTS_BATCH]
            # The index may still list sessions that have just expired or that an operator deleted by hand.
            keys = [self.keys.session(user, channel) for channel in batch]
            found = yield [Command("channels", key, slot, (b"EXISTS", key), bool, resend=True) for key in keys]
            live += [channel for channel, is_live in zip(batch, found, strict=True) if is_live]
        return live

    def acquire(self, user_id: Id, channel_id: Id, token: bytes, lease_ms: int) -> Command[float | None]:
        """Acquires a lease or renews the token's own; returns None, or the seconds until another holder's lease expires."""
        return self._lease("acquire", user_id, channel_id, (token, lease_ms), held_for, resend=True)

    def renew(self, user_id: Id, channel_id: Id, token: bytes, lease_ms: int) -> Command[bool]:
        """Renews a lease; returns False if the token does not hold it any more."""
        return self._lease("renew", user_id, channel_id, (token, lease_ms), partial(was_there, b"", None), resend=True)

    def release(self, user_id: Id, channel_id: Id, token: bytes) -> Command[bool | None]:
        """Releases a lease; returns whether there are waiters, None if the token did not hold it any more."""
        # Not resent: a second release would not find the lease and report it as lost.
        return self._lease("release", user_id, channel_id, (token,), is_awaited, resend=False)

    def ping(self) -> Command[bytes]:
        """Asks for a reply. ECHO, since a server that cannot save to disk refuses PING, though it serves reads."""
        return Command("ping", b"", 0, (b"ECHO", b"ping"), bytes, resend=True)

    def scan(self, cursor: int) -> Command[tuple[int, list[tuple[str, str]]]]:
        """One step of SCAN over all sessions; returns the next cursor (0: done) and the (user_id, channel_id) pairs found."""
        pattern = self.keys.pattern
        args = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_COUNT, b"TYPE", b"hash")
        return Command("scan", pattern, 0, args, self._parse_scan, resend=True)

    def locate(self, user_id: Id, channel_id: Id) -> Location:
        """The location of a session. Raises what ``Keys.locate`` raises."""
        return self._place(user_id, channel_id).location

    def _place(self, user_id: Id, channel_id: Id) -> _Place:
        try:
            return self._places(user_id, channel_id)
        except TypeError:
            # An id that cannot be hashed: this raises an error that names its type.
            return self._make_place(user_id, channel_id)

    def _make_place(self, user_id: Id, channel_id: Id) -> _Place:
        return _Place(self.keys.locate(user_id, channel_id))

    def _lease(
        self, name: str, user_id: Id, channel_id: Id, args: tuple[Argument, ...], parse: Callable[[Any], T], *, resend: bool
    ) -> Command[T]:
        at = self._place(user_id, channel_id).location
        return _script(name, at.slot, (self.keys.lease(at.user, at.channel),), args, parse, resend=resend)

    def _touch(self, at: Location, ttl_ms: Argument) -> Command[bool]:
        parse = partial(was_there, at.session, None)
        return _script("touch", at.slot, (at.session, at.index), (at.member, ttl_ms), parse, resend=True)

    def _write(self, at: Location, write: Write, parse: Callable[[Any], T], *, loads: bool) -> Command[T]:
        fields = write.packed
        if fields is None:
            fields = self.codec.encode(write.values, max_bytes=self.max_bytes, key=at.name)
        deadline: Argument = b""
        if write.expires_at is None:
            deadline = b"-"
        elif write.expires_at is not KEEP:
            deadline = to_micros(write.expires_at, "expires_at")
        modes = b"g" if loads else b""
        names = write.remove
        if write.keep is not None:
            modes += b"r"
            names = write.keep
        if write.drop_empty:
            modes += b"e"
        args: list[Argument] = [
            b"EVALSHA",
            _WRITE.sha,
            2,
            at.session,
            at.index,
            at.member,
            at.owner,
            self._ttl_ms,
            _version(write.expected_version),
            1 if write.may_create else 0,
            _version(write.since_version),
            deadline,
            self.max_bytes,
            modes,
            len(names),
        ]
        if names:
            args += [name.encode("utf-8", SURROGATES) for name in names]
        for item in fields.items():
            args += item
        return Command("update", at.session, at.slot, tuple(args), parse, False, _WRITE, True)

    def _parse_scan(self, reply: Any) -> tuple[int, list[tuple[str, str]]]:
        cursor, keys = reply
        return int(cursor), [ids for ids in map(self.keys.ids, keys) if ids is not None]


def _script(
    name: str,
    slot: int,
    keys: tuple[bytes, ...],
    args: Iterable[Argument],
    parse: Callable[[Any], T],
    *,
    resend: bool,
) -> Command[T]:
    script = SCRIPTS[name]
    args = (b"EVALSHA", script.sha, len(keys), *keys, *args)
    return Command(name, keys[0], slot, args, parse, resend, script, script.writes_data)


def outcome_unknown(
    command: Command[Any], cause: Exception, reason: str = "the connection was lost before the reply"
) -> OutcomeUnknown:
    """The error for the caller of a write whose reply did not come."""
    key = text_of(command.key)
    error = OutcomeUnknown(
        f"{command.name} of session {key}: {reason}; it may have been applied and was not sent again. Load the session to see",
        key=key,
    )
    error.__cause__ = cause
    return error


def _optional(number: int | None) -> Argument:
    return b"" if number is None else number


def _version(version: int | None) -> Argument:
    if version is None:
        return b""
    if isinstance(version, bool) or not isinstance(version, int):
        raise TypeError(f"a version must be int, not {type(version).__name__}")
    if version < 0:
        raise ValueError(f"a version is never negative: {version}")
    return version
