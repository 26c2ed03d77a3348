"""Each operation as the arguments of a Redis command and a reader of its reply. Nothing here does I/O.

What takes several round trips is a generator: it yields the commands of one round trip and is sent their results.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from .._codec.codec import Codec
from .._codec.walk import SURROGATES
from .._session.changes import Changes
from .._session.record import KEEP, BotSession, Id, Keep, Loaded, normal_id
from .._session.times import TTL, to_micros, ttl_to_ms
from ..errors import OutcomeUnknown
from .layout import Keys, Location, channel_of, slot_of
from .replies import (
    count_of,
    held_for,
    is_awaited,
    loaded_of,
    merged_of,
    session_of,
    text_of,
    version_left,
    version_of,
    was_there,
)
from .scripts import BINDINGS, LEASES, Script

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Argument = bytes | int
#: A round trip at a time: yields commands, is sent their results in the same order.
Flow = Generator[Sequence["Command[Any]"], list[Any], T]

#: Sessions removed by one script of ``clear``; the server answers nobody else meanwhile.
CLEAR_BATCH: Final = 500
#: Sessions whose keys and commands are kept ready, some 1.5 KB each: what was loaded is mostly saved soon.
PLACES: Final = 8192
#: How many keys SCAN looks at in one round trip.
SCAN_COUNT: Final = 1000
#: EXISTS calls in one round trip of ``channels``.
EXISTS_BATCH: Final = 1000


_UPDATE: Final = BINDINGS["update"].script
# What replicas and disks need not vouch for: a TTL, and who has a lease.
_FLEETING: Final = LEASES | {"touch"}


@dataclass(slots=True, eq=False)
class Command(Generic[T_co]):
    """One Redis command. Not to be changed (frozen, one would take a microsecond more to make).

    Attributes:
        name: The operation, for messages.
        key: The Redis key that it is about.
        slot: The hash slot of all its keys: commands of one user have one slot.
        args: What to send.
        parse: From the reply (RESP2 or RESP3, not decoded) to the result; raises this package's errors.
        resend: Whether it does no harm to send it again when the connection was lost before the reply.
        script: The script that ``args`` calls with EVALSHA, for a server that does not know it yet.
        is_durable: Whether it writes what replicas and disks may have to vouch for. Renewing a TTL does not.
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
        """The same as EVAL: runs the script and makes it known to the server, in one go."""
        if self.script is None:
            raise ValueError(f"{self.name} calls no script")
        args = (b"EVAL", self.script.source, *self.args[2:])
        return Command(self.name, self.key, self.slot, args, self.parse, self.resend, None, self.is_durable)


