"""Marks a function or class as deprecated, as the page on stability promises."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def deprecated(*, since: str, removed_in: str, instead: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a function that warns its caller with ``DeprecationWarning`` at each call.

    Args:
        since: The release that deprecates it, such as "0.2".
        removed_in: The first release without it, one minor release later at least.
        instead: What to use instead, such as "SessionStore.replace".
    """

    def mark(function: Callable[P, T]) -> Callable[P, T]:
        message = (
            f"{function.__qualname__} is deprecated since redis-botsession {since} and goes in {removed_in}; use {instead}"
        )

        @wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> T:
            # 2: the line of the caller.
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return function(*args, **options)

        return call

    return mark
