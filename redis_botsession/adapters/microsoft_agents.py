"""The storage of a Microsoft 365 Agents SDK agent (``microsoft-agents-hosting-core``), in a store of sessions.

    storage = BotSessionStorage.from_url("redis://localhost:6379/0", prefix="agent:")   # was: MemoryStorage()
    app = AgentApplication[TurnState](storage=storage, ...)

Each storage key is a session, each property of the state a top-level key of it: turns that change different properties of one
state at the same time both count.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, Unpack
from weakref import WeakValueDictionary

from microsoft_agents.hosting.core.state.agent_state import CachedAgentState
from microsoft_agents.hosting.core.storage import Storage, StoreItem
from microsoft_agents.hosting.core.storage.telemetry import spans

from .._session.changes import Changes, Snapshot
from .._session.record import BotSession, Loaded
from .._store.base import DEFAULT_ATTEMPTS, BotSessionStore
from .._transport.options import StoreOptions
from ..errors import SessionGone, VersionConflict
from ..store import SessionStore
from ._agents_state import Baseline, Baselines, Marks
from ._ids import Names

logger = logging.getLogger(__name__)

StoreItemT = TypeVar("StoreItemT", bound=StoreItem)
OnConflict = Literal["merge", "raise", "overwrite"]

# The data of one user or one conversation are stored under one user of the store.
_OWNED: Final = re.compile(r"([^/]+/(?:users|conversations)/[^/]+)(/.*)?", re.DOTALL)
_CHANNEL: Final = "state"

# Values that are settings rather than counters: two turns that set the same one agree.
_SETTINGS: Final = (str, bool, type(None))

_TAGS: Final = ("e_tag", "eTag")
_ANY_VERSION: Final = "*"

_LONGEST_PAUSE: Final = 0.05


class BotSessionStorage(Storage):
    """Keeps the items of an agent in a store of sessions: one session for each storage key.

    What a write does where others have written the same key since the item was read is ``on_conflict``:

    - ``"merge"``: properties (top-level keys of the item's JSON) that only one of the two has changed are all kept. Where both
      have changed the same one, ``VersionConflict`` is raised and nothing is written, unless both have removed it, or set it
      to the same text, truth value or None. (Two that count from the same number come to the same number, too.)
    - ``"raise"``: ``VersionConflict``, whatever they have changed.
    - ``"overwrite"``: the item replaces what is there, as with the storages of the SDK. Others' changes are lost.

    In the first two, only what has changed since the read is sent, and an item that was read and that is deleted or has
    expired meanwhile is not brought back: ``SessionGone``. (Where the turn itself deleted it by ``AgentState.delete``, what the
    SDK saves at the end of that turn is dropped, with a warning in the log.) An item that was not read by this storage replaces
    what is there, unless this turn has read that key and found nothing, or it is what ``AgentState`` made because of that: then
    it counts as read when it was empty.

    An item with an attribute ``e_tag`` (or ``eTag``) has its version in it after a read and a write. Where it is a version,
    the write needs exactly that, in every mode; "0": there must be nothing yet; "*": whatever there is, it is replaced; None
    or "": the rules above.

    In the store, ``msteams/users/29:xyz`` is the channel "state" of the user of that name, and so is
    ``msteams/conversations/19:abc``; what has such a key and a slash before further text is another channel of the same user.
    All other keys are users of their own. So ``storage.store.clear("msteams/users/29:xyz")`` removes all that is kept under it.

    Args:
        store: The store; it stays yours: ``aclose`` does not close it. Its ``ttl`` counts from the last read or write.
        on_conflict: As above.

    Raises:
        TypeError: no such store.
        ValueError: no such ``on_conflict``.
    """

    def __init__(self, store: BotSessionStore, *, on_conflict: OnConflict = "merge") -> None:
        if not isinstance(store, BotSessionStore):
            raise TypeError(f"a store like SessionStore is needed, not {type(store).__name__}; for a URL there is from_url")
        if on_conflict not in ("merge", "raise", "overwrite"):
            raise ValueError(f"on_conflict must be 'merge', 'raise' or 'overwrite', not {on_conflict!r}")
        self._store = store
        self._on_conflict = on_conflict
        self._owns_store = False
        self._names = Names(store.codec)
        self._baselines = Baselines()
        # The lock of each session. An entry lives while a task holds or awaits the lock.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._marks = Marks()

    @classmethod
    def from_url(cls, url: str, *, on_conflict: OnConflict = "merge", **options: Unpack[StoreOptions]) -> Self:
        """A storage with a ``SessionStore`` of its own, which ``aclose`` closes.

        Args:
            url: As for ``SessionStore.from_url``.
            on_conflict: As for the class.
            **options: As for ``SessionStore.from_url``, but ``ttl`` (which counts from the last read or write) is None unless
                given: items are kept for good, as by the SDK's storages.

        Raises:
            TypeError, ValueError: as for ``SessionStore.from_url`` and the class.
        """
        options.setdefault("ttl", None)
        storage = cls(SessionStore.from_url(url, **options), on_conflict=on_conflict)
        storage._owns_store = True
        return storage

    @property
    def store(self) -> BotSessionStore:
        """The store, for what the SDK has no call for, like ``clear``."""
        return self._store

    async def read(self, keys: Iterable[str], *, target_cls: type[StoreItemT], **kwargs: Any) -> dict[str, StoreItemT]:
        """Reads items, all in one round trip if the store can; renews their rolling TTL.

        Args:
            keys: Storage keys.
            target_cls: Makes an item of the JSON by ``from_json_to_store_item``.
            **kwargs: Nothing; the SDK has them.

        Returns:
            The items by key, without those that there are not.

        Raises:
            ValueError: no keys, or an empty one.
            TypeError: a key that is no ``str``, or items that take no weak references.
            CorruptSession, SessionTooLarge: as for ``BotSessionStore.get``.
        """
        wanted = _checked(keys, "Storage.read(): Keys are required when reading.", "read")
        with spans.StorageRead(len(wanted)):
            return await self._read(wanted, target_cls)

    async def _read(self, keys: list[str], target_cls: type[StoreItemT]) -> dict[str, StoreItemT]:
        loads = [self._store.load(*_ids(key), touch=True) for key in keys]
        items: dict[str, StoreItemT] = {}
        for key, loaded in zip(keys, await asyncio.gather(*loads), strict=True):
            if loaded is None:
                self._marks.add(key, "absent")
                continue
            self._marks.clear(key)
            session = loaded.session
            # Any: the SDK declares that the method returns any StoreItem.
            item: Any = target_cls.from_json_to_store_item(self._names.unpack(session.data))
            if self._on_conflict != "overwrite":
                self._baselines.add(item, key, self._baseline(_ids(key), loaded))
            _set_tag(item, session.version)
            items[key] = item
        return items

    async def write(self, changes: Mapping[str, StoreItem]) -> None:
        """Writes items; see the class for what happens to others' changes.

        All are checked before the first is sent. Each is written atomically, but not all of them together: the error for one
        does not keep back the others, and has a note that says which were written.

        Args:
            changes: The items by storage key.

        Raises:
            ValueError: no items, an empty key, an ``e_tag`` that is none.
            TypeError: a key that is no ``str``, an item whose JSON is no dict.
            VersionConflict: others have written the key since the item was read.
            SessionGone: the item was read, and has been deleted or has expired since.
            SerializationError, SessionTooLarge: it cannot be stored.
            OutcomeUnknown: the connection was lost before the reply.
        """
        keys = _checked(changes, "Storage.write(): Changes are required when writing.", "write")
        packed = {key: self._names.pack(_json(key, changes[key])) for key in keys}
        tags = {key: _tag(key, changes[key]) for key in keys}
        if len(keys) > 1:
            for key, data in packed.items():
                self._store.codec.encode(data, max_bytes=self._store.max_bytes, key=self._store.key(*_ids(key)))
        with spans.StorageWrite(len(keys)):
            await _all_of("written", {key: self._write(key, changes[key], data, tags[key]) for key, data in packed.items()})

    async def delete(self, keys: Iterable[str]) -> None:
        """Removes items, whatever their version; those that there are not do no harm.

        Raises:
            ValueError: no keys, or an empty one.
            TypeError: a key that is no ``str``.
            What Redis raises; with a note that says which were deleted.
        """
        doomed = _checked(keys, "Storage.delete(): Keys are required when deleting.", "delete")
        with spans.StorageDelete(len(doomed)):
            await _all_of("deleted", {key: self._store.delete(*_ids(key)) for key in doomed})
        for key in doomed:
            self._marks.add(key, "deleted")

    async def aclose(self) -> None:
        """Closes the store if it is the storage's own."""
        if self._owns_store:
            await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _write(self, key: str, item: StoreItem, data: dict[str, Any], tag: str | int | None) -> None:
        ids = _ids(key)
        baseline = self._baseline_of(key, item)
        if tag == _ANY_VERSION or (tag is None and self._replaces(key, item, baseline)):
            version = await self._store.replace(*ids, data)
        elif isinstance(tag, int):
            version = await self._save_at(tag, ids, baseline, data)
        else:
            if baseline is None:
                baseline = self._baseline(ids, Loaded(BotSession(*ids)))
                self._baselines.add(item, key, baseline)
            try:
                version = await self._save(baseline, data, merge=self._on_conflict == "merge")
            except SessionGone:
                if not (isinstance(item, CachedAgentState) and self._marks.find(key) == "deleted"):
                    raise
                # AgentState.delete leaves the state in memory, and AgentApplication saves it at the end of the turn.
                logger.warning(
                    "session %s was deleted by this turn: what the turn saves of it is dropped", self._store.key(*ids)
                )
                return
        self._marks.clear(key)
        _set_tag(item, version)

    def _baseline_of(self, key: str, item: StoreItem) -> Baseline | None:
        # A caller that deletes an item and then writes it wants it to exist. AgentState writes what it deleted by itself.
        is_recreated = self._marks.find(key) == "deleted" and not isinstance(item, CachedAgentState)
        return None if is_recreated else self._baselines.find(item, key)

    def _replaces(self, key: str, item: StoreItem, baseline: Baseline | None) -> bool:
        if self._on_conflict == "overwrite":
            return True
        return baseline is None and not isinstance(item, CachedAgentState) and self._marks.find(key) is None

    async def _save_at(self, version: int, ids: tuple[str, str], baseline: Baseline | None, data: dict[str, Any]) -> int:
        """Replaces what has that version."""
        if baseline is None or baseline.expected != version:
            loaded = await self._store.load(*ids)
            loaded = loaded or Loaded(BotSession(*ids))
            if loaded.session.version != version:
                raise self._conflict(ids, version, loaded.session.version, "it is at another version than the item's e_tag")
            baseline = self._baseline(ids, loaded)
        return await self._save(baseline, data, always=True)

    async def _save(self, baseline: Baseline, data: dict[str, Any], *, merge: bool = False, always: bool = False) -> int:
        """Sends what has changed since the baseline, and moves that on; with ``always``, also where nothing has changed."""
        # One turn of this process at a time, so only other processes can make a merge conflict.
        async with self._locks.setdefault(baseline.ids, asyncio.Lock()):
            baseline.session.data = data
            changes = baseline.snapshot.changes_in(baseline.session)
            if not changes and baseline.since is not None and not always:
                return baseline.since
            try:
                write = changes.as_write(expected=baseline.expected, since=baseline.since or 0)
                version = await self._store.write(*baseline.ids, write)
                baseline.expected = version
            except VersionConflict:
                if not merge:
                    raise
                # The baseline stays at the old version, since the item has not seen what others have written.
                version = await self._merge(baseline, changes)
            if version == 0:
                key = self._store.key(*baseline.ids)
                raise SessionGone(f"session {key} has expired since the item was read; nothing was written", key=key)
            baseline.snapshot.apply(changes)
            baseline.since = version
            return version

    async def _merge(self, baseline: Baseline, changes: Changes) -> int:
        attempt = 0
        while True:
            attempt += 1
            loaded = await self._store.load(*baseline.ids)
            current = loaded.session if loaded else BotSession(*baseline.ids)
            if loaded:
                self._refuse_clashes(baseline, changes, current)
            try:
                write = changes.as_write(expected=current.version, since=baseline.since or 0)
                return await self._store.write(*baseline.ids, write)
            except VersionConflict:
                if attempt == DEFAULT_ATTEMPTS:
                    raise
            await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.001 * attempt)))  # noqa: S311 - jitter

    def _refuse_clashes(self, baseline: Baseline, changes: Changes, current: BotSession) -> None:
        ours, theirs = _outcome(changes), _outcome(baseline.snapshot.changes_in(current))
        # Two counters that start from the same value reach the same value, and one of the two counts would be lost.
        clashes = [
            name
            for name, packed in ours.items()
            if name in theirs and (theirs[name] != packed or type(changes.changed.get(name)) not in _SETTINGS)
        ]
        if clashes:
            what = f"{', '.join(map(repr, clashes))} changed since the item was read"
            raise self._conflict(baseline.ids, baseline.expected, current.version, what)

    def _conflict(self, ids: tuple[str, str], expected: int, actual: int, what: str) -> VersionConflict:
        key = self._store.key(*ids)
        return VersionConflict(
            f"session {key}: {what}; nothing was written, read it again", key=key, expected=expected, actual=actual
        )

    def _baseline(self, ids: tuple[str, str], loaded: Loaded) -> Baseline:
        session, store = loaded.session, self._store
        key = store.key(*ids)
        snapshot = Snapshot(session, store.codec, max_bytes=store.max_bytes, key=key, packed=loaded.packed)
        return Baseline(ids, session, snapshot, session.version, session.version or None)


