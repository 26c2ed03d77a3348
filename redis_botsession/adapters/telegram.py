"""python-telegram-bot 22 (https://docs.python-telegram-bot.org): what an ``Application`` keeps, in a store of sessions.

``Application.builder().token(...).persistence(BotSessionPersistence.from_url("redis://localhost:6379/0")).build()``

Where things are, for the bot with the id 777:

    user_data of 42          user 42, channel "777.user_data"
    chat_data of -5          user -5, channel "777.chat_data"
    bot_data                 user "bot.777", channel "bot_data"
    callback_data            user "bot.777", channel "callback_data", a top-level key for each keyboard and each query
    conversation (-5, 42)    user "bot.777.conversations.<name>", channel "-5.42"

When PTB writes: at each ``update_interval`` and at shutdown it deep-copies each dict that may have changed, calls the
``update_...`` method of its kind with the copy, one after the other, and awaits all the coroutines afterwards. Meanwhile a
``refresh_...`` before another update may merge new data into the original. So a write compares the copy with the base at the
time of the call, and the writes of one dict wait for each other.

Each key of such a dict is a top-level key of its session. ``store.clear(42)`` removes the user_data of 42, and the chat_data of
their private chat, which has the same id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Self, Unpack

from telegram.ext import BasePersistence, ConversationHandler, PersistenceInput

from .._session.changes import Changes
from .._session.record import Loaded
from .._store.base import BotSessionStore
from .._transport.options import StoreOptions
from ..errors import CorruptSession, SessionGone, SessionTooLarge
from ..store import SessionStore
from ._ids import channel_of
from ._merge import Copy, Data, Packed, Packer
from ._write_queue import Address, Pending, batches

logger = logging.getLogger(__name__)

#: What PTB gives and takes as callback data: keyboards (uuid, time of access, data of its buttons), and {query: uuid}.
CallbackData = tuple[list[tuple[str, float, dict[str, Any]]], dict[str, str]]


class _Copy(Copy):
    """One of PTB's dicts, as a copy of a session.

    A dict is in one of these states:

    ===========  ======================================================================================================
    known        loaded or refreshed; ``local`` is PTB's dict, and the next refresh merges into it
    unseen       loaded, but PTB has not shown its dict yet (``local`` is None)
    new          ``is_new``: PTB has not asked to write it since it was loaded, so a drop may have been asked for before that
    apart        ``is_apart``: PTB has put another dict in its place (a migrated chat). It has nothing to do with the session
                 until PTB either drops or overwrites the session
    gone         version 0: there is no session; whatever is put in starts a new one
    ===========  ======================================================================================================

    Attributes:
        address: The user and the channel of the session.
        local: PTB's dict; None until PTB has shown it.
        is_apart: See above.
        is_new: See above.
    """

    __slots__ = ("address", "is_apart", "is_new", "local")

    def __init__(self, packer: Packer, address: Address, key: str, local: Data | None = None) -> None:
        super().__init__(packer, key)
        self.address = address
        self.local = local
        self.is_apart = False
        self.is_new = False


class BotSessionPersistence(BasePersistence[Data, Data, Data]):
    """Keeps the data of an ``Application`` in a store of sessions, for several processes of one bot at once.

    Only the top-level keys that have changed are written. Before PTB handles an update, it calls the ``refresh_...`` methods,
    which merge the changes of other processes into its dicts, in place; changes that this process has not written yet stay. If
    both have changed the same key, the last write wins. Conversations and callback data are loaded when the bot starts, and
    not refreshed, since PTB has no call for that.

    user_data and chat_data that were dropped, or have expired, stay so: changes that another process had not written yet are
    dropped (that is logged), and its dict is emptied at its next refresh. Data that are put in later start a new session.

    A write that fails raises, so PTB calls the error handlers. It is tried again at each ``update_interval`` and when the
    application shuts down. Data that cannot be stored (``SerializationError``, ``SessionTooLarge``) raise, too: nothing of
    that dict is written, and it is tried again when PTB next reports that it may have changed. If a refresh fails, PTB calls
    the error handlers instead of handling the update with old data. (With several groups of handlers, PTB goes on with the
    next group.)

    The data are dicts (``ContextTypes`` with other types are refused with ``TypeError``); keys and values are what the
    store's codec can store. Register your own types with it, the enums of conversation states too.

    Args:
        store: The store of the sessions. It stays yours: nothing here closes it. With ``ttl=None`` data are kept for good,
            else for that long after their last use (a conversation: after its last step).
        store_data: Which kinds of data are stored; default: all.
        update_interval: Seconds between two calls of PTB that write the changes.
        preload: Whether to load user_data and chat_data of all users when the application starts, as PTB expects. If not,
            they are loaded when an update needs them, and ``application.user_data`` holds only those: for bots with very many
            users.
        bot_id: The id under which the data are stored, so that several bots can share a prefix; default: the bot's own.

    Raises:
        TypeError: ``store`` is no store.
    """

    def __init__(
        self,
        store: BotSessionStore,
        *,
        store_data: PersistenceInput | None = None,
        update_interval: float = 60,
        preload: bool = True,
        bot_id: int | None = None,
    ) -> None:
        if not isinstance(store, BotSessionStore):
            raise TypeError(
                f"BotSessionPersistence needs a BotSessionStore, not {type(store).__name__}; for a URL there is from_url(url)"
            )
        super().__init__(store_data, update_interval)
        self._store: BotSessionStore | None = store
        self._open: Callable[[], BotSessionStore] | None = None
        self._renews_ttl = True
        self._preload = preload
        self._bot_id = bot_id
        self._packer = Packer(store.codec, store.max_bytes)
        self._copies: dict[Address, _Copy] = {}
        self._found: dict[str, list[Address]] = {}
        self._pending = Pending(self._delete)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        store_data: PersistenceInput | None = None,
        update_interval: float = 60,
        preload: bool = True,
        bot_id: int | None = None,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """A persistence with a store of its own.

        ``flush``, which PTB calls at its end, closes the store; the next use opens a new one.

        Args:
            url: As for ``SessionStore.from_url``.
            store_data: As for the class.
            update_interval: As for the class.
            preload: As for the class.
            bot_id: As for the class.
            **options: As for ``SessionStore.from_url``, but ``ttl`` is None unless given: data are kept for good.

        Raises:
            What ``SessionStore.from_url`` raises.
        """
        options.setdefault("ttl", None)
        open_store = partial(SessionStore.from_url, url, **options)
        persistence = cls(open_store(), store_data=store_data, update_interval=update_interval, preload=preload, bot_id=bot_id)
        persistence._open = open_store
        persistence._renews_ttl = options["ttl"] is not None
        return persistence

    @property
    def store(self) -> BotSessionStore:
        """The store, for what PTB has no word for, like ``await persistence.store.clear(user_id)``."""
        if self._store is None:
            assert self._open is not None  # noqa: S101 - only a store of our own is ever closed
            self._store = self._open()
        return self._store

    # --- Loading when PTB starts

    async def get_user_data(self) -> dict[int, Data]:
        """The user_data of everybody; {} without ``preload``. What does not decode is logged and left out."""
        return await self._load_kind("user_data")

    async def get_chat_data(self) -> dict[int, Data]:
        """The chat_data of all chats; {} without ``preload``. What does not decode is logged and left out."""
        return await self._load_kind("chat_data")

    async def get_bot_data(self) -> Data:
        """The bot_data. Raises what ``store.get`` raises."""
        return await self._load_one("bot_data")

    async def get_callback_data(self) -> CallbackData | None:
        """The callback data, the keyboard that was used last at the end; None if there are none.

        Raises:
            What ``store.get`` raises.
        """
        keyboards: list[tuple[str, float, dict[str, Any]]] = []
        queries: dict[str, str] = {}
        for name, value in (await self._load_one("callback_data")).items():
            kind, _, id_ = name.partition(" ")
            if kind == "keyboard":
                keyboards.append((id_, *value))
            else:
                queries[id_] = value
        keyboards.sort(key=lambda keyboard: keyboard[1])
        return (keyboards, queries) if keyboards or queries else None

    async def get_conversations(self, name: str) -> dict[tuple[int | str, ...], object]:
        """The conversations of the handler ``name``: {key: state}. What does not decode is logged and left out."""
        user_id = self._bots_user("conversations", name)
        addresses = [(user_id, channel) for channel in await self.store.channels(user_id)]
        return {loaded.session.data["key"]: loaded.session.data["state"] async for _, loaded in self._load_many(addresses)}

    # --- Writing
    #
    # PTB calls these methods with deep copies of its dicts, one after the other without a break, and awaits the coroutines
    # later, all at once. By then a refresh may have moved the base. So each method takes the base when it is called, not when
    # it is awaited.

    def update_user_data(self, user_id: int, data: Data) -> Coroutine[Any, Any, None]:
        """Writes what has changed. Raises what ``store.update`` raises; see the class."""
        return self._save(self._copy(str(user_id), "user_data"), data)

    def update_chat_data(self, chat_id: int, data: Data) -> Coroutine[Any, Any, None]:
        """Writes what has changed. Raises what ``store.update`` raises; see the class."""
        return self._save(self._copy(str(chat_id), "chat_data"), data)

    def update_bot_data(self, data: Data) -> Coroutine[Any, Any, None]:
        """Writes what has changed. Raises what ``store.update`` raises; see the class."""
        return self._save(self._bots_copy("bot_data"), data)

    def update_callback_data(self, data: CallbackData) -> Coroutine[Any, Any, None]:
        """Writes what has changed; what has left PTB's cache goes.

        Raises:
            What ``store.update`` raises; see the class. A button whose data cannot be stored keeps no other keyboard from it.
        """
        keyboards, queries = data
        flat: Data = {f"keyboard {uuid}": (accessed, buttons) for uuid, accessed, buttons in keyboards}
        flat.update((f"query {query}", uuid) for query, uuid in queries.items())
        return self._save(self._bots_copy("callback_data"), flat, piecemeal=True)

    def update_conversation(self, name: str, key: tuple[int | str, ...], new_state: object | None) -> Coroutine[Any, Any, None]:
        """Writes the state of a conversation; None and ``ConversationHandler.END`` end it.

        Raises:
            What ``store.update`` raises; see the class.
        """
        # A key with text is stored in its packed form, so that "1" and 1 stay different.
        channel = channel_of(*key) if all(type(part) is int for part in key) else self._packer.names.name(key)
        address = self._bots_user("conversations", name), channel
        if new_state is None or new_state == ConversationHandler.END:
            return self._pending.submit(address, None, drops=True)
        return self._pending.submit(address, partial(self._put, address, {"key": key, "state": new_state}))

    def drop_user_data(self, user_id: int) -> Coroutine[Any, Any, None]:
        """Removes the user_data of a user."""
        return self._drop(self._copy(str(user_id), "user_data"))

    def drop_chat_data(self, chat_id: int) -> Coroutine[Any, Any, None]:
        """Removes the chat_data of a chat."""
        return self._drop(self._copy(str(chat_id), "chat_data"))

    async def flush(self) -> None:
        """Writes what is still to be written, and closes the store if it is our own.

        Raises:
            What ``store.update`` and ``store.delete`` raise: of several errors the first. What could not be written is kept:
            another ``flush`` tries again.
        """
        try:
            await self._pending.flush()
        finally:
            if self._open is not None and self._store is not None:
                store, self._store = self._store, None
                await store.aclose()

    # --- Refreshing before PTB handles an update

    async def refresh_user_data(self, user_id: int, user_data: Data) -> None:
        """Takes over, in place, what others have changed; one round trip. Raises what ``store.get`` raises."""
        await self._refresh(self._copy(str(user_id), "user_data"), user_data)

    async def refresh_chat_data(self, chat_id: int, chat_data: Data) -> None:
        """Takes over, in place, what others have changed; one round trip. Raises what ``store.get`` raises."""
        await self._refresh(self._copy(str(chat_id), "chat_data"), chat_data)

    async def refresh_bot_data(self, bot_data: Data) -> None:
        """Takes over, in place, what others have changed; one round trip. Raises what ``store.get`` raises."""
        copy = self._bots_copy("bot_data")
        # PTB never drops bot_data. So if it has another dict, the keys that are missing there were removed.
        copy.local = bot_data
        await self._refresh(copy, bot_data)

    # --- Locations of the sessions

    @property
    def _bot(self) -> int:
        if self._bot_id is not None:
            return self._bot_id
        if self.bot is None:
            raise RuntimeError("no bot yet: build an Application with this persistence, or give bot_id=")
        return self.bot.id

    def _bots_user(self, *parts: str) -> str:
        return channel_of("bot", self._bot, *parts)

    def _copy(self, user_id: str, kind: str) -> _Copy:
        return self._copy_at((user_id, channel_of(self._bot, kind)))

    def _bots_copy(self, kind: str) -> _Copy:
        return self._copy_at((self._bots_user(), kind))

    def _copy_at(self, address: Address) -> _Copy:
        return self._copies.setdefault(address, _Copy(self._packer, address, self.store.key(*address)))

    # --- Loading

    async def _load_kind(self, kind: str) -> dict[int, Data]:
        channel = channel_of(self._bot, kind)
        for copy in self._copies.values():
            if copy.address[1] == channel:
                # The application may be a new one, whose dicts have never seen the session.
                copy.version = 0
        if not self._preload:
            return {}
        addresses = await self._find(channel)
        return {int(user_id): self._adopt((user_id, at), found) async for (user_id, at), found in self._load_many(addresses)}

    async def _find(self, channel: str) -> list[Address]:
        """The sessions in ``channel``. One scan finds user_data and chat_data, which PTB asks for one after the other."""
        if channel not in self._found:
            kinds = [kind for kind in ("user_data", "chat_data") if getattr(self.store_data, kind)]
            self._found = {channel_of(self._bot, kind): [] for kind in kinds}
            self._found.setdefault(channel, [])
            async for user_id, at in self.store.scan():
                if at in self._found and user_id.removeprefix("-").isdecimal():
                    self._found[at].append((user_id, at))
        return self._found.pop(channel)

    async def _load_many(self, addresses: Iterable[Address]) -> AsyncIterator[tuple[Address, Loaded]]:
        for batch in batches(addresses):
            found = await asyncio.gather(*(self.store.load(*at) for at in batch), return_exceptions=True)
            for at, loaded in zip(batch, found, strict=True):
                if isinstance(loaded, CorruptSession | SessionTooLarge):
                    # One damaged session does not keep a bot from starting. An update that needs it raises.
                    logger.error("left out when the bot started: %s", loaded)
                elif isinstance(loaded, BaseException):
                    raise loaded
                elif loaded is not None:
                    yield at, loaded

    async def _load_one(self, kind: str) -> Data:
        address = self._bots_user(), kind
        return self._adopt(address, await self.store.load(*address))

    def _adopt(self, address: Address, loaded: Loaded | None) -> Data:
        """A new dict for a session that was just loaded."""
        data: Data = {}
        self._copies[address] = copy = _Copy(self._packer, address, self.store.key(*address), data)
        self._take_over(copy, data, loaded)
        return data

    # --- Refreshing

    async def _refresh(self, copy: _Copy, local: Data) -> None:
        _check_dict(local)
        if copy.local is None:
            copy.is_new = True
        elif copy.local is not local:
            if copy.version:
                copy.is_apart = True
            else:
                copy.base = {}
        copy.local = local
        if copy.is_apart:
            return
        async with self._pending.turn(copy.address):
            # Before the load, which would otherwise bring a dropped session back.
            await self._pending.drop(copy.address)
            loaded = await self.store.load(*copy.address, touch=self._renews_ttl)
            # Not if the copy was dropped meanwhile.
            if self._copies.get(copy.address) is copy:
                self._take_over(copy, local, loaded)

    def _take_over(self, copy: _Copy, local: Data, loaded: Loaded | None) -> None:
        lost = copy.merge(local, loaded)
        if lost is not None:
            self._pending.give_up(copy.address)
            self._log_lost(copy, lost)

    def _log_lost(self, copy: _Copy, changes: Changes) -> None:
        if changes:
            key = self.store.key(*copy.address)
            logger.warning("changes dropped: session %s was deleted or has expired before they were written", key)

    # --- Writing

    def _save(self, copy: _Copy, data: Data, *, piecemeal: bool = False) -> Coroutine[Any, Any, None]:
        copy.is_apart = copy.is_new = False
        return self._pending.submit(copy.address, partial(self._merge, copy, data, copy.base, piecemeal))

    def _drop(self, copy: _Copy) -> Coroutine[Any, Any, None]:
        if copy.is_apart or not copy.is_new:
            # PTB does not use this dict any more. Its next one starts from nothing.
            del self._copies[copy.address]
        return self._pending.submit(copy.address, None, drops=True)

    async def _delete(self, address: Address) -> None:
        await self.store.delete(*address)
        if address in self._copies:
            self._copies[address].version = 0

    async def _merge(self, copy: _Copy, data: Data, base: Packed, piecemeal: bool) -> None:
        """Writes what leads from ``base`` to ``data``."""
        _check_dict(data)
        changes, error = copy.changes(data, base, piecemeal=piecemeal)
        if changes:
            try:
                if changes.packed or copy.version:
                    version = await self.store.write(*copy.address, changes.as_write(since=copy.version))
                else:
                    # Only removals: they must not create a session.
                    version = await self.store.update(*copy.address, {}, remove=changes.removed, create=False)
            except SessionGone:
                version = 0
            except BaseException:
                copy.doubt(changes)
                raise
            copy.follow(changes, version)
            if copy.version and not version:
                self._log_lost(copy, changes)
        if error is not None:
            raise error

    async def _put(self, address: Address, data: dict[str, Any]) -> None:
        await self.store.update(*address, data)


def _check_dict(data: object) -> None:
    if not isinstance(data, dict):
        raise TypeError(
            f"BotSessionPersistence keeps dicts, not {type(data).__name__}: leave ContextTypes' user_data, chat_data and "
            "bot_data as they are"
        )
