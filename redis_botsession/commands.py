"""Each operation as the arguments of a Redis command and a reader of its reply. Nothing here does I/O.

What takes several round trips is a generator: it yields the commands of one round trip and is sent their results.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, TypeVar

from .codec import Codec
from .errors import CorruptSession, SessionGone, SessionTooLarge, VersionConflict
from .keys import Id, Keys, channel_of, member, normal_id, owner_tag
from .scripts import Script, load
from .session import KEEP, BotSession, Keep
from .times import TTL, from_micros, to_micros, ttl_to_ms

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Argument = bytes | int
#: A round trip at a time: yields commands, is sent their results in the same order.
Flow = Generator[Sequence["Command[Any]"], list[Any], T]

#: Sessions removed by one script of ``clear``; the server answers nobody else meanwhile.
CLEAR_BATCH: Final = 500
#: How many keys SCAN looks at in one round trip.
SCAN_COUNT: Final = 1000
#: EXISTS calls in one round trip of ``channels``.
EXISTS_BATCH: Final = 1000

VERSION: Final = b"\xffv"
CREATED_AT: Final = b"\xffc"
BORN: Final = b"\xffb"
EXPIRES_AT: Final = b"\xffe"
OWNER: Final = b"\xffo"
SIZE: Final = b"\xffs"


class Status(enum.IntEnum):
    """The first item of every script's reply."""

    OK = 1
    REMOVED = 2
    CONFLICT = -1
    GONE = -2
    TOO_LARGE = -3
    CORRUPT = -4


@dataclass(frozen=True, slots=True)
class Binding:
    """A script and the names of what it is given, in order; the header of the script says the same (a test holds that).

    The last name of ``keys`` or ``args`` stands for as many as are left if it ends in "...".
    """

    script: Script
    keys: tuple[str, ...]
    args: tuple[str, ...]


BINDINGS: Final = {
    name: Binding(load(name), keys, args)
    for name, keys, args in (
        (
            "update",
            ("session", "index"),
            (
                "member",
                "owner",
                "ttl_ms",
                "expected_version",
                "create",
                "since_version",
                "expires_at",
                "max_bytes",
                "removed",
                "fields...",
            ),
        ),
        (
            "set",
            ("session", "index"),
            ("member", "owner", "ttl_ms", "expected_version", "created_at", "expires_at", "size", "fields..."),
        ),
        ("touch", ("session", "index"), ("member", "ttl_ms")),
        ("delete", ("session", "index"), ("member", "expected_version")),
        ("clear", ("index", "sessions..."), ("members...",)),
    )
}