def _ids(key: str) -> tuple[str, str]:
    """Splits a storage key into (user, channel): ``user + channel.removeprefix("state")`` is the key again."""
    if owned := _OWNED.fullmatch(key):
        return owned[1], _CHANNEL + (owned[2] or "")
    return key, _CHANNEL


def _checked(keys: Iterable[str] | None, none: str, method: str) -> list[str]:
    """The keys, each once. Raises what is wrong with them."""
    if isinstance(keys, str):
        raise TypeError(f"BotSessionStorage.{method}(): keys must be a list of str, not one str")
    found = [*dict.fromkeys(keys or ())]
    if not found:
        raise ValueError(none)
    for key in found:
        if key is None or key == "":
            raise ValueError(f"BotSessionStorage.{method}(): key cannot be empty")
        if not isinstance(key, str):
            raise TypeError(f"BotSessionStorage.{method}(): keys must be str, not {type(key).__name__}")
    return found


def _json(key: str, item: StoreItem) -> Mapping[Any, Any]:
    # Some items of the SDK can be recognized by their methods only.
    json: Any = item.store_item_to_json()
    if not isinstance(json, Mapping):
        raise TypeError(f"storage key {key!r}: the JSON of a {type(item).__name__} must be a dict, not {type(json).__name__}")
    return json


