"""``botsession migrate``: from the arguments to the exit status."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from ..._codec.codec import DEFAULT_MAX_BYTES
from ..._protocol.replies import text_of
from ..._transport.options import read_url
from ...errors import SessionError
from ...store import DEFAULT_PREFIX
from .._targets import parse
from .._terminal import DEFAULT_URL
from .engine import Migration
from .progress import progress_for
from .reader import Reader
from .render import Printer, fail
from .resume import NotResumable, Place, ResumeFile
from .sources.aiogram import AiogramSource
from .sources.base import Source
from .sources.json import JsonSource
from .sources.telebot import OldTelebotSource, TelebotSource
from .writer import TargetStore

#: Exit statuses.
CLEAN: Final = 0
TROUBLES: Final = 1
MISTAKE: Final = 2
INCOMPLETE: Final = 3
SOURCES: Final[Mapping[str, Callable[..., Source]]] = {
    "aiogram": AiogramSource,
    "telebot": TelebotSource,
    "old-telebot": OldTelebotSource,
    "json": JsonSource,
}
#: UnicodeError is what Python says of a host name that cannot be one.
_CANNOT: Final = (redis.RedisError, SessionError, OSError, UnicodeError)


class _Mistake(ValueError):
    """The arguments contradict each other or cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of ``botsession migrate``.

    Attributes:
        url: The source; None: what REDIS_URL names, else a Redis on this machine.
        to: The target; None: the source.
        prefix: What the keys of the target begin with.
        ttl: Seconds that sessions live which have no TTL at the source; None: without end.
        max_bytes: Limit on the bytes of a session.
        overwrite: Whether to replace sessions that are in the target.
        delete_source: Whether to delete at the source what has been written.
        dry_run: Whether to write and delete nothing.
        resume: A file that keeps how far it is; None: none.
        as_json: Whether to print JSON.
    """

    # Not in the repr: URLs may contain passwords.
    url: str | None = field(default=None, repr=False)
    to: str | None = field(default=None, repr=False)
    prefix: str = DEFAULT_PREFIX
    ttl: float | None = None
    max_bytes: int = DEFAULT_MAX_BYTES
    overwrite: bool = False
    delete_source: bool = False
    dry_run: bool = False
    resume: Path | None = None
    as_json: bool = False


def run(kind: str, layout: Mapping[str, Any], options: Options) -> int:
    """Runs a migration, and prints its counts.

    Args:
        kind: One of ``SOURCES``.
        layout: How its sessions are laid out: the arguments of that source.
        options: What is asked for.

    Returns:
        The exit status: 0 all well, 1 nothing was found, or some keys were not understood or failed, 2 a mistake in the
        arguments, 3 it could not go on.

    Raises:
        KeyboardInterrupt: by Ctrl-C, after it has printed what was done.
    """
    try:
        command = _Command(kind, layout, options)
    except _Mistake as mistake:
        fail(str(mistake), MISTAKE, as_json=options.as_json)
        return MISTAKE
    try:
        return asyncio.run(command.run())
    except KeyboardInterrupt:
        command.stopped()
        raise


class _Command:
    """One run of the command.

    Raises:
        _Mistake: in the arguments.
    """

    def __init__(self, kind: str, layout: Mapping[str, Any], options: Options) -> None:
        self._options = options
        url = options.url or os.environ.get("REDIS_URL") or DEFAULT_URL
        to = options.to or url
        try:
            self._source = SOURCES[kind](**layout)
            source, target = parse(url).label, parse(to).label
            self._reader = Reader(read_url(url), self._source)
            self._store = TargetStore.from_url(to, prefix=options.prefix, ttl=None, max_bytes=options.max_bytes)
        except (TypeError, ValueError, redis.RedisError) as error:
            raise _Mistake(str(error)) from error
        what = {
            "source": source,
            "layout": {"kind": kind, **layout},
            "target": target,
            **{
                name: getattr(options, name) for name in ("prefix", "ttl", "max_bytes", "overwrite", "delete_source", "dry_run")
            },
        }
        self._file = ResumeFile(options.resume, what)
        self._printer = Printer(source, target, options.prefix, is_dry=options.dry_run, as_json=options.as_json)
        self._place = Place()

    async def run(self) -> int:
        """Runs the migration; returns the exit status."""
        try:
            async with self._reader, self._store:
                await self._migrate()
        except NotResumable as error:
            fail(f"{self._options.resume} cannot be used: {error}", MISTAKE, as_json=self._options.as_json)
            return MISTAKE
        except _CANNOT as error:
            return self._end(
                INCOMPLETE, f"it could not go on: {str(error).rstrip('.') or type(error).__name__}; {self._again()}"
            )
        if not self._place.tally.seen:
            pattern = text_of(self._source.pattern)
            return self._end(TROUBLES, f"no key at the source fits {pattern}: is --source-prefix that of the old storage?")
        return self._end(CLEAN if self._place.tally.is_clean else TROUBLES)

    def stopped(self) -> None:
        """Prints the counts up to Ctrl-C."""
        self._end(130, f"stopped; {self._again()}")

    async def _migrate(self) -> None:
        options = self._options
        self._place, note = self._file.load(await self._reader.identity())
        if note:
            self._printer.note(note)
        migration = Migration(
            self._source,
            self._reader,
            self._store,
            overwrite=options.overwrite,
            ttl=options.ttl,
            delete_source=options.delete_source,
            is_dry=options.dry_run,
        )
        progress = progress_for(await self._reader.size(), is_silent=options.as_json)
        try:
            await migration.run(self._place, self._file, progress.show)
        finally:
            progress.close()

    def _again(self) -> str:
        if self._options.resume is not None:
            return f"run it again with --resume {self._options.resume} to go on"
        return "run it again: what is in the target already stays as it is"

    def _end(self, status: int, problem: str = "") -> int:
        self._printer.show(self._place.tally, status, problem)
        return status
