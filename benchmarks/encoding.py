"""Measures memory and server time of sessions under several values of the server's option ``hash-max-listpack-value``.

Run ``python -m benchmarks.encoding``. It starts Redis servers of its own, takes some minutes, and prints a table in Markdown:
bytes of a session, microseconds of an update and of a load. Memory is that of the data, without the key's entry in the server's
table.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import redis

from redis_botsession import BotSession, SessionStore
from redis_botsession.embedded import LocalServer

from .workload import CHANGED_KEY, CHANNEL, session_data

USERS: Final = 20_000
SETTINGS: Final = (64, 512, 1024, 4096)
SESSIONS: Final[dict[str, dict[str, Any]]] = {
    "6 small keys": session_data("small"),
    "and a text of 200 bytes": session_data("small") | {"note": "x" * 200},
    "1 KB": session_data("medium"),
}


async def measure(url: str, data: dict[str, Any], admin: redis.Redis) -> tuple[float, float, float]:
    """Returns bytes per session, and the server's microseconds for an update and for a load."""
    before: Any = admin.info("memory")
    async with SessionStore.from_url(url) as store:
        await asyncio.gather(*(store.set(user, CHANNEL, BotSession(str(user), str(CHANNEL), data)) for user in range(USERS)))
        after: Any = admin.info("memory")
        admin.config_resetstat()
        for number in range(5):
            await asyncio.gather(*(store.update(user, CHANNEL, {CHANGED_KEY: number}) for user in range(2000)))
            await asyncio.gather(*(store.get(user, CHANNEL) for user in range(2000)))
    ran: Any = admin.info("commandstats")
    taken = (after["used_memory_dataset"] - before["used_memory_dataset"]) / USERS
    return taken, ran["cmdstat_evalsha"]["usec_per_call"], ran["cmdstat_hgetall"]["usec_per_call"]


def main() -> None:
    """Prints the table."""
    lines = ["| bytes a session (µs an update, a load) | " + " | ".join(SESSIONS) + " |", "|---:|" + "---:|" * len(SESSIONS)]
    for value in SETTINGS:
        cells = []
        for data in SESSIONS.values():
            with (
                LocalServer(tcp=True, options=["--hash-max-listpack-value", str(value)]) as server,
                redis.Redis.from_url(server.url) as admin,
            ):
                taken, update, load = asyncio.run(measure(server.url, data, admin))
            cells.append(f"{taken:,.0f} ({update:.1f}, {load:.1f})")
        lines.append(f"| {value} | " + " | ".join(cells) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
