"""What a benchmark asks of one way to keep sessions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar


class Contender(ABC):
    """One way to keep sessions. All of its methods are called in one task, but ``update`` and ``cycle``.

    Attributes:
        name: For ``--only`` and the JSON.
        title: For the tables.
        package: The distribution whose version is reported.
        commands: What a cycle sends, by the names in INFO commandstats. Commands that a script or a transaction calls have
            lines of their own there, but their time is in that of EVALSHA and EXEC already.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    commands: ClassVar[Sequence[str]]

    @abstractmethod
    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        """Connects, and prepares what may be ready before the cycles of these users begin."""

    @abstractmethod
    async def close(self) -> None:
        """Closes all connections."""

    @abstractmethod
    async def save(self, user: int, data: dict[str, Any]) -> None:
        """Stores a whole session."""

    @abstractmethod
    async def load(self, user: int) -> dict[str, Any] | None:
        """The data of a session; None or empty if there is none."""

    @abstractmethod
    async def update(self, user: int, key: str, value: object) -> None:
        """Sets one top-level key by the shortest way that is documented."""

    async def cycle(self, user: int, key: str, value: object) -> None:
        """What a bot does for a message: loads the session, changes one key, saves."""
        await self.load(user)
        await self.update(user, key, value)
