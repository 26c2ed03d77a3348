"""Instants: microseconds and datetimes are the same moment, to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_botsession._session.times import from_micros, to_micros

FIRST = to_micros(datetime.min.replace(tzinfo=UTC), "first")
LAST = to_micros(datetime.max.replace(tzinfo=UTC), "last")
#: From here on a double no longer tells microseconds apart (2242).
FAR = 2**33 * 1_000_000


@given(st.integers(FIRST, LAST) | st.integers(0, FAR) | st.integers(FAR - 10**9, FAR + 10**9))
@example(0)
@example(FAR - 1)
@example(FAR)
@example(FIRST)
@example(LAST)
def test_times_microseconds_and_back(micros: int) -> None:
    when = from_micros(micros)
    assert when.tzinfo is UTC
    assert to_micros(when, "when") == micros


@pytest.mark.parametrize("micros", [FIRST - 1, LAST + 1, -(2**60), 10**30])
def test_times_what_is_no_time_overflows(micros: int) -> None:
    with pytest.raises(OverflowError):
        from_micros(micros)
