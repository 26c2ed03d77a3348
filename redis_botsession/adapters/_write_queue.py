"""What is still to be written to sessions: the latest for each, kept until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from ..errors import CorruptSession, SerializationError, SessionTooLarge

T = TypeVar("T")
#: The user and the channel of a session.
Address = tuple[str, str]
Work = Callable[[], Awaitable[None]]

#: How many sessions are loaded or written at once, where there are many.
BATCH: Final = 256
# Errors that another attempt would not mend.
_HOPELESS: Final = SerializationError, SessionTooLarge, CorruptSession, TypeError, ValueError


@dataclass(slots=True, eq=False)
class _Write:
    """A write to one session that is still to be done.

    Attributes:
        address: The session.
        work: Writes it; None: nothing is left to write.
        drops: Whether the session is to be deleted first.
    """

    address: Address
    work: Work | None
    drops: bool


class Pending:
    """The writes that are still to be done. A new write for a session replaces an older one.

    A write that fails raises, and is tried again together with the next that is submitted, unless what it writes cannot be
    stored. So its work must do no harm when it is done twice.

    Args:
        delete: Deletes a session.
    """

    def __init__(self, delete: Callable[[Address], Awaitable[None]]) -> None:
        self._delete = delete
        self._latest: dict[Address, _Write] = {}
        self._failed: dict[Address, _Write] = {}
        # The lock of each session. An entry lives while a task holds or awaits the lock.
        self._turns: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()

    def submit(self, address: Address, work: Work | None, *, drops: bool = False) -> Coroutine[Any, Any, None]:
        """Submits a write. It counts as submitted now, and is done when the returned coroutine is awaited.

        Args:
            address: The session.
            work: Writes it; None: nothing.
            drops: Whether to delete the session first.

        Returns:
            A coroutine that writes it, and what has failed before. Of several that are submitted before any is awaited, one
            takes that along: it is tried once, however much there is to write.
        """
        write = _Write(address, work, drops or self.drops(address))
        self._latest[address] = write
        failed, self._failed = self._failed, {}
        return self._do_all([write, *failed.values()])

    async def flush(self) -> None:
        """Does all that is pending; raises the first of its errors when all was tried."""
        self._failed = {}
        await self._do_all(list(self._latest.values()))

    def turn(self, address: Address) -> asyncio.Lock:
        """Held while something is written to the session; to be held by who reads it."""
        return self._turns.setdefault(address, asyncio.Lock())

    def drops(self, address: Address) -> bool:
        """Whether the session is still to be deleted."""
        write = self._latest.get(address)
        return write is not None and write.drops

    async def drop(self, address: Address) -> None:
        """Deletes the session if it is still to be deleted; for who holds its turn."""
        write = self._latest.get(address)
        if write is not None and write.drops:
            await self._drop(write)

    def give_up(self, address: Address) -> None:
        """Nothing is to be written to the session any more."""
        self._latest.pop(address, None)

    async def _do_all(self, writes: list[_Write]) -> None:
        errors: list[BaseException] = []
        try:
            for batch in batches(writes):
                results = await asyncio.gather(*map(self._do, batch), return_exceptions=True)
                errors += [result for result in results if isinstance(result, BaseException)]
        except BaseException:
            # Cancelled: some writes may not even have begun.
            self._failed |= {write.address: write for write in writes if self._latest.get(write.address) is write}
            raise
        if errors:
            raise errors[0]

    async def _do(self, write: _Write) -> None:
        async with self.turn(write.address):
            # Unless it is done, or a newer write has replaced it.
            if self._latest.get(write.address) is write:
                await self._do_now(write)

    async def _do_now(self, write: _Write) -> None:
        try:
            if write.drops:
                await self._drop(write)
            if write.work is not None:
                await write.work()
        except _HOPELESS:
            self._forget(write)
            raise
        except BaseException:
            self._failed[write.address] = write
            raise
        self._forget(write)

    async def _drop(self, write: _Write) -> None:
        await self._delete(write.address)
        write.drops = False

    def _forget(self, write: _Write) -> None:
        if self._latest.get(write.address) is write:
            del self._latest[write.address]


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """``items``, at most ``BATCH`` at once."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch
