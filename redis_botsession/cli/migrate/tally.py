"""Counts what a migration has done so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

#: How many keys are listed, of those that were not understood and of those that failed.
LISTED: Final = 20


@dataclass(slots=True)
class Tally:
    """Counts of sessions, or of keys whose session is not known.

    Attributes:
        migrated: Written to the target.
        there: There is one in the target already; it was left as it is.
        changed: Of these, how many are not as they would be written: a bot has changed them since, or they are others.
        expired: Expired, or removed, since SCAN found them.
        not_understood: Keys of another shape.
        failed: Keys and sessions that cannot be read or written.
        deleted: Deleted at the source.
        kept: Not deleted at the source, though that was asked for: changed there, or in the target, since.
        without_ttl: How many of the migrated ones have no TTL. A bot whose store has a ``ttl`` gives them one when it first
            uses them.
        listed: Of those not understood and failed, the first: each a key and why, by the name of the count.
    """

    migrated: int = 0
    there: int = 0
    changed: int = 0
    expired: int = 0
    not_understood: int = 0
    failed: int = 0
    deleted: int = 0
    kept: int = 0
    without_ttl: int = 0
    listed: dict[str, list[list[str]]] = field(default_factory=lambda: {"not_understood": [], "failed": []})

    @property
    def is_clean(self) -> bool:
        """Whether every key was understood and nothing failed."""
        return not self.not_understood and not self.failed

    @property
    def seen(self) -> int:
        """The number of sessions, and of keys whose session is not known."""
        return self.migrated + self.there + self.expired + self.not_understood + self.failed

    def miss(self, count: str, key: str, reason: str) -> None:
        """Counts a key as ``"not_understood"`` or ``"failed"``."""
        setattr(self, count, getattr(self, count) + 1)
        if len(self.listed[count]) < LISTED:
            self.listed[count].append([key, reason])

    def counts(self) -> dict[str, int]:
        """The counts without the listed keys."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in {"listed", "without_ttl"}}

    def as_dict(self) -> dict[str, Any]:
        """All fields as a dict, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Self:
        """Makes a tally of what ``as_dict`` returned.

        Raises:
            TypeError: another program's.
        """
        return cls(**kept)
