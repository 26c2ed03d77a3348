"""Many tasks that use one store, and check that every reply they get belongs to their own call."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from redis_botsession import BotSession, OutcomeUnknown, SessionStore

TASKS = 40
SHARED_USERS = [f"shared-{number}" for number in range(6)]
KEYS = [f"key-{number}" for number in range(5)]
#: A call is cancelled within so many seconds; one of these is drawn. A round trip takes about one millisecond.
LATEST_CANCEL = (0.001, 0.005, 0.03)
#: Seconds within which every call must end, whatever faults there are.
PATIENCE = 60.0


class Soak:
    """Runs tasks that make random calls on a store, and checks their results.

    Args:
        store: The store.
        seed: Seed of the random choices.
        errors: Errors that calls may raise; a call that its task cancelled may raise CancelledError, too.
        cancels: The share of the calls that are cancelled.
        is_in_order: Whether calls for one user reach the server in their order. They do while no connection is lost.

    Attributes:
        ended: Number of calls by how they ended: "done", "cancelled", "unknown", "failed".
        stray: Errors that reached only the event loop's exception handler.
    """

    def __init__(
        self,
        store: SessionStore,
        seed: str,
        *,
        errors: tuple[type[Exception], ...] = (),
        cancels: float = 1 / 3,
        is_in_order: bool = True,
    ) -> None:
        self.store = store
        self.seed = seed
        self.errors = errors
        self.cancels = cancels
        self.is_in_order = is_in_order
        self.ended: Counter[str] = Counter()
        self.stray: list[dict[str, Any]] = []
        self.tasks = 0

    async def run(self, operations: int) -> None:
        """Runs new tasks, with sessions of their own and the shared ones, until they have made so many calls."""
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.stray.append(context))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    self.tasks += 1
                    group.create_task(Worker(self, self.tasks).run(operations // TASKS))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None


class Worker:
    """One task: the calls that it makes, on two sessions of its own and on those that all tasks share."""

    def __init__(self, soak: Soak, number: int) -> None:
        self.soak = soak
        self.name = f"task-{number}"
        self.dice = random.Random(f"{soak.seed}/{number}")  # noqa: S311 - a test that can be repeated
        self.written = 0
        self.sessions = [Known(f"own-{number}-{own}", is_own=True) for own in range(2)]
        self.sessions += [Known(user, is_own=False) for user in SHARED_USERS]

    async def run(self, operations: int) -> None:
        dice = self.dice
        kinds = (self.get, self.get_and_touch, self.update, self.modify, self.touch, self.replace)
        for _ in range(operations):
            known = dice.choice(self.sessions[:2] if dice.random() < 0.6 else self.sessions[2:])
            (do,) = dice.choices(kinds, (4, 3, 5, 2, 1, 1))
            await do(known)

    # --- operations

    async def get(self, known: Known, *, touch: bool = False) -> None:
        ended, session = await self.ending(lambda: self.soak.store.get(known.user, "c", touch=touch))
        if ended == "done":
            known.loaded(session)

    async def get_and_touch(self, known: Known) -> None:
        await self.get(known, touch=True)

    async def update(self, known: Known) -> None:
        key, value = self.dice.choice(KEYS), self.value(known)
        changes = {"me": known.user, key: value}
        before = known.version
        ended, version = await self.ending(lambda: self.soak.store.update(known.user, "c", changes))
        if ended == "done":
            assert version > before, f"{known.user}: version {version} after {before}"
            known.version = version
            known.wrote(key, value, settles=self.soak.is_in_order)
        elif ended == "unknown":
            known.may_have_written(key, value)

    async def modify(self, known: Known) -> None:
        key, value = self.dice.choice(KEYS), self.value(known)
        tried = False

        def change(session: BotSession) -> None:
            nonlocal tried
            tried = True
            known.loaded(session if session.version else None)
            session.data["me"] = known.user
            session.data[key] = value

        before = known.version
        ended, session = await self.ending(lambda: self.soak.store.modify(known.user, "c", change))
        if ended == "done":
            assert session.version > before, f"{known.user}: version {session.version} after {before}"
            assert session.data[key] == value
            known.wrote(key, value, settles=self.soak.is_in_order)
            known.loaded(session)
        elif ended == "unknown" and tried:
            known.may_have_written(key, value)

    async def touch(self, known: Known) -> None:
        ended, was_there = await self.ending(lambda: self.soak.store.touch(known.user, "c"))
        if ended == "done":
            known.was_there(was_there)

    async def replace(self, known: Known) -> None:
        """Deletes the session and writes a new one."""
        ended, was_there = await self.ending(lambda: self.soak.store.delete(known.user, "c"))
        if ended == "done":
            # After a lost connection the delete is sent again, and finds nothing.
            if self.soak.is_in_order:
                known.was_there(was_there)
            known.deleted(settles=self.soak.is_in_order)
        else:
            known.may_have_deleted()
        await self.update(known)

    def value(self, known: Known) -> tuple[str, str, int, bytes]:
        """Returns a value that no other write has: mostly small, seldom over a megabyte."""
        self.written += 1
        roll = self.dice.random()
        size = self.dice.randrange(40)
        if roll < 0.05:
            size = self.dice.randrange(65_536)
        elif roll < 0.051:
            size = self.dice.randrange(1 << 20, 3 << 19)
        return (known.user, self.name, self.written, filler(self.written, size))

    async def ending(self, call: Callable[[], Awaitable[Any]]) -> tuple[str, Any]:
        """Makes a call, perhaps cancels it, and returns how it ended, with its result.

        It ends as "done", "failed" (a write was not applied) or "unknown" (a write may have been applied, or a call was
        cancelled).
        """
        task = asyncio.ensure_future(call())
        is_to_be_cancelled = self.dice.random() < self.soak.cancels
        if is_to_be_cancelled:
            asyncio.get_running_loop().call_later(self.dice.random() * self.dice.choice(LATEST_CANCEL), task.cancel)
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done(), "a call hangs"
        if task.cancelled():
            assert is_to_be_cancelled, "a call raised CancelledError, but was not cancelled"
            ended, result = "unknown", None
        elif (error := task.exception()) is None:
            ended, result = "done", task.result()
        elif isinstance(error, AssertionError):
            raise error
        else:
            assert isinstance(error, self.soak.errors), f"a call failed: {error!r}"
            ended, result = ("unknown" if isinstance(error, OutcomeUnknown) else "failed"), None
        self.soak.ended["cancelled" if task.cancelled() else ended] += 1
        return ended, result


class Known:
    """What one task knows of a session.

    Attributes:
        user: Its user.
        is_own: Whether no other task writes it.
        version: The greatest version seen.
        values: The values by key, after the last load or write.
        maybe: By key, values that calls with an unknown outcome may have written or may still write; None stands for a delete.
    """

    def __init__(self, user: str, *, is_own: bool) -> None:
        self.user = user
        self.is_own = is_own
        self.version = 0
        self.values: dict[str, Any] = {}
        self.maybe: dict[str, list[Any]] = {key: [] for key in KEYS}

    @property
    def is_certain(self) -> bool:
        return not any(self.maybe.values())

    def wrote(self, key: str, value: Any, *, settles: bool) -> None:
        self.values[key] = value
        if settles:
            self.maybe[key].clear()

    def may_have_written(self, key: str, value: Any) -> None:
        self.maybe[key].append(value)

    def deleted(self, *, settles: bool) -> None:
        self.values = {}
        if settles:
            for values in self.maybe.values():
                values.clear()
        else:
            # It may have been sent twice, and the first one may still take effect later.
            self.may_have_deleted()

    def may_have_deleted(self) -> None:
        for values in self.maybe.values():
            values.append(None)

    def was_there(self, answer: Any) -> None:
        """Checks the result of a touch or a delete."""
        assert type(answer) is bool, f"{self.user}: got {answer!r:.200}"
        if self.is_own and self.is_certain:
            assert answer is bool(self.values), f"{self.user}: got {answer}, but the session has {self.values!r:.200}"

    def loaded(self, session: BotSession | None) -> None:
        """Checks a session that was loaded."""
        data: dict[str, Any] = {}
        if session is not None:
            assert isinstance(session, BotSession), f"{self.user}: got {session!r:.200}"
            assert (session.user_id, session.channel_id) == (self.user, "c")
            assert session.version >= self.version, f"{self.user}: version {session.version} after {self.version}"
            self.version = session.version
            data = dict(session.data)
            assert data.pop("me") == self.user
            for user, name, number, fill in data.values():
                assert user == self.user, f"{self.user}: has a value that {name} wrote for {user}"
                assert fill == filler(number, len(fill)), f"{self.user}: a value of {name} is damaged"
        if self.is_own:
            for key in KEYS:
                value = data.get(key)
                assert value == self.values.get(key) or value in self.maybe[key], (
                    f"{self.user}: {key} is {value!r:.100}, was {self.values.get(key)!r:.100}, maybe {self.maybe[key]!r:.500}"
                )
            self.values = data


def filler(number: int, size: int) -> bytes:
    return b"%08d" % number * (size // 8)
