"""Runs a migration: scans the source, reads batches of sessions, writes them to the target, deletes them if asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ..._protocol.replies import text_of
from .reader import SCAN_COUNT, Reader
from .resume import Place, ResumeFile
from .sources.base import Found, NotUnderstood, Source, Unit, Unreadable
from .tally import Tally
from .writer import NotWritten, Outcome, TargetStore, Writer

#: Units that are read, and whose sessions are written, at once; their values are what a migration keeps in memory.
BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration, to be run once.

    Attributes:
        source: How the sessions are laid out.
        reader: Where they are.
        store: Where they are to be.
        overwrite: Whether to replace sessions that are in the target.
        ttl: Seconds that sessions live which have no TTL at the source; None: without end.
        delete_source: Whether to delete at the source what has been written.
        is_dry: Whether to write and delete nothing, only to count.
    """

    source: Source
    reader: Reader
    store: TargetStore
    overwrite: bool = False
    ttl: float | None = None
    delete_source: bool = False
    is_dry: bool = False

    async def run(self, place: Place, file: ResumeFile, report: Callable[[Place], None]) -> None:
        """Runs the migration from ``place`` on, and keeps ``place`` up to date, also if this fails or is cancelled.

        Args:
            place: Where to begin.
            file: Where to keep how far it is.
            report: Called after each step.

        Raises:
            redis.exceptions.RedisError, SessionError, OSError: a server cannot be reached or refuses, the file neither.
        """
        writer = Writer(self.store, overwrite=self.overwrite, is_dry=self.is_dry)
        while True:
            cursor, keys = await self.reader.scan(place.cursor)
            place.scanned += SCAN_COUNT
            units = self._units(keys, place.tally)
            for first in range(0, len(units), BATCH):
                await _Batch(self, writer, place.tally, units[first : first + BATCH]).run()
                report(place)
            place.cursor = cursor
            if not cursor:
                file.done()
                return
            file.save(place)

    def _units(self, keys: Iterable[bytes], tally: Tally) -> list[tuple[Unit, set[bytes]]]:
        """Groups scanned keys into units, each with the keys by which it was found."""
        units: dict[Unit, set[bytes]] = {}
        for key in keys:
            try:
                unit = self.source.unit_of(key.decode("utf-8"))
            except (NotUnderstood, UnicodeDecodeError) as error:
                if not self.store.owns(key):
                    reason = "it is no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                    tally.miss("not_understood", text_of(key), reason)
            else:
                if unit is not None:
                    units.setdefault(unit, set()).add(key)
        return list(units.items())


class _Batch:
    """One batch of units: reads them, writes their sessions, and deletes them if asked."""

    def __init__(self, migration: Migration, writer: Writer, tally: Tally, units: Sequence[tuple[Unit, set[bytes]]]) -> None:
        self._migration = migration
        self._writer = writer
        self._tally = tally
        self._units = units
        self._began = time.monotonic()

    async def run(self) -> None:
        found = await self._migration.reader.read([unit for unit, _ in self._units])
        understood: list[tuple[Unit, list[Found]]] = []
        for (unit, sighted), each in zip(self._units, found, strict=True):
            there = [key for key, item in zip(unit.keys, each, strict=True) if item.exists]
            wrong = [key for key, item in zip(unit.keys, each, strict=True) if isinstance(item.value, Exception)]
            if not there:
                self._tally.expired += 1
            # A unit whose two keys both exist is found twice. It counts when its first key is found.
            elif wrong and wrong[0] in sighted:
                self._wrong_type(wrong[0])
            elif not wrong and there[0] in sighted:
                understood.append((unit, each))
        are_safe = await self._write_all(understood)
        await self._delete([pair for pair, is_safe in zip(understood, are_safe, strict=True) if is_safe])

    async def _write_all(self, understood: Sequence[tuple[Unit, list[Found]]]) -> list[bool]:
        """Returns for each unit whether all of it is in the target."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._write(unit, found)) for unit, found in understood]
        except ExceptionGroup as errors:
            # A server that fails one of them fails the others in the same way, so one error stands for all.
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _delete(self, safe: Sequence[tuple[Unit, list[Found]]]) -> None:
        migration, tally = self._migration, self._tally
        if migration.delete_source:
            were_deleted = [True] * len(safe)
            if not migration.is_dry:
                were_deleted = await migration.reader.delete([unit for unit, _ in safe], [found for _, found in safe])
            tally.deleted += sum(were_deleted)
            tally.kept += len(safe) - sum(were_deleted)

    async def _write(self, unit: Unit, found: list[Found]) -> bool:
        key = text_of(next(key for key, item in zip(unit.keys, found, strict=True) if item.exists))
        try:
            records = self._migration.source.records(unit, found)
        except NotUnderstood as error:
            self._tally.miss("not_understood", key, str(error))
            return False
        except Unreadable as error:
            self._tally.miss("failed", key, str(error))
            return False
        outcomes: list[Outcome | None] = []
        for record in records:
            if record.ttl_ms is None and self._migration.ttl is not None:
                record.ttl_ms, age = round(self._migration.ttl * 1000), 0.0
            else:
                age = time.monotonic() - self._began
            try:
                outcome = await self._writer.write(record, age)
            except NotWritten as error:
                self._tally.miss("failed", key, str(error))
                outcomes.append(None)
            else:
                self._count(outcome)
                if outcome is Outcome.MIGRATED and record.ttl_ms is None and record.expires_at is None:
                    self._tally.without_ttl += 1
                outcomes.append(outcome)
        if self._migration.delete_source and Outcome.OTHER in outcomes:
            self._tally.kept += 1
        return all(outcome in (Outcome.MIGRATED, Outcome.SAME) for outcome in outcomes)

    def _count(self, outcome: Outcome) -> None:
        if outcome is Outcome.MIGRATED:
            self._tally.migrated += 1
        elif outcome is Outcome.EXPIRED:
            self._tally.expired += 1
        else:
            self._tally.there += 1
            self._tally.changed += outcome is Outcome.OTHER

    def _wrong_type(self, key: bytes) -> None:
        if not self._migration.store.owns(key):
            self._tally.miss("failed", text_of(key), f"it is no {self._migration.source.kind}")