@dataclass(frozen=True, slots=True)
class Command(Generic[T_co]):
    """One Redis command.

    Attributes:
        name: The operation, for messages.
        key: The Redis key that it is about (and that decides its slot).
        args: What to send.
        parse: From the reply (RESP2 or RESP3, not decoded) to the result; raises this package's errors.
        resend: Whether it does no harm to send it again when the connection was lost before the reply.
        script: The script that ``args`` calls with EVALSHA, for a server that does not know it yet.
    """

    name: str
    key: bytes
    args: tuple[Argument, ...]
    parse: Callable[[Any], T_co]
    resend: bool
    script: Script | None = None

    def with_source(self) -> tuple[Argument, ...]:
        """``args`` as EVAL: runs the script and makes it known to the server, in one go."""
        if self.script is None:
            raise ValueError(f"{self.name} calls no script")
        return (b"EVAL", self.script.source, *self.args[2:])


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

    def get(self, user_id: Id, channel_id: Id) -> Command[BotSession | None]:
        """Loads a session; None if there is none."""
        user, channel, key, _ = self._locate(user_id, channel_id)
        return Command("get", key, (b"HGETALL", key), partial(self._parse_session, user, channel, key), resend=True)

    def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> Command[int]:
        """Replaces a session as a whole; gives its new version, 0 if its ``expires_at`` has passed."""
        user, channel, key, index = self._locate(user_id, channel_id)
        if not isinstance(session, BotSession):
            raise TypeError(f"session must be a BotSession, not {type(session).__name__}")
        theirs = normal_id(session.user_id, "session.user_id"), normal_id(session.channel_id, "session.channel_id")
        if theirs != (user, channel):
            raise ValueError(
                f"session {_text(key)} cannot be set from one of another user or channel, {theirs!r}; "
                "make a copy with dataclasses.replace"
            )
        expected = _version(expected_version)
        created_at = to_micros(session.created_at, "created_at")
        expires_at = _optional(None if session.expires_at is None else to_micros(session.expires_at, "expires_at"))
        fields = self.codec.encode(session.data, max_bytes=self.max_bytes, key=_text(key))
        size = sum(map(len, fields)) + sum(map(len, fields.values()))
        args = (member(channel), owner_tag(key), self._ttl_ms, expected, created_at, expires_at, size, *_flat(fields))
        return self._script("set", (key, index), args, partial(self._parse_write, key, expected_version), resend=False)

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
        _, channel, key, index = self._locate(user_id, channel_id)
        expected = _version(expected_version)
        since = _version(since_version)
        deadline: Argument = b""
        if expires_at is None:
            deadline = b"-"
        elif expires_at is not KEEP:
            deadline = to_micros(expires_at, "expires_at")
        removed = _names(remove)
        if both := [name for name in removed if name in changes]:
            raise ValueError(f"update of session {_text(key)}: {both[0]!r} is both changed and removed")
        fields = self.codec.encode(changes, max_bytes=self.max_bytes, key=_text(key))
        args = (
            member(channel),
            owner_tag(key),
            self._ttl_ms,
            expected,
            int(create and since_version is None),
            since,
            deadline,
            self.max_bytes,
            len(removed),
            *(name.encode("utf-8", "surrogatepass") for name in removed),
            *_flat(fields),
        )
        return self._script("update", (key, index), args, partial(self._parse_write, key, expected_version), resend=False)

    def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> Command[bool]:
        """Renews the rolling TTL (with ``ttl``, until the next write or touch); False if there is no session."""
        _, channel, key, index = self._locate(user_id, channel_id)
        ttl_ms = self._ttl_ms if ttl is None else _optional(ttl_to_ms(ttl))
        return self._script("touch", (key, index), (member(channel), ttl_ms), self._parse_found, resend=True)

    def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> Command[bool]:
        """Removes a session; False if there was none."""
        _, channel, key, index = self._locate(user_id, channel_id)
        args = (member(channel), _version(expected_version))
        parse = partial(self._parse_delete, key, expected_version)
        # Sent again, a conditional delete would take its own success for a conflict.
        return self._script("delete", (key, index), args, parse, resend=expected_version is None)

    def clear(self, user_id: Id) -> Flow[int]:
        """Removes all sessions that the user has at the start; gives how many."""
        user = normal_id(user_id, "user_id")
        index = self.keys.index(user)
        (members,) = yield [self._members(index)]
        total = 0
        for first in range(0, len(members), CLEAR_BATCH):
            batch = members[first : first + CLEAR_BATCH]
            keys = (index, *(self.keys.session(user, channel_of(item)) for item in batch))
            (count,) = yield [self._script("clear", keys, batch, _second, resend=True)]
            total += count
        return total

    def channels(self, user_id: Id) -> Flow[list[str]]:
        """The channels in which the user has a live session."""
        user = normal_id(user_id, "user_id")
        (members,) = yield [self._members(self.keys.index(user))]
        channels = [channel_of(item) for item in members]
        live: list[str] = []
        for first in range(0, len(channels), EXISTS_BATCH):
            batch = channels[first : first + EXISTS_BATCH]
            # The index may list what an operator has deleted by hand, or what has just expired.
            found = yield [self._exists(self.keys.session(user, channel)) for channel in batch]
            live += [channel for channel, is_live in zip(batch, found, strict=True) if is_live]
        return live

    def scan(self, cursor: int) -> Command[tuple[int, list[tuple[str, str]]]]:
        """One step of SCAN over all sessions: the next cursor (0: done) and the (user_id, channel_id) pairs found."""
        pattern = self.keys.pattern
        args = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_COUNT, b"TYPE", b"hash")
        return Command("scan", pattern, args, self._parse_scan, resend=True)

    def _locate(self, user_id: Id, channel_id: Id) -> tuple[str, str, bytes, bytes]:
        user = normal_id(user_id, "user_id")
        channel = normal_id(channel_id, "channel_id")
        return user, channel, self.keys.session(user, channel), self.keys.index(user)

    def _script(
        self,
        name: str,
        keys: tuple[bytes, ...],
        args: Iterable[Argument],
        parse: Callable[[Any], T],
        *,
        resend: bool,
    ) -> Command[T]:
        script = BINDINGS[name].script
        return Command(name, keys[0], (b"EVALSHA", script.sha, len(keys), *keys, *args), parse, resend, script)

    def _members(self, index: bytes) -> Command[list[bytes]]:
        return Command("index", index, (b"ZRANGE", index, 0, -1), list, resend=True)

    def _exists(self, key: bytes) -> Command[bool]:
        return Command("exists", key, (b"EXISTS", key), bool, resend=True)

    def _parse_scan(self, reply: Any) -> tuple[int, list[tuple[str, str]]]:
        cursor, keys = reply
        return int(cursor), [ids for ids in map(self.keys.ids, keys) if ids is not None]

    def _parse_session(self, user: str, channel: str, key: bytes, reply: Any) -> BotSession | None:
        # RESP2 gives a flat list, RESP3 a dict.
        fields: dict[bytes, bytes] = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
        if not fields:
            return None
        owner = fields.pop(OWNER, None)
        if owner != owner_tag(key):
            raise _corrupt(key, OWNER, "this hash is not the session of this user and channel")
        version = _number(fields.pop(VERSION, None), key, VERSION)
        created_at = _instant(fields.pop(CREATED_AT, None), key, CREATED_AT)
        expires = fields.pop(EXPIRES_AT, None)
        fields.pop(BORN, None)
        fields.pop(SIZE, None)
        return BotSession(
            user_id=user,
            channel_id=channel,
            data=self.codec.decode(fields, max_bytes=self.max_bytes, key=_text(key)),
            created_at=created_at,
            updated_at=_instant(version, key, VERSION),
            expires_at=None if expires is None else _instant(expires, key, EXPIRES_AT),
            version=version,
        )

    def _parse_write(self, key: bytes, expected: int | None, reply: Any) -> int:
        status, detail = reply
        if status == Status.OK:
            return int(detail)
        if status == Status.REMOVED:
            return 0
        if status == Status.TOO_LARGE:
            raise SessionTooLarge(
                f"session {_text(key)} would take {detail:,} bytes, of at most {self.max_bytes:,}; "
                "remove keys from it, or raise max_bytes",
                key=_text(key),
                size=detail,
                limit=self.max_bytes,
            )
        raise _refusal(key, expected, status, detail)

    def _parse_found(self, reply: Any) -> bool:
        return bool(reply[0] == Status.OK)

    def _parse_delete(self, key: bytes, expected: int | None, reply: Any) -> bool:
        status, detail = reply
        if status in (Status.OK, Status.GONE):
            return bool(status == Status.OK)
        raise _refusal(key, expected, status, detail)


