"""Parses replies: into results, or into this package's errors. Nothing here does I/O."""

from __future__ import annotations

import enum
import re
from itertools import chain
from typing import Any, Final

from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from .._codec.codec import Codec
from .._session.record import BotSession, Loaded
from .._session.times import from_micros
from ..errors import CorruptSession, SessionGone, SessionTooLarge, VersionConflict
from .layout import BORN, CREATED_AT, EXPIRES_AT, OWNER, SIZE, VERSION, Location

_FIRST: Final = [VERSION, SIZE, CREATED_AT, OWNER]


#: "Error running script (call to f_...): @user_script:7: @user_script: 7: -READONLY You can't write ..."
_IN_SCRIPT: Final = re.compile(r"^Error running script .*: -?(READONLY|OOM) (.*)", re.DOTALL)
_KINDS: Final = {"READONLY": ReadOnlyError, "OOM": OutOfMemoryError}


class Status(enum.IntEnum):
    """The status that every script returns as the first item of its reply."""

    OK = 1
    REMOVED = 2
    CONFLICT = -1
    GONE = -2
    TOO_LARGE = -3
    CORRUPT = -4
    HELD = -5


def text_of(key: bytes) -> str:
    """A key or the name of a field as text, for messages."""
    return key.decode("utf-8", "backslashreplace")


def naming_key(error: Exception, key: bytes) -> Exception:
    """The error to raise for a command about ``key``: Redis does not name the key whose type is wrong, so this does."""
    if type(error) is not ResponseError or "WRONGTYPE" not in str(error):
        return error
    named = ResponseError(
        f"{error} (the key is {text_of(key)}, or the index of its user: another program has written it. "
        "Give the bot a prefix of its own, or delete the key)"
    )
    named.__cause__ = error
    return named


def error_of(reply: Exception) -> Exception:
    """An error reply as its own class: Redis 6.2 reports it, inside a script, as the text of a generic error."""
    if type(reply) is ResponseError and (inner := _IN_SCRIPT.search(str(reply))):
        code, text = inner.groups()
        if kind := _KINDS.get(code):
            error = kind(text)
            error.__cause__ = reply
            return error
    return reply


def loaded_of(address: Location, codec: Codec, max_bytes: int, reply: Any) -> Loaded | None:
    """The session in the reply to HGETALL; None if there is none.

    Raises:
        CorruptSession: the hash is not the session of this location, or is damaged.
        SessionTooLarge: more than ``max_bytes`` bytes.
    """
    # A RESP2 reply is a flat list, a RESP3 reply is a dict.
    flat: list[bytes] = reply if type(reply) is list else [*chain.from_iterable(reply.items())]
    if not flat:
        return None
    names, packed = flat[::2], flat[1::2]
    version: bytes | None
    created: bytes | None
    owner: bytes | None
    expires: bytes | None
    if names[:4] == _FIRST and BORN not in names and EXPIRES_AT not in names:
        # The order in which the scripts write the fields. A hash that has become a table returns them in any order.
        version, _, created, owner, expires = *packed[:4], None
        del names[:4], packed[:4]
    else:
        fields = dict(zip(names, packed, strict=True))
        version, created, owner, expires = map(fields.get, (VERSION, CREATED_AT, OWNER, EXPIRES_AT))
        for name in (VERSION, CREATED_AT, OWNER, EXPIRES_AT, BORN, SIZE):
            fields.pop(name, None)
        names, packed = list(fields), list(fields.values())
    if owner != address.owner:
        raise _corrupt(address.session, OWNER, "this hash is not the session of this user and channel")
    if version is None or created is None:
        raise _corrupt(address.session, VERSION if version is None else CREATED_AT, "it is missing")
    try:
        number = int(version)
        created_at = from_micros(int(created))
        updated_at = from_micros(number)
        expires_at = None if expires is None else from_micros(int(expires))
    except (ValueError, OverflowError) as error:
        raise _damage(address.session, {VERSION: version, CREATED_AT: created, EXPIRES_AT: expires}) from error
    data = codec.decode_lists(names, packed, max_bytes=max_bytes, key=address.name)
    session = BotSession(address.user, address.channel, data, created_at, updated_at, expires_at, number)
    return Loaded(session, names, packed)


def version_of(key: bytes, expected: int | None, max_bytes: int, reply: Any) -> int:
    """The version that a write made; 0 if it removed the session.

    Raises:
        VersionConflict, SessionGone, SessionTooLarge, CorruptSession: nothing was written.
    """
    status, detail = reply
    if status == Status.OK:
        return int(detail)
    if status == Status.REMOVED:
        return 0
    if status == Status.TOO_LARGE:
        raise SessionTooLarge(
            f"session {text_of(key)} would take {detail:,} bytes, of at most {max_bytes:,}; "
            "remove keys from it, or raise max_bytes",
            key=text_of(key),
            size=detail,
            limit=max_bytes,
        )
    raise _refusal(key, expected, status, detail)


def written_of(address: Location, expected: int | None, codec: Codec, max_bytes: int, reply: Any) -> Loaded | None:
    """The session as a write left it; None if the write removed it.

    Raises:
        VersionConflict, SessionGone, SessionTooLarge, CorruptSession: nothing was written.
        CorruptSession, SessionTooLarge: also after the write was applied, if the session does not decode or is still too large.
    """
    if version_of(address.session, expected, max_bytes, reply[:2]) == 0:
        return None
    return loaded_of(address, codec, max_bytes, reply[2])


def was_there(key: bytes, expected: int | None, reply: Any) -> bool:
    """Whether there was a session to touch or to delete.

    Raises:
        VersionConflict, CorruptSession: nothing was done.
    """
    status, detail = reply
    if status in (Status.OK, Status.GONE):
        return bool(status == Status.OK)
    raise _refusal(key, expected, status, detail)


def held_for(reply: Any) -> float | None:
    """Seconds until the lease of another holder expires; None if the lease was acquired."""
    status, ms = reply
    return ms / 1000 if status == Status.HELD else None


def is_awaited(reply: Any) -> bool | None:
    """Whether there are waiters for the lease that was released; None if it was not held any more."""
    status, waiting = reply
    return bool(waiting) if status == Status.OK else None


def count_of(reply: Any) -> int:
    """How many sessions ``clear`` has removed."""
    return int(reply[1])


def _refusal(key: bytes, expected: int | None, status: int, detail: Any) -> Exception:
    name = text_of(key)
    if status == Status.CONFLICT and expected is not None:
        now = f"is at version {detail}" if detail else "does not exist"
        return VersionConflict(
            f"session {name} {now}, expected was {expected}; nothing was written. "
            "Load it again and decide again, or use modify()",
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
    name, label = text_of(key), text_of(field)
    return CorruptSession(
        f"session {name}: field {label}: {reason}; delete the session, or replace it with set()", key=name, field=label
    )


def _damage(key: bytes, times: dict[bytes, bytes | None]) -> CorruptSession:
    """The error for the first of these fields that is no time."""
    for field, raw in times.items():
        try:
            from_micros(int(raw or 0))
        except ValueError:
            return _corrupt(key, field, "it is not a number")
        except OverflowError:
            break
    return _corrupt(key, field, "it is not a time")
