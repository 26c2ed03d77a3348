"""The memory of the adapter for the Microsoft 365 Agents SDK: items that were read, and keys that a turn found empty."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal

from .._session.changes import Snapshot
from .._session.record import BotSession

#: Why a turn knows that a key has nothing: it looked and found nothing, or it deleted the item.
Why = Literal["absent", "deleted"]

# A turn uses a handful of keys. A task that lives longer than a turn need not remember the keys of all its turns.
_MAX_MARKS: Final = 64


@dataclass(slots=True)
class Baseline:
    """An item's state as the item was last read or written.

    Attributes:
        ids: User and channel in the store.
        session: Its data are replaced by what is to be written.
        snapshot: The session as it was last read or written, to find what has changed.
        expected: The version at which the store holds nothing that the item has not seen.
        since: A version that the state had at or after the read; None: it was not there yet.
    """

    ids: tuple[str, str]
    session: BotSession
    snapshot: Snapshot
    expected: int
    since: int | None


class Baselines:
    """Baselines by the identity of their items, which may be equal or not hashable; each as long as its item lives."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[weakref.ref[Any], dict[str, Baseline]]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, item: Any, key: str) -> Baseline | None:
        entry = self._by_id.get(id(item))
        return None if entry is None else entry[1].get(key)

    def add(self, item: Any, key: str, baseline: Baseline) -> None:
        number, by_id = id(item), self._by_id
        if number not in by_id:
            try:
                reference = weakref.ref(item, lambda _: by_id.pop(number, None))
            except TypeError:
                raise TypeError(
                    f"{type(item).__name__} (storage key {key!r}) takes no weak references, so its changes cannot be tracked: "
                    "derive it from StoreItem, or use on_conflict='overwrite'"
                ) from None
            by_id[number] = reference, {}
        by_id[number][1][key] = baseline


@dataclass(slots=True)
class _Mark:
    """A key has nothing, as far as a turn knows. ``why`` is None once that is no longer so."""

    why: Why | None


# The marks of each turn (a task, with the tasks it starts), by storage and key. Replaced and never changed in place, since
# other turns share the old value.
_marks: ContextVar[dict[tuple[object, str], _Mark] | None] = ContextVar("_marks", default=None)


class Marks:
    """The keys of one storage that the current turn knows to be empty."""

    def __init__(self) -> None:
        # Not the storage itself, which the context would keep alive.
        self._me = object()

    def find(self, key: str) -> Why | None:
        """Why the turn knows that a key has nothing; None if it does not know that."""
        mark = (_marks.get() or {}).get((self._me, key))
        return None if mark is None else mark.why

    def add(self, key: str, why: Why) -> None:
        """Marks a key as empty for this turn."""
        marks = dict(_marks.get() or {})
        marks.pop((self._me, key), None)
        marks[self._me, key] = _Mark(why)
        _marks.set(dict([*marks.items()][-_MAX_MARKS:]))

    def clear(self, key: str) -> None:
        """Takes the mark away."""
        # In the mark itself, which the task that has read and its child that writes share.
        if mark := (_marks.get() or {}).get((self._me, key)):
            mark.why = None
