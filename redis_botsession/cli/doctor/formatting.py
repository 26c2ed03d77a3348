"""Formats sizes and settings for findings, and computes percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil


def size(count: float) -> str:
    """A number of bytes as text: ``1,840 bytes``, ``3.5 MiB``."""
    if count < 10_240:
        return f"{count:,.0f} bytes"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:,.1f} {unit}"
    return f"{count / 1024:,.1f} GiB"


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of ``values`` by nearest rank; 0 if there are none."""
    if not values:
        return 0
    return sorted(values)[max(ceil(len(values) * percent / 100), 1) - 1]


def setting(line: str) -> str:
    """The advice to change a setting now and in redis.conf. ``line`` is its name and value."""
    return f"CONFIG SET {line}; and in redis.conf: {line}"
