"""The warning for a deprecated function."""

from __future__ import annotations

import warnings

import pytest

from redis_botsession._deprecation import deprecated


@deprecated(since="0.2", removed_in="0.3", instead="new_sum")
def old_sum(*numbers: int, start: int = 0) -> int:
    """Adds numbers."""
    return sum(numbers, start)


def test_deprecated_warns_at_the_line_of_the_caller() -> None:
    with pytest.warns(
        DeprecationWarning, match=r"old_sum is deprecated since redis-botsession 0\.2 and goes in 0\.3; use new_sum"
    ) as caught:
        assert old_sum(1, 2, start=3) == 6
    assert caught[0].filename == __file__


def test_deprecated_keeps_name_and_docstring() -> None:
    assert old_sum.__name__ == "old_sum"
    assert old_sum.__doc__ == "Adds numbers."


def test_deprecated_says_nothing_before_it_is_called() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deprecated(since="0.2", removed_in="0.3", instead="new_sum")(sum)
