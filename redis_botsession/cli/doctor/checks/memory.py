"""Checks of the memory: are sessions evicted, and will writes be refused soon?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..findings import Finding, Severity
from ..formatting import setting, size

#: Of maxmemory, in per cent.
FULL = 80
VERY_FULL = 95
#: Of the machine's memory, in per cent, where there is no maxmemory.
MUCH = 75

_KEEP = setting("maxmemory-policy noeviction")


def check_memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Checks the eviction policy, the limit, and the memory in use."""
    if "maxmemory_policy" not in info or "maxmemory" not in info:
        return
    policy, limit, used = str(info["maxmemory_policy"]), int(info["maxmemory"]), int(info.get("used_memory", 0))
    yield _policy(policy, limit)
    yield _usage(policy, limit, used) if limit else _no_limit(used, int(info.get("total_system_memory", 0)))
    evicted = int(info.get("evicted_keys", 0))
    if evicted and policy != "noeviction":
        yield Finding(
            "evicted-keys",
            Severity.CRITICAL,
            f"{evicted:,} keys have been evicted since the server started, under {policy}",
            "Sessions may be gone before their time, or a user's index, without which clear and channels miss sessions.",
            f"{_KEEP}; give it more memory (maxmemory). CONFIG RESETSTAT resets the count.",
        )
    elif evicted:
        yield Finding(
            "evicted-keys",
            Severity.INFO,
            f"{evicted:,} keys have been evicted since the server started, under another policy than now",
            "Sessions may have been among them.",
            "Nothing more to do. CONFIG RESETSTAT resets the count.",
        )
    else:
        yield Finding("evicted-keys", Severity.OK, "no keys have been evicted")


def _policy(policy: str, limit: int) -> Finding:
    if policy == "noeviction":
        return Finding("maxmemory-policy", Severity.OK, policy)
    if limit:
        return Finding(
            "maxmemory-policy",
            Severity.CRITICAL,
            f"{policy}, with maxmemory {size(limit)}",
            "When the memory is full, the server drops sessions, or a user's index, without telling anybody.",
            f"{_KEEP}.",
        )
    return Finding(
        "maxmemory-policy",
        Severity.WARNING,
        f"{policy}, without a maxmemory",
        "Nothing is evicted yet; as soon as somebody sets maxmemory, sessions are.",
        f"{_KEEP}.",
    )


def _usage(policy: str, limit: int, used: int) -> Finding:
    share = 100 * used / limit
    found = f"{size(used)} of maxmemory {size(limit)} used, {share:.0f} %"
    if share <= FULL:
        return Finding("memory-usage", Severity.OK, found)
    then = (
        "When it is full, writes of sessions are refused (OOM)."
        if policy == "noeviction"
        else "When it is full, sessions are evicted."
    )
    return Finding(
        "memory-usage",
        Severity.CRITICAL if share > VERY_FULL else Severity.WARNING,
        found,
        then,
        f"Raise it (CONFIG SET maxmemory {2 * limit}, if the machine has that), shorten the ttl of the store, or move other "
        "data away.",
    )


def _no_limit(used: int, total: int) -> Finding:
    found = "maxmemory is not set"
    severity = Severity.INFO
    if total:
        found += f"; {size(used)} of the machine's {size(total)} are used"
        if 100 * used > MUCH * total:
            severity = Severity.WARNING
    return Finding(
        "maxmemory",
        severity,
        found,
        "When the machine runs out of memory, its kernel kills the server, and with it what is not on disk.",
        "Set it below what the machine or container has, less a third for snapshots: "
        f"{setting(f'maxmemory {_suggested(total)}')}.",
    )


def _suggested(total: int) -> str:
    return f"{max(total * 2 // 3 >> 20, 64)}mb" if total else "2gb"
