"""What replies mean: results, or this package's errors. Nothing here does I/O."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any, Final

from .codec import Codec
from .errors import CorruptSession, SessionGone, SessionTooLarge, VersionConflict
from .keys import Address
from .session import BotSession
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
    """The session in the reply to HGETALL; None if there is none.

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
    version = _number(take(VERSION, None), key, VERSION)
    created_at = _instant(_number(take(CREATED_AT, None), key, CREATED_AT), key, CREATED_AT)
    expires = take(EXPIRES_AT, None)
    take(BORN, None)
    take(SIZE, None)
    return BotSession(
        address.user,
        address.channel,
        codec.decode(fields, max_bytes=max_bytes, key=text_of(key)),
        created_at,
        _instant(version, key, VERSION),
        None if expires is None else _instant(_number(expires, key, EXPIRES_AT), key, EXPIRES_AT),
        version,
    )


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


def _number(raw: bytes | None, key: bytes, field: bytes) -> int:
    if raw is None:
        raise _corrupt(key, field, "it is missing")
    try:
        return int(raw)
    except ValueError as error:
        raise _corrupt(key, field, "it is not a number") from error


def _instant(micros: int, key: bytes, field: bytes) -> datetime:
    try:
        return from_micros(micros)
    except OverflowError as error:
        raise _corrupt(key, field, "it is not a time") from error
