"""What the tests of the contract are made with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from .._session.record import BotSession
from .._store.base import BotSessionStore

#: Seconds within which what must happen has happened, on the slowest machine.
PATIENCE = 30.0
HOUR = timedelta(hours=1)

#: Ids that a naive key would confuse, or read as a pattern.
ODD_IDS = (
    "1",
    "1:2",
    "2",
    "*",
    "?",
    "[12]",
    "{1}",
    "}",
    "{",
    "%",
    "%31",
    "1%3A2",
    ":",
    "::",
    " ",
    "\n",
    "\x00",
    "~",
    "a\\b",
    "ключ",
    "🤖",
    "e\u0301",
    "\u00e9",
    "\ud800",
    "x" * 10_240,
)

#: Values of every type that a store keeps.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    2**64,
    -(2**200),
    0.0,
    -0.0,
    1.5,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "text",
    "\x00\n🤖",
    b"",
    b"\xff\x00",
    [],
    [1, [2, []]],
    (),
    (1, (2, ()), [3]),
    {},
    {"a": 1, 2: "b", b"c": [None], "": {}},
    set(),
    {1, "a", (2, 3), frozenset({4})},
    frozenset(),
    frozenset({b"x", 1.5}),
    datetime(2026, 11, 22, 12, 30, 15, 123456, tzinfo=UTC),
    datetime(2026, 11, 22, 12, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    datetime(1, 1, 1),  # noqa: DTZ001 - naive on purpose
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    date(2026, 2, 28),
    date.min,
    time(23, 59, 59, 999999),
    time(1, 2, tzinfo=UTC),
    timedelta(days=-1, microseconds=1),
    timedelta.max,
    Decimal("1.10"),
    Decimal("-0"),
    Decimal("sNaN"),
    Decimal("Infinity"),
    UUID(int=7),
)


def check(**options: Any) -> Callable[[Callable[[Any, Any], Awaitable[None]]], Callable[[Any], None]]:
    """Makes a test of a coroutine function that takes a store made with ``options``."""

    def decorate(test: Callable[[Any, Any], Awaitable[None]]) -> Callable[[Any], None]:
        def run(self: Harness) -> None:
            async def with_store() -> None:
                store = self.make_store(**options)
                try:
                    await asyncio.wait_for(cast("Any", test(self, store)), 4 * PATIENCE)
                finally:
                    await self.dispose(store)

            asyncio.run(with_store())

        # Not functools.wraps: by the wrapped signature, pytest would take the store for a fixture.
        run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
        return run

    return decorate


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until ``condition`` holds.

    Raises:
        AssertionError: it does not within ``PATIENCE`` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not await condition():
        assert loop.time() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)


async def gone(store: BotSessionStore, user_id: str, channel_id: str) -> None:
    """Waits until there is no such session."""

    async def is_gone() -> bool:
        return await store.get(user_id, channel_id) is None

    await eventually(is_gone)


async def load(store: BotSessionStore, user_id: str | int = "u", channel_id: str | int = "c") -> BotSession:
    """Loads a session that must be there."""
    session = await store.get(user_id, channel_id)
    assert session is not None
    return session


class Harness:
    """How the store under test is made and disposed of."""

    def make_store(self, **options: Any) -> BotSessionStore:
        """A store that holds nothing, made inside of a running event loop.

        Args:
            **options: ``ttl`` (seconds, timedelta or None) and ``max_bytes``, where a test needs them.
        """
        raise NotImplementedError

    async def dispose(self, store: BotSessionStore) -> None:
        """Closes what ``make_store`` made."""
        await store.aclose()
