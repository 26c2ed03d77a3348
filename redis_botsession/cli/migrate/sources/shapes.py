"""Takes keys apart that are ids with a separator between them, some of which may be missing. No guesses: what can be read in
two ways is reported, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .base import NotUnderstood

#: An id of Telegram's, as Python writes it.
NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,19}")
#: Ids of bots and of topics are never negative.
POSITIVE: Final = re.compile(r"[1-9][0-9]{0,19}")
#: A business connection: Telegram gives some thirty characters of base64, which are never just a number.
BUSINESS: Final = re.compile(r"(?!-?[0-9]+\Z)[A-Za-z0-9_=+/-]+")
#: More separators in a key than that are not looked at: the ways to read it would be too many.
_MOST: Final = 24


@dataclass(frozen=True, slots=True)
class Field:
    """One id in a key.

    Attributes:
        name: What it is.
        pattern: What it looks like.
        is_optional: Whether the key leaves it out where there is none.
    """

    name: str
    pattern: re.Pattern[str]
    is_optional: bool = False


def read_key(key: str, prefix: str, separator: str, fields: Sequence[Field], advice: str) -> dict[str, str]:
    """The ids in a key, by the names of their fields.

    Args:
        key: The key.
        prefix: What it begins with, before the first separator.
        separator: What stands between the ids; not empty.
        fields: The ids, in order.
        advice: What to say where a key can be read in several ways.

    Raises:
        NotUnderstood: it cannot be read, or in several ways.
    """
    start = prefix + separator
    if not key.startswith(start) or key.count(separator) > _MOST:
        raise NotUnderstood(_shape(prefix, separator, fields))
    readings = list(_readings(key.removeprefix(start), separator, fields))
    if not readings:
        raise NotUnderstood(_shape(prefix, separator, fields))
    if len(readings) > 1:
        raise NotUnderstood(f"it can be read in {len(readings)} ways{advice}")
    return readings[0]


def _readings(text: str | None, separator: str, fields: Sequence[Field]) -> Iterator[dict[str, str]]:
    """All ways to read ``text`` as ``fields``. None: no text is left."""
    if not fields:
        if text is None:
            yield {}
        return
    field, rest = fields[0], fields[1:]
    if field.is_optional:
        yield from _readings(text, separator, rest)
    if text is None:
        return
    for value, left in _cuts(text, separator):
        if field.pattern.fullmatch(value):
            for reading in _readings(left, separator, rest):
                yield {field.name: value, **reading}


def _cuts(text: str, separator: str) -> Iterator[tuple[str, str | None]]:
    """All ways to split a text at a separator, and at last (text, None): a separator may also be part of an id."""
    at = text.find(separator)
    while at >= 0:
        yield text[:at], text[at + len(separator) :]
        at = text.find(separator, at + 1)
    yield text, None


def _shape(prefix: str, separator: str, fields: Sequence[Field]) -> str:
    names = separator.join([prefix, *(f"[{field.name}]" if field.is_optional else field.name for field in fields)])
    return f"it is not of the shape {names}"
