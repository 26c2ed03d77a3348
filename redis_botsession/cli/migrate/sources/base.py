"""The interface of a source, and parsers for what sources have in common. Nothing here does I/O."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

#: What a key without a TTL answers to PTTL; a key that is not there: -2.
NO_TTL: Final = -1
_GLOB: Final = re.compile(r"[*?\[\]\\^]")


class NotUnderstood(ValueError):
    """A key does not fit the given layout, or fits it in several ways. The message does not hold the key."""


class Unreadable(ValueError):
    """A value was not written by the source's library. The message says why, and holds no part of the value."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Keys of the source that belong together: they are read and deleted at once.

    Attributes:
        keys: The keys, some of which may not exist.
        user_id: The user, if the keys name one.
        channel_id: The channel, if the keys name one.
    """

    keys: tuple[bytes, ...]
    user_id: str = ""
    channel_id: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The content of a key of the source.

    Attributes:
        value: The reply to the source's ``command``, an error if the key is of another type; None, or a list of None, if there
            is nothing.
        ttl_ms: The reply to PTTL.
    """

    value: Any
    ttl_ms: int

    @property
    def exists(self) -> bool:
        """Whether the key existed."""
        return self.value is not None and self.ttl_ms >= NO_TTL


@dataclass(slots=True)
class Record:
    """A session to write to the target.

    Attributes:
        user_id: The user.
        channel_id: The channel.
        data: The top-level keys.
        ttl_ms: How long it lives from when it was read, unless it has ``expires_at``; None: without end.
        created_at: When it was created; None: not known.
        expires_at: The session's own deadline.
    """

    user_id: str
    channel_id: str
    data: dict[str, Any]
    ttl_ms: int | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None


class Source(ABC):
    """A source: how a library stores its sessions.

    Attributes:
        name: What it is called on the command line.
        pattern: MATCH pattern of its keys.
        command: What reads the value of a key: the name, and what stands after the key.
        kind: The type of key that this reads, for messages.
    """

    name: str
    pattern: bytes
    command: tuple[str, ...] = ("GET",)
    kind: str = "string"

    @abstractmethod
    def unit_of(self, key: str) -> Unit | None:
        """The unit that a key belongs to; None if it is not to be migrated.

        Raises:
            NotUnderstood: the key has another shape.
        """

    @abstractmethod
    def records(self, unit: Unit, found: Sequence[Found]) -> list[Record]:
        """The sessions in a unit.

        Args:
            unit: As ``unit_of`` gave it.
            found: What its keys hold, in the same order; at least one exists.

        Raises:
            NotUnderstood: the values do not belong to the key.
            Unreadable: the values are none of this library's.
        """


def literal(text: str) -> bytes:
    """A glob pattern that matches exactly ``text``."""
    return _GLOB.sub(r"\\\g<0>", text).encode("utf-8", "surrogatepass")


def text_in(value: bytes, what: str) -> str:
    """The text of a value.

    Raises:
        Unreadable: it is not UTF-8.
    """
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"{what} is no UTF-8") from None


def json_in(value: bytes, what: str) -> dict[str, Any]:
    """The JSON object in a value.

    Raises:
        Unreadable: it is something else.
    """
    text = text_in(value, what)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"{what} is no JSON: {error.msg}, at character {error.pos}") from None
    except (ValueError, RecursionError):
        raise Unreadable(f"{what} is JSON that Python cannot read: a number is too long, or it is nested too deep") from None
    return object_in(data, what)


def object_in(value: Any, what: str) -> dict[str, Any]:
    """``value``, if it is a JSON object.

    Raises:
        Unreadable: it is something else.
    """
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is no JSON object, but {type(value).__name__}")
    return value


def longest(found: Sequence[Found]) -> int | None:
    """The longest TTL in milliseconds among the keys that exist; None if one of them has no TTL."""
    lives = [each.ttl_ms for each in found if each.exists]
    return None if NO_TTL in lives else max(lives)
