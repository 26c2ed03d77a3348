"""Instants as microseconds since 1970 (the unit of everything stored) and TTLs as milliseconds (the unit of Redis)."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)
# The scores of the index are doubles, which are exact below 2^53. Half of that leaves room for "now + ttl".
_LONGEST_TTL_MS = 2**52
# Up to here (the year 2242) seconds as a double are exact to less than half a microsecond, so fromtimestamp can be used,
# which takes a third of the time.
_EXACT = 2**33 * 1_000_000

#: Seconds; a day.
DEFAULT_TTL = 86_400

TTL = int | float | timedelta | None


def to_micros(when: datetime, name: str) -> int:
    """Microseconds from 1970 to ``when``.

    Raises:
        TypeError: ``when`` is not a datetime.
        ValueError: ``when`` is naive: it names no instant.
    """
    if not isinstance(when, datetime):
        raise TypeError(f"{name} must be an aware datetime, not {type(when).__name__}")
    if when.utcoffset() is None:
        raise ValueError(f"{name} must be an aware datetime; use datetime.now(timezone.utc) or give it a tzinfo")
    return (when - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime that is ``micros`` microseconds after 1970."""
    if 0 <= micros < _EXACT:
        return datetime.fromtimestamp(micros / 1_000_000, UTC)
    return EPOCH + timedelta(microseconds=micros)


def ttl_to_ms(ttl: TTL) -> int | None:
    """Milliseconds of ``ttl`` (seconds, or a timedelta), rounded up; None means no expiry.

    Raises:
        TypeError: ``ttl`` is something else.
        ValueError: ``ttl`` is not positive, not finite, or longer than Redis can count.
    """
    if ttl is None:
        return None
    if isinstance(ttl, timedelta):
        ms: float = -(ttl // -_MILLISECOND)
    elif isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise TypeError(f"ttl must be seconds (int or float), a timedelta or None, not {type(ttl).__name__}")
    else:
        ms = ttl * 1000
    if not 0 < ms < _LONGEST_TTL_MS:
        raise ValueError(f"ttl must be positive and finite, not {ttl!r}")
    return math.ceil(ms)