class _Place:
    """A session's address, and those commands for it that are always the same, once they have been needed."""

    __slots__ = ("address", "get", "load", "touch")

    def __init__(self, address: Location) -> None:
        self.address = address
        self.get: Command[BotSession | None] | None = None
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
        self.keys = Keys(prefix)
        self.codec = codec
        self.max_bytes = max_bytes
        self._ttl_ms = _optional(ttl_to_ms(ttl))
        # By type, since 1 and True are equal.
        self._places = lru_cache(PLACES, typed=True)(self._make_place)

    def get(self, user_id: Id, channel_id: Id) -> Command[BotSession | None]:
        """Loads a session; None if there is none."""
        place = self._place(user_id, channel_id)
        if place.get is None:
            place.get = self._hgetall(place.address, partial(session_of, place.address, self.codec, self.max_bytes))
        return place.get

    def load(self, user_id: Id, channel_id: Id) -> Command[Loaded | None]:
        """The same, with the packed values."""
        place = self._place(user_id, channel_id)
        if place.load is None:
            place.load = self._hgetall(place.address, partial(loaded_of, place.address, self.codec, self.max_bytes))
        return place.load

    def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> Command[int]:
        """Replaces a session as a whole; gives its new version, 0 if its ``expires_at`` has passed."""
        address = self._place(user_id, channel_id).address
        if not isinstance(session, BotSession):
            raise TypeError(f"session must be a BotSession, not {type(session).__name__}")
        theirs = normal_id(session.user_id, "session.user_id"), normal_id(session.channel_id, "session.channel_id")
        if theirs != (address.user, address.channel):
            raise ValueError(
                f"session {address.name} cannot be set from one of another user or channel, {theirs!r}; "
                "make a copy with dataclasses.replace"
            )
        expected = _version(expected_version)
        created_at = to_micros(session.created_at, "created_at")
        expires_at = _optional(None if session.expires_at is None else to_micros(session.expires_at, "expires_at"))
        fields = self.codec.encode(session.data, max_bytes=self.max_bytes, key=address.name)
        size = sum(map(len, fields)) + sum(map(len, fields.values()))
        args = (
            address.member,
            address.owner,
            self._ttl_ms,
            expected,
            created_at,
            expires_at,
            size,
            *chain.from_iterable(fields.items()),
        )
        parse = partial(version_of, address.session, expected_version, self.max_bytes)
        return _script("set", address.slot, (address.session, address.index), args, parse, resend=False)

    def update(
        self,
        user_id: Id,
        channel_id: Id,
        changes: Mapping[str, Any],
        *,
        remove: Iterable[str] = (),
        expected_version: int | None = None,
        create: bool = True,
        expires_at: datetime | Keep | None = KEEP,
        since_version: int | None = None,
    ) -> Command[int]:
        """Merges top-level keys; gives the new version, 0 if its ``expires_at`` has passed."""
        address = self._place(user_id, channel_id).address
        removed = _names(remove) if remove != () else []
        _check_apart(address, changes, removed, "removed")
        fields = self.codec.encode(changes, max_bytes=self.max_bytes, key=address.name)
        parse = partial(version_of, address.session, expected_version, self.max_bytes)
        return self._merge(address, fields, removed, parse, expected_version, create, expires_at, since_version)

    def update_and_get(
        self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], *, remove: Iterable[str] = (), create: bool = True
    ) -> Command[BotSession | None]:
        """``update`` that gives the session as it is right after; None if its ``expires_at`` has passed."""
        address = self._place(user_id, channel_id).address
        names = _names(remove)
        _check_apart(address, changes, names, "removed")
        fields = self.codec.encode(changes, max_bytes=self.max_bytes, key=address.name)
        parse = partial(merged_of, address, self.codec, self.max_bytes)
        return self._merge(address, fields, names, parse, create=create, modes=b"g")

    def replace(
        self,
        user_id: Id,
        channel_id: Id,
        data: Mapping[str, Any],
        *,
        keep: Iterable[str] = (),
        create: bool = True,
        drop_empty: bool = False,
    ) -> Command[int]:
        """Replaces all top-level keys but those to keep; gives the new version, 0 if the session is removed."""
        address = self._place(user_id, channel_id).address
        names = _names(keep)
        _check_apart(address, data, names, "kept")
        fields = self.codec.encode(data, max_bytes=self.max_bytes, key=address.name)
        parse = partial(version_of, address.session, None, self.max_bytes)
        return self._merge(address, fields, names, parse, create=create, modes=b"re" if drop_empty else b"r")

    def discard(self, user_id: Id, channel_id: Id, names: Iterable[str]) -> Command[int]:
        """Removes top-level keys, and the session with the last of them; gives the new version, 0 if there is no session."""
        address = self._place(user_id, channel_id).address
        parse = partial(version_left, address.session, self.max_bytes)
        return self._merge(address, {}, _names(names), parse, create=False, modes=b"e")

    def save(
        self,
        user_id: Id,
        channel_id: Id,
        changes: Changes,
        *,
        expected_version: int | None = None,
        since_version: int | None = None,
    ) -> Command[int]:
        """``update`` with what is packed already."""
        address = self._place(user_id, channel_id).address
        parse = partial(version_of, address.session, expected_version, self.max_bytes)
        return self._merge(
            address, changes.packed, changes.removed, parse, expected_version, True, changes.expires_at, since_version
        )

    def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> Command[bool]:
        """Renews the rolling TTL (with ``ttl``, until the next write or touch); False if there is no session."""
        place = self._place(user_id, channel_id)
        if ttl is not None:
            return self._touch(place.address, _optional(ttl_to_ms(ttl)))
        if place.touch is None:
            place.touch = self._touch(place.address, self._ttl_ms)
        return place.touch

    def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> Command[bool]:
        """Removes a session; False if there was none."""
        at = self._place(user_id, channel_id).address
        args = (at.member, _version(expected_version))
        parse = partial(was_there, at.session, expected_version)
        # Sent again, a conditional delete would take its own success for a conflict.
        return _script("delete", at.slot, (at.session, at.index), args, parse, resend=expected_version is None)

    def clear(self, user_id: Id) -> Flow[int]:
        """Removes all sessions that the user has at the start; gives how many."""
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
            # The index may list what an operator has deleted by hand, or what has just expired.
            keys = [self.keys.session(user, channel) for channel in batch]
            found = yield [Command("channels", key, slot, (b"EXISTS", key), bool, resend=True) for key in keys]
            live += [channel for channel, is_live in zip(batch, found, strict=True) if is_live]
        return live

    def acquire(self, user_id: Id, channel_id: Id, token: bytes, lease_ms: int) -> Command[float | None]:
        """Takes a lease, or renews the token's own; gives None, or for how many seconds another has it yet."""
        return self._lease("acquire", user_id, channel_id, (token, lease_ms), held_for, resend=True)

    def renew(self, user_id: Id, channel_id: Id, token: bytes, lease_ms: int) -> Command[bool]:
        """Renews a lease; False if it is not the token's any more."""
        return self._lease("renew", user_id, channel_id, (token, lease_ms), partial(was_there, b"", None), resend=True)

    def release(self, user_id: Id, channel_id: Id, token: bytes) -> Command[bool | None]:
        """Gives a lease back; gives whether somebody waits for it, None if it was not the token's any more."""
        # Twice it does no harm, but its own success would look like a lease that was lost.
        return self._lease("release", user_id, channel_id, (token,), is_awaited, resend=False)

    def scan(self, cursor: int) -> Command[tuple[int, list[tuple[str, str]]]]:
        """One step of SCAN over all sessions: the next cursor (0: done) and the (user_id, channel_id) pairs found."""
        pattern = self.keys.pattern
        args = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_COUNT, b"TYPE", b"hash")
        return Command("scan", pattern, 0, args, self._parse_scan, resend=True)

    def address(self, user_id: Id, channel_id: Id) -> Location:
        """Where the session of these two is; raises what ``Keys.locate`` raises."""
        return self._place(user_id, channel_id).address

    def _place(self, user_id: Id, channel_id: Id) -> _Place:
        try:
            return self._places(user_id, channel_id)
        except TypeError:
            # Of something that is not even hashable, this says what it is.
            return self._make_place(user_id, channel_id)

    def _make_place(self, user_id: Id, channel_id: Id) -> _Place:
        return _Place(self.keys.locate(user_id, channel_id))

    def _lease(
        self, name: str, user_id: Id, channel_id: Id, args: tuple[Argument, ...], parse: Callable[[Any], T], *, resend: bool
    ) -> Command[T]:
        at = self._place(user_id, channel_id).address
        return _script(name, at.slot, (self.keys.lease(at.user, at.channel),), args, parse, resend=resend)

    def _hgetall(self, address: Location, parse: Callable[[Any], T]) -> Command[T]:
        return Command("get", address.session, address.slot, (b"HGETALL", address.session), parse, resend=True)

    def _touch(self, at: Location, ttl_ms: Argument) -> Command[bool]:
        parse = partial(was_there, at.session, None)
        return _script("touch", at.slot, (at.session, at.index), (at.member, ttl_ms), parse, resend=True)

    def _merge(
        self,
        address: Location,
        fields: Mapping[bytes, bytes],
        names: Sequence[str],
        parse: Callable[[Any], T],
        expected_version: int | None = None,
        create: bool = True,
        expires_at: datetime | Keep | None = KEEP,
        since_version: int | None = None,
        modes: bytes = b"",
    ) -> Command[T]:
        deadline: Argument = b""
        if expires_at is None:
            deadline = b"-"
        elif expires_at is not KEEP:
            deadline = to_micros(expires_at, "expires_at")
        args: list[Argument] = [
            b"EVALSHA",
            _UPDATE.sha,
            2,
            address.session,
            address.index,
            address.member,
            address.owner,
            self._ttl_ms,
            b"" if expected_version is None else _version(expected_version),
            1 if create and since_version is None else 0,
            b"" if since_version is None else _version(since_version),
            deadline,
            self.max_bytes,
            modes,
            len(names),
        ]
        if names:
            args += [name.encode("utf-8", SURROGATES) for name in names]
        for item in fields.items():
            args += item
        return Command("update", address.session, address.slot, tuple(args), parse, False, _UPDATE, True)

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
    script = BINDINGS[name].script
    args = (b"EVALSHA", script.sha, len(keys), *keys, *args)
    return Command(name, keys[0], slot, args, parse, resend, script, name not in _FLEETING)


def outcome_unknown(
    command: Command[Any], cause: Exception, reason: str = "the connection was lost before the reply"
) -> Exception:
    """What the caller of a write gets when no reply came."""
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


def _names(given: Iterable[str]) -> list[str]:
    if isinstance(given, str | bytes):
        raise TypeError(f"give an iterable of keys, not one {type(given).__name__}: [...]")
    names = list(dict.fromkeys(given))
    for name in names:
        if type(name) is not str:
            raise TypeError(f"the keys to remove or keep must be str, not {type(name).__name__}")
    return names


def _check_apart(address: Location, changes: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    if both := [name for name in names if name in changes]:
        raise ValueError(f"update of session {address.name}: {both[0]!r} is both changed and {what}")
