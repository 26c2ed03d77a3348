"""The sessions that the benchmarks store: small (6 keys), medium (about 1 KB as JSON) and large (about 64 KB).

They hold only what JSON can express, so that every contender stores the same data.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

#: The top-level key that a message cycle changes; every session has it.
CHANGED_KEY: Final = "tries"
#: The channel of every session: each user has one session.
CHANNEL: Final = 7

_WORDS: Final = (
    "order",
    "table",
    "apple",
    "evening",
    "address",
    "number",
    "please",
    "tomorrow",
    "delivery",
    "question",
    "thanks",
    "invoice",
    "garden",
    "window",
    "coffee",
    "morning",
    "ticket",
    "station",
    "customer",
    "price",
    "colour",
    "weather",
    "letter",
    "kitchen",
)


def _text(first: int, words: int) -> str:
    """Returns a text of so many words, a different one for each ``first``."""
    return " ".join(_WORDS[(first * 7 + n * (1 + first % 5)) % len(_WORDS)] for n in range(words))


def _small() -> dict[str, Any]:
    return {
        "step": "email",
        "name": "Ada Lovelace",
        "email": "ada@example.org",
        CHANGED_KEY: 2,
        "lang": "en",
        "cart": ["apple", "pear", "fig"],
    }


def _medium() -> dict[str, Any]:
    items = [{"sku": f"A-{n:03}", "title": _text(n, 3), "count": 1 + n % 3, "price": 2.5 + n} for n in range(12)]
    return _small() | {"cart": {"items": items, "note": _text(5, 12)}}


def _large() -> dict[str, Any]:
    history = [
        {"id": 10_000 + n, "role": "user" if n % 2 == 0 else "bot", "at": 1_790_000_000 + 40 * n, "text": _text(n, 24)}
        for n in range(272)
    ]
    return _small() | {"history": history}


_SESSIONS: Final[Mapping[str, dict[str, Any]]] = {"small": _small(), "medium": _medium(), "large": _large()}
#: The names of the sizes, in ascending order.
SIZES: Final = tuple(_SESSIONS)


def session_data(size: str) -> dict[str, Any]:
    """Returns a copy of the session data of that size."""
    return copy.deepcopy(_SESSIONS[size])


def users_for(size: str, handlers: int) -> Sequence[int]:
    """Returns the users for so many handlers: 1,000, or one for each handler, but not more than 64 MB of sessions."""
    return range(1, 1 + (1000 if size == "large" else max(handlers, 1000)))
