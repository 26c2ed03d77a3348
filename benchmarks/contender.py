"""The interface of a contender: one way to keep sessions, for the benchmarks to measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar


class Contender(ABC):
    """One way to keep sessions. Only ``update`` and ``cycle`` are called by several tasks at once.

    Attributes:
        name: Its name for ``--only`` and in the JSON.
        title: Its row label in the tables and the chart.
        package: The distribution whose version is reported.
        commands: The commands that a cycle sends, by their names in INFO commandstats. Commands within a script or a
            transaction are not listed: their time is part of that of EVALSHA and EXEC.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    commands: ClassVar[Sequence[str]]

    @abstractmethod
    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        """Connects, and prepares all that may be prepared before the cycles of these users are measured."""

    @abstractmethod
    async def close(self) -> None:
        """Closes all connections."""

    @abstractmethod
    async def save(self, user: int, data: dict[str, Any]) -> None:
        """Stores a whole session."""

    @abstractmethod
    async def load(self, user: int) -> dict[str, Any] | None:
        """Returns the data of a session; None or an empty dict if there is none."""

    @abstractmethod
    async def update(self, user: int, key: str, value: object) -> None:
        """Sets one top-level key, in the shortest way that the contender's documentation shows."""

    async def cycle(self, user: int, key: str, value: object) -> None:
        """Does what a bot does for a message: loads the session, changes one key, saves."""
        await self.load(user)
        await self.update(user, key, value)
