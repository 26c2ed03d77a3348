"""What replies mean: results, or this package's errors. Nothing here does I/O."""

from __future__ import annotations

import enum
from typing import Any, Final

from .codec import Codec
from .errors import CorruptSession, SessionGone, SessionTooLarge, VersionConflict
from .keys import Address
from .session import BotSession, Loaded
from .times import from_micros

#: The names of the metadata among a session's fields. None is valid UTF-8, so none is a key of the user's.
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


def text_of(key: bytes) -> str:
    """A key, or the name of a field, for messages."""
    return key.decode("utf-8", "backslashreplace")


def session_of(address: Address, codec: Codec, max_bytes: int, reply: Any) -> BotSession | None:
    """The session in the reply to HGETALL; None if there is none. Raises what ``loaded_of`` raises."""
    loaded = loaded_of(address, codec, max_bytes, reply)
    return None if loaded is None else loaded[0]


def loaded_of(address: Address, codec: Codec, max_bytes: int, reply: Any) -> Loaded | None:
    """The session in the reply to HGETALL, and its fields as they are stored; None if there is none.

    Raises:
        CorruptSession: what is there is not the session of this address, or is damaged.
        SessionTooLarge: more than ``max_bytes`` bytes.
    """
    # RESP2 gives a flat list, RESP3 a dict.
    fields: dict[bytes, bytes] = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    if not fields:
        return None
    key = address.session
    take = fields.pop
    if take(OWNER, None) != address.owner:
        raise _corrupt(key, OWNER, "this hash is not the session of this user and channel")
    try:
        version = int(fields[VERSION])
        created_at = from_micros(int(fields[CREATED_AT]))
        updated_at = from_micros(version)
        expires_at = from_micros(int(fields[EXPIRES_AT])) if EXPIRES_AT in fields else None
    except (KeyError, ValueError, OverflowError) as error:
        raise _damage(key, fields) from error
    del fields[VERSION], fields[CREATED_AT]
    take(EXPIRES_AT, None)
    take(BORN, None)
    take(SIZE, None)
    data = codec.decode(fields, max_bytes=max_bytes, key=address.name)
    return BotSession(address.user, address.channel, data, created_at, updated_at, expires_at, version), fields


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


def was_there(key: bytes, expected: int | None, reply: Any) -> bool:
    """Whether there was a session to touch or to delete.

    Raises:
        VersionConflict, CorruptSession: nothing was done.
    """
    status, detail = reply
    if status in (Status.OK, Status.GONE):
        return bool(status == Status.OK)
    raise _refusal(key, expected, status, detail)


def count_of(reply: Any) -> int:
    """How many sessions ``clear`` has removed."""
    return int(reply[1])


def _refusal(key: bytes, expected: int | None, status: int, detail: Any) -> Exception:
    name = text_of(key)
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
    name, label = text_of(key), text_of(field)
    return CorruptSession(f"session {name}: field {label}: {reason}; delete the session, or set it anew", key=name, field=label)


def _damage(key: bytes, fields: dict[bytes, bytes]) -> CorruptSession:
    """Which of the fields is no time, and why."""
    for field in (VERSION, CREATED_AT, EXPIRES_AT):
        if field not in fields and field != EXPIRES_AT:
            return _corrupt(key, field, "it is missing")
        try:
            from_micros(int(fields[field]))
        except ValueError:
            return _corrupt(key, field, "it is not a number")
        except OverflowError:
            break
    return _corrupt(key, field, "it is not a time")
