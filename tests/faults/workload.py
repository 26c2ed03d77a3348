"""A workload of many workers on a few sessions, to run while faults happen to connections or to the server.

The environment variables FAULTS_SEED and FAULTS_OPERATIONS set the seed and the least number of loads and writes; a workload
makes more of them if its faults take longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_botsession import OutcomeUnknown, VersionConflict
from redis_botsession._store.base import BotSessionStore

from .history import History, Kind, Outcome, State, Target, Violation, check

SEED = os.environ.get("FAULTS_SEED", "7")
OPERATIONS = int(os.environ.get("FAULTS_OPERATIONS", "1500"))

WORKERS = 16
#: Number of sessions of each kind at a time, and number of operations after which new sessions replace them, because each write
#: makes its session larger.
SESSIONS = 3
GENERATION = 1000
#: Seconds after which a wait of the test fails: far more than any timeout of the stores.
PATIENCE = 60.0
#: A call is cancelled within so many seconds; one of these is drawn. A round trip takes about one millisecond.
LATEST_CANCEL = (0.0, 0.002, 0.02)

# Errors of servers that refuse a write before they change anything. Redis 6.2 puts them into the text of a script error. The
# last two occur in tests of replicas and clusters.
_REFUSALS = {
    "OOM": re.compile(r"\bOOM\b|used memory"),
    "READONLY": re.compile(r"\bREADONLY\b|read only replica"),
    "MISCONF": re.compile(r"\bMISCONF\b|configured to save RDB snapshots"),
    "NOAUTH": re.compile(r"\bNOAUTH\b|Authentication required"),
    "NOREPLICAS": re.compile(r"\bNOREPLICAS\b|Not enough good replicas"),
    "CLUSTERDOWN": re.compile(r"\bCLUSTERDOWN\b|cluster is down|slot not served"),
}


class Workload:
    """Workers that load and write sessions, the history of that, and the errors that they got.

    Args:
        seed: Seed of the random choices.
        stores: The stores; each worker uses one of them. To the server, different stores are different processes.
        cancels: The share of the calls that are cancelled.
        prefix: Prefix of the users' names.

    Attributes:
        history: All operations.
        errors: Number of errors, by "read" or "write" and the name of the error (``name_of``). Conflicts are not counted.
        hanging: Calls that did not end in time.
    """

    def __init__(self, seed: str, stores: Sequence[BotSessionStore], *, cancels: float = 0.0, prefix: str = "") -> None:
        self.history = History(seed)
        self.errors: Counter[tuple[str, str]] = Counter()
        self.hanging: list[str] = []
        self._seed = seed
        self._stores = stores
        self._cancels = cancels
        self._prefix = prefix
        self._workers = [f"worker-{number}" for number in range(WORKERS)]
        self._calls: Counter[str] = Counter()
        self._moved = asyncio.Event()
        self._is_over = False

    async def run(self, faults: Callable[[], Awaitable[None]], operations: int = OPERATIONS) -> None:
        """Works until ``faults`` has returned and there were at least ``operations`` operations."""
        try:
            async with asyncio.TaskGroup() as group:
                for number, worker in enumerate(self._workers):
                    group.create_task(self._work(worker, self._stores[number % len(self._stores)], operations))
                await faults()
                self._is_over = True
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until ``condition`` holds; checks it whenever a call has ended.

        Raises:
            TimeoutError: ``condition`` did not hold within ``PATIENCE`` seconds.
        """
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    async def until_all_progress(self) -> None:
        """Waits until every worker has ended its current call and the next one.

        By then the stores have noticed all lost connections, and have resent or failed all calls on them.
        """
        before = self._calls.copy()
        await self.until(lambda: all(self._calls[worker] >= before[worker] + 2 for worker in self._workers))

    def failures(self, kind: str) -> int:
        """Returns the number of errors of a kind, "read" or "write"."""
        return sum(count for (what, _), count in self.errors.items() if what == kind)

    async def visit(self, store: BotSessionStore) -> None:
        """Makes one load and one write through a store that the workers do not use."""
        dice = random.Random(self._seed)  # noqa: S311 - a test that can be repeated
        target = Target(Kind.MERGE, f"{self._prefix}newcomer")
        await self._read("newcomer", target, store, dice)
        await self._write("newcomer", target, None, store, dice)

    async def check(self, fresh: BotSessionStore) -> list[Violation]:
        """Loads the final sessions from ``fresh`` and checks the history.

        Call it when no command is on its way to the server any more.
        """
        final = {target: State.of(await fresh.get(target.user, target.channel)) for target in self.history.targets}
        return check(self.history, final)

    # --- workers

    async def _work(self, worker: str, store: BotSessionStore, operations: int) -> None:
        dice = random.Random(f"{self._seed}/{worker}")  # noqa: S311 - a test that can be repeated
        while not self._is_over or self._calls.total() < operations:
            kind = dice.choice(list(Kind))
            # Only channels change: the users, and with them the connections, stay the same.
            user = f"{self._prefix}{kind}-{dice.randrange(SESSIONS)}"
            target = Target(kind, user, f"c{self._calls.total() // GENERATION}")
            state = await self._read(worker, target, store, dice) if target.kind is Kind.CHAIN or dice.random() < 0.3 else None
            if target.kind is Kind.MERGE:
                await self._write(worker, target, None, store, dice)
            elif state is not None and dice.random() < 0.8:
                await self._write(worker, target, state, store, dice)

    async def _read(self, worker: str, target: Target, store: BotSessionStore, dice: random.Random) -> State | None:
        read = self.history.begin_read(worker, target)
        task = await self._ended(worker, store.get(target.user, target.channel), dice)
        if task.cancelled():
            return None
        if (error := task.exception()) is not None:
            self.errors["read", name_of(error)] += 1
            return None
        return self.history.end_read(read, task.result())

    async def _write(
        self, worker: str, target: Target, base: State | None, store: BotSessionStore, dice: random.Random
    ) -> None:
        write = self.history.begin_write(worker, target, base)
        expected = None if base is None else base.version
        call = store.update(target.user, target.channel, write.changes, expected_version=expected)
        task = await self._ended(worker, call, dice)
        if task.cancelled():
            self.history.end_write(write, Outcome.UNKNOWN, reason="CancelledError")
        elif (error := task.exception()) is None:
            self.history.end_write(write, Outcome.ACKNOWLEDGED, version=task.result())
        else:
            name = name_of(error)
            self.history.end_write(write, Outcome.REFUSED if is_refusal(error) else Outcome.UNKNOWN, reason=name)
            if not isinstance(error, VersionConflict):
                self.errors["write", name] += 1

    async def _ended(self, worker: str, call: Any, dice: random.Random) -> asyncio.Task[Any]:
        """Makes a call, perhaps cancels it, and returns its task when that is done."""
        task: asyncio.Task[Any] = asyncio.ensure_future(call)
        may_be_cancelled = dice.random() < self._cancels
        if may_be_cancelled:
            asyncio.get_running_loop().call_later(dice.random() * dice.choice(LATEST_CANCEL), task.cancel)
        try:
            # Not asyncio.timeout, which would wait forever for a call that ignores its cancellation.
            await asyncio.wait([task], timeout=PATIENCE)
            if not task.done():
                self.hanging.append(f"{worker}: {call.__qualname__}")
                may_be_cancelled = True
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        assert may_be_cancelled or not task.cancelled(), "a call raised CancelledError, but was not cancelled"
        self._calls[worker] += 1
        self._moved.set()
        return task


def name_of(error: BaseException) -> str:
    """Returns the name of an error in tables: the error code of a server that refuses a write, or else the class."""
    for name, pattern in _REFUSALS.items():
        if isinstance(error, RedisError) and pattern.search(str(error)):
            return name
    return type(error).__name__


def is_refusal(error: BaseException) -> bool:
    """Returns whether the store promises, by this error, that the write was not applied."""
    if isinstance(error, OutcomeUnknown):
        return False
    return isinstance(error, VersionConflict | RedisConnectionError | RedisTimeoutError) or name_of(error) in _REFUSALS