def _tag(key: str, item: StoreItem) -> str | int | None:
    """The item's e_tag: a version, "*", or None."""
    tag = next((getattr(item, name) for name in _TAGS if hasattr(item, name)), None)
    if tag is None or tag == "":
        return None
    if tag == _ANY_VERSION:
        return _ANY_VERSION
    if isinstance(tag, str) and tag.isascii() and tag.isdecimal():
        return int(tag)
    raise ValueError(f"storage key {key!r}: the e_tag of an item must be '*', None or one that a read or write has set")


def _set_tag(item: StoreItem, version: int) -> None:
    for name in _TAGS:
        if hasattr(item, name):
            # An item may refuse to have its e_tag set.
            with suppress(AttributeError):
                setattr(item, name, str(version))


def _outcome(changes: Changes) -> dict[str, bytes | None]:
    """What each changed key becomes, packed; None: it goes."""
    return {**dict(zip(changes.changed, changes.packed.values(), strict=True)), **dict.fromkeys(changes.removed)}


async def _all_of(done: str, calls: dict[str, Awaitable[Any]]) -> None:
    """Runs all calls to their end; raises the first error, with a note that says what became of the others."""
    results = dict(zip(calls, await asyncio.gather(*calls.values(), return_exceptions=True), strict=True))
    errors = {key: result for key, result in results.items() if isinstance(result, BaseException)}
    if errors:
        error = next(iter(errors.values()))
        if len(calls) > 1:
            fine = [key for key in calls if key not in errors]
            failed = ", ".join(f"{key!r} ({type(error).__name__})" for key, error in errors.items())
            error.add_note(f"of {len(calls)} keys, {done}: {fine}; failed: {failed}")
        raise error
