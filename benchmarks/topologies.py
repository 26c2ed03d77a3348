"""Compares one server with a cluster, Sentinel and durable writes, on real processes.

Run ``python -m benchmarks.topologies`` in a checkout, with the development requirements. It takes some minutes, and nothing
else should run on the machine. It prints two tables in Markdown: message cycles (load, change one key, save) per second, with
the load on the client's processor; and the longest wait of a call after ``kill -9`` of a primary, with a node timeout of 1 s
(cluster) and ``down-after-milliseconds`` 500 (Sentinel).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from redis_botsession import BotSession, OutcomeUnknown, SessionStore
from redis_botsession.embedded import LocalServer
from tests.support.redis_servers import SERVERS
from tests.support.topologies import ClusterServers, SentinelServers

from .workload import CHANGED_KEY, CHANNEL, session_data, users_for

HANDLERS: Final = (1, 64, 512)
_NEWEST: Final = next(server for server in SERVERS if server.id == "redis-8.2")


@dataclass(frozen=True)
class Case:
    """A store to measure: the URL and options for ``SessionStore.from_url``."""

    name: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)


@contextmanager
def cases() -> Iterator[list[Case]]:
    """Starts the servers of all cases, and yields the cases."""
    binary, env = _NEWEST.locate()
    with ExitStack() as stack:
        one = stack.enter_context(LocalServer(binary, env=env, tcp=True))
        cluster = stack.enter_context(ClusterServers(binary, env, replicas=0))
        sentinels = stack.enter_context(SentinelServers(binary, env))
        yield [
            Case("one server", one.url),
            Case("cluster of 3", cluster.url),
            Case("Sentinel, 2 replicas", sentinels.url),
            Case("Sentinel, `replicas=1`", sentinels.url, {"replicas": 1}),
            Case("Sentinel, `replicas=2`", sentinels.url, {"replicas": 2}),
        ]


async def measure(case: Case, handlers: int, seconds: float) -> tuple[float, float]:
    """Returns cycles per second, and the share of one core that the client used."""
    users = users_for("small", handlers)
    async with SessionStore.from_url(case.url, **case.options) as store:
        await asyncio.gather(*(store.set(user, CHANNEL, _session(user)) for user in users))
        done = 0
        turn = itertools.cycle(users)
        end = time.perf_counter() + seconds

        async def handle() -> None:
            nonlocal done
            while time.perf_counter() < end:
                user = next(turn)
                session = await store.get(user, CHANNEL)
                assert session is not None  # noqa: S101 - it was written above
                await store.update(user, CHANNEL, {CHANGED_KEY: session.data[CHANGED_KEY] + 1})
                done += 1

        began, busy = time.perf_counter(), time.process_time()
        await asyncio.gather(*(handle() for _ in range(handlers)))
        lasted = time.perf_counter() - began
        return done / lasted, (time.process_time() - busy) / lasted


async def recover(servers: ClusterServers | SentinelServers) -> tuple[float, int, int, int]:
    """Kills a primary under load.

    Returns:
        The longest wait of a call in seconds; the number of acknowledged writes; of these, the lost ones; and of writes whose
        outcome is unknown.
    """
    users = range(64)
    acknowledged: set[tuple[int, str]] = set()
    unknown, longest = 0, 0.0
    is_over = False
    async with SessionStore.from_url(servers.url, timeout=60) as store:
        victim = servers.primary_of(0) if isinstance(servers, ClusterServers) else servers.primary()

        async def write(user: int) -> None:
            nonlocal unknown, longest
            before = time.perf_counter()
            for number in itertools.count():
                if is_over:
                    return
                try:
                    await store.update(user, CHANNEL, {f"n{number}": number})
                except OutcomeUnknown:
                    unknown += 1
                else:
                    acknowledged.add((user, f"n{number}"))
                now = time.perf_counter()
                before, longest = now, max(longest, now - before)

        writing = [asyncio.ensure_future(write(user)) for user in users]
        await asyncio.sleep(0.5)
        longest = 0.0
        servers.kill(victim)
        await asyncio.sleep(5)
        is_over = True
        await asyncio.gather(*writing)
        sessions = await asyncio.gather(*(store.get(user, CHANNEL) for user in users))
    kept = {(user, key) for user, session in zip(users, sessions, strict=True) if session for key in session.data}
    return longest, len(acknowledged), len(acknowledged - kept), unknown


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.topologies", description=(__doc__ or "").split(":", 1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds through all cases (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a window (%(default)s)")
    options = parser.parse_args(arguments)
    figures: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with cases() as all_cases:
        for _, case, handlers in itertools.product(range(options.rounds), all_cases, HANDLERS):
            figures.setdefault((case.name, handlers), []).append(asyncio.run(measure(case, handlers, options.seconds)))
        names = [case.name for case in all_cases]
    lines = [
        "| cycles per second (client's processor) | " + " | ".join(map(str, HANDLERS)) + " |",
        "|---|" + "---:|" * len(HANDLERS),
    ]
    for name in names:
        cells = [[statistics.median(column) for column in zip(*figures[name, handlers], strict=True)] for handlers in HANDLERS]
        lines.append(f"| {name} | " + " | ".join(f"{speed:,.0f} ({busy:.0%})" for speed, busy in cells) + " |")
    lines += [
        "",
        "| kill -9 of a primary | longest wait | acknowledged | lost | outcome unknown |",
        "|---|---:|---:|---:|---:|",
    ]
    for title, kind in (("cluster of 3", ClusterServers), ("Sentinel", SentinelServers)):
        runs = []
        for _ in range(options.rounds):
            with kind(*_NEWEST.locate()) as servers:
                runs.append(asyncio.run(recover(servers)))
        wait, acknowledged, lost, unknown = (statistics.median(column) for column in zip(*runs, strict=True))
        lines.append(f"| {title} | {wait:.1f} s | {acknowledged:,.0f} | {lost:,.0f} | {unknown:,.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _session(user: int) -> BotSession:
    return BotSession(str(user), str(CHANNEL), session_data("small"))


if __name__ == "__main__":
    main()