def _refusal(key: bytes, expected: int | None, status: int, detail: Any) -> Exception:
    name = _text(key)
    if status == Status.CONFLICT and expected is not None:
        now = f"is at version {detail}" if detail else "does not exist"
        return VersionConflict(
            f"session {name} {now}, expected was {expected}; nothing was written. "
            "Load it again and decide anew, or use modify()",
            key=name,
            expected=expected,
            actual=detail,
        )
    if status == Status.GONE:
        return SessionGone(
            f"session {name} was deleted or has expired since it was loaded; nothing was written. "
            "Load it again to start a new one",
            key=name,
        )
    if status == Status.CORRUPT:
        return _corrupt(key, detail, "this hash was not written by this package, or was damaged")
    return RuntimeError(f"session {name}: a script answered {status!r}, {detail!r}; this is a bug, please report it")


def _corrupt(key: bytes, field: bytes, reason: str) -> CorruptSession:
    name, label = _text(key), _text(field)
    return CorruptSession(f"session {name}: field {label}: {reason}; delete the session, or set it anew", key=name, field=label)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def _number(raw: bytes | None, key: bytes, field: bytes) -> int:
    if raw is None:
        raise _corrupt(key, field, "it is missing")
    try:
        return int(raw)
    except ValueError as error:
        raise _corrupt(key, field, "it is not a number") from error


def _instant(raw: bytes | int | None, key: bytes, field: bytes) -> datetime:
    micros = raw if isinstance(raw, int) else _number(raw, key, field)
    try:
        return from_micros(micros)
    except OverflowError as error:
        raise _corrupt(key, field, "it is not a time") from error


def _second(reply: Any) -> int:
    return int(reply[1])


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


def _names(remove: Iterable[str]) -> list[str]:
    if isinstance(remove, str | bytes):
        raise TypeError(f"remove must be an iterable of keys, not one {type(remove).__name__}; write remove=[...]")
    names = list(dict.fromkeys(remove))
    for name in names:
        if type(name) is not str:
            raise TypeError(f"the keys to remove must be str, not {type(name).__name__}")
    return names


def _flat(fields: Mapping[bytes, bytes]) -> Iterable[bytes]:
    for item in fields.items():
        yield from item
