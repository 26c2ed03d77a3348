"""The layout of the Redis example in the documentation of @igniter-js/bot: JSON at ``{prefix}{userId}:{channelId}``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from .base import Found, NotUnderstood, Record, Source, Unit, Unreadable, json_in, literal, longest, object_in

_FIELDS: Final = {"userId", "channelId", "data", "createdAt", "updatedAt", "expiresAt"}


class JsonSource(Source):
    """Sessions stored as JSON, one key for each.

    Args:
        prefix: What the keys begin with.
    """

    name = "json"

    def __init__(self, *, prefix: str = "bot:session:") -> None:
        self._prefix = prefix
        self.pattern = literal(prefix) + b"*"

    def unit_of(self, key: str) -> Unit | None:
        if ":" not in key.removeprefix(self._prefix):
            raise NotUnderstood(f"it is not of the shape {self._prefix}userId:channelId")
        return Unit((key.encode("utf-8", "surrogatepass"),))

    def records(self, unit: Unit, found: Sequence[Found]) -> list[Record]:
        session = json_in(found[0].value, "the session")
        user, channel = _id(session, "userId"), _id(session, "channelId")
        # (a:b, c) and (a, b:c) share a key; only the JSON names the user and the channel.
        if f"{self._prefix}{user}:{channel}".encode("utf-8", "surrogatepass") != unit.keys[0]:
            raise NotUnderstood("it holds the session of another userId and channelId")
        if unknown := session.keys() - _FIELDS:
            raise Unreadable(f"the session has {len(unknown)} fields that are none of a session's; put them into its data")
        return [
            Record(
                user,
                channel,
                object_in(session.get("data"), "its data"),
                longest(found),
                _time(session, "createdAt"),
                _time(session, "expiresAt"),
            )
        ]


def _id(session: dict[str, Any], name: str) -> str:
    value = session.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Unreadable(f"its {name} is no id")
    return str(value)


def _time(session: dict[str, Any], name: str) -> datetime | None:
    value = session.get(name)
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        time = None
    if time is None or time.utcoffset() is None:
        raise Unreadable(f"its {name} is no time with a time zone")
    return time
