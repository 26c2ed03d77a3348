"""Writes migrated sessions to the target store."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta

from redis.exceptions import ResponseError

from ..._protocol.commands import Commands
from ..._protocol.layout import Keys
from ..._session.record import BotSession
from ..._session.times import TTL
from ..._store.command_store import CommandStore
from ...errors import CorruptSession, DurabilityUnproven, OutcomeUnknown, SerializationError, SessionTooLarge, VersionConflict
from ...store import SessionStore
from .reader import is_wrong_type
from .sources.base import Record


class Outcome(enum.Enum):
    """The outcome for one session."""

    MIGRATED = "migrated"
    #: There is one in the target, the same.
    SAME = "same"
    #: There is another one in the target.
    OTHER = "other"
    EXPIRED = "expired"


class NotWritten(Exception):
    """One session cannot be written. The message says why, and holds no value."""


class TargetStore(SessionStore):
    """A store that can also write sessions with another TTL than its own."""

    def lasting(self, ttl: TTL) -> CommandStore:
        """The same sessions, over the same connections, with another rolling TTL."""
        prefix = self._commands.keys.prefix
        return CommandStore(Commands(prefix=prefix, ttl=ttl, codec=self.codec, max_bytes=self.max_bytes), self._executor)

    def owns(self, key: bytes) -> bool:
        """Whether a key belongs to this store (a session or an index), since both prefixes may be the same."""
        keys: Keys = self._commands.keys
        return keys.ids(key) is not None or keys.ids(key + b":any") is not None


class Writer:
    """Writes sessions, each in one step: it is written as a whole, with its TTL, or not at all.

    Args:
        store: The target.
        overwrite: Whether to replace sessions that are there.
        is_dry: Whether to write nothing, and find out what would become of each.
    """

    def __init__(self, store: TargetStore, *, overwrite: bool = False, is_dry: bool = False) -> None:
        self._store = store
        self._expected = None if overwrite else 0
        self._is_dry = is_dry

    async def write(self, record: Record, age: float) -> Outcome:
        """Writes a session, unless there is one already.

        Args:
            record: The session.
            age: Seconds since its TTL was read, which it does not live any more.

        Raises:
            NotWritten: this one cannot be written.
            SessionError, redis.exceptions.RedisError: the target cannot be reached, or refuses.
        """
        life = None if record.ttl_ms is None else timedelta(milliseconds=record.ttl_ms) - timedelta(seconds=age)
        if record.expires_at is not None:
            life = record.expires_at - datetime.now(UTC)
        if life is not None and life <= timedelta():
            return Outcome.EXPIRED
        try:
            return await (self._try(record) if self._is_dry else self._write(record, life))
        except (SerializationError, SessionTooLarge, CorruptSession, DurabilityUnproven) as error:
            raise NotWritten(str(error)) from error
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            name = self._store.key(record.user_id, record.channel_id)
            raise NotWritten(f"at {name} there is a key of another type") from error

    async def _write(self, record: Record, life: timedelta | None) -> Outcome:
        store = self._store.lasting(life)
        session = _session(record)
        ids = record.user_id, record.channel_id
        is_doubtful = False
        try:
            try:
                version = await store.set(*ids, session, expected_version=self._expected)
            except OutcomeUnknown:
                is_doubtful = True
                version = await store.set(*ids, session, expected_version=self._expected)
        except VersionConflict:
            outcome = await self._compare(record)
            # The first attempt wrote the session that is in the target.
            return Outcome.MIGRATED if is_doubtful and outcome is Outcome.SAME else outcome
        return Outcome.MIGRATED if version else Outcome.EXPIRED

    async def _try(self, record: Record) -> Outcome:
        codec = self._store.codec
        codec.encode(record.data, max_bytes=self._store.max_bytes, key=self._store.key(record.user_id, record.channel_id))
        if self._expected is None:
            return Outcome.MIGRATED
        try:
            there = await self._store.get(record.user_id, record.channel_id)
        except SessionTooLarge:
            return Outcome.OTHER
        return Outcome.MIGRATED if there is None else self._same(record, there)

    async def _compare(self, record: Record) -> Outcome:
        try:
            there = await self._store.get(record.user_id, record.channel_id)
        except (SessionTooLarge, CorruptSession):
            return Outcome.OTHER
        return Outcome.OTHER if there is None else self._same(record, there)

    def _same(self, record: Record, there: BotSession) -> Outcome:
        """Compares packed forms: so 1 and True differ, and NaN equals itself."""
        encode = self._store.codec.encode
        is_same = there.expires_at == record.expires_at and encode(there.data) == encode(record.data)
        return Outcome.SAME if is_same else Outcome.OTHER


def _session(record: Record) -> BotSession:
    session = BotSession(record.user_id, record.channel_id, record.data, expires_at=record.expires_at)
    if record.created_at is not None:
        session.created_at = record.created_at
    return session
