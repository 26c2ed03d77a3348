"""State storages for pyTelegramBotAPI (telebot): ``AsyncTeleBot(token, state_storage=AsyncBotSessionStorage(store))``.

Both do what telebot's ``StateMemoryStorage`` does, but for this, on purpose:

- ``retrieve_data`` saves only the keys that were changed in it. (telebot's own storages write all of it back, over what
  others, or ``add_data`` and ``reset_data`` inside of it, have written meanwhile.)
- An exception inside of ``retrieve_data`` goes on to the bot's exception handler, and nothing is saved. (telebot's own save,
  and swallow it: their ``__exit__`` returns True.)
- A record that was deleted inside of ``retrieve_data`` stays deleted, and one that was created in its place is not written
  into. (telebot's own put the old data into the new one.)
- All parts of an address are kept apart. (telebot leaves out those that are missing, so topic 7 and bot 7 are one.)
- ``get_data`` gives a copy. (Changing what the memory storage gives changes what is stored.)
- Records expire with the store's rolling TTL, which every write and every ``retrieve_data`` renews.
- Keys, values and states are what the store's codec can store, and come back with their types; the data are a dict.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Self

from telebot.asyncio_storage import StateStorageBase as AsyncStateStorageBase
from telebot.storage import StateStorageBase

from .. import sync
from .._codec.codec import Codec
from .._session.live import BotSessionHelper
from .._session.record import BotSession, Id
from .._session.store import BotSessionStore
from ..errors import SessionGone
from ..store import SessionStore
from ._ids import STATE, Names, channel_of

logger = logging.getLogger("redis_botsession")

#: A part of a record's address; None where an update has no such part.
Ref = str | int | None


def _where(
    chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
) -> tuple[Id, str]:
    """The user and the channel in the store. As in telebot, a business connection, topic or bot that is 0 or "" is none.

    telebot asks for the state of nobody when reactions are counted, so the user may be missing, and the chat.
    """
    missing = ("c" if chat_id is None else "") + ("u" if user_id is None else "")
    channel = channel_of(
        "" if chat_id is None else chat_id,
        b=bot_id or None,
        c=business_connection_id or None,
        t=message_thread_id or None,
        n=missing or None,
    )
    return ("none" if user_id is None else user_id), channel


class _Records:
    """What telebot's records are as sessions. No I/O: both storages share it."""

    def __init__(self, codec: Codec) -> None:
        self._names = Names(codec)

    def state(self, state: Any) -> dict[str, Any]:
        """The field of a state; of ``State`` objects the name counts, as in telebot."""
        return {STATE: state.name if hasattr(state, "name") else state}

    def state_of(self, session: BotSession | None) -> Any:
        return None if session is None else session.data.get(STATE)

    def data(self, data: Any) -> dict[str, Any]:
        """The fields of the data."""
        if not isinstance(data, Mapping):
            raise TypeError(f"the data of a state are a dict, not {type(data).__name__}")
        return self._names.pack(data)

    def data_of(self, session: BotSession | None) -> dict[Any, Any]:
        return {} if session is None else self._names.unpack(session.data)

    def put(self, data: Any, session: BotSession) -> None:
        """Puts the data, as a handler has left them, into the session that they came from."""
        state = {STATE: session.data[STATE]} if STATE in session.data else {}
        session.data = self.data(data) | state


def _no_record(key: str) -> RuntimeError:
    return RuntimeError(f"there is no state at {key} that data could be added to: call set_state first (or it has expired)")


def _log_dropped(error: SessionGone) -> None:
    logger.warning("changes dropped: the state at %s was deleted or has expired meanwhile, or was never set", error.key)


class AsyncBotSessionStorage(AsyncStateStorageBase):
    """A state storage for ``AsyncTeleBot``; how it differs from telebot's own stands on top of this module.

    A record is a session of the store: the state in its field ``:state``, the data in fields beside it. Besides what each
    method says, they raise what the store's do: ``SerializationError`` and ``SessionTooLarge`` for what cannot be stored,
    ``OutcomeUnknown``, redis-py's errors, ``TypeError`` and ``ValueError`` for ids that are none.

    Args:
        store: Where the records are. It stays yours: ``aclose`` does not close it.

    Raises:
        TypeError: not an asynchronous store.
    """

    def __init__(self, store: BotSessionStore) -> None:
        if not isinstance(store, BotSessionStore):
            kind = f"{type(store).__module__}.{type(store).__name__}"
            raise TypeError(f"AsyncBotSessionStorage needs a BotSessionStore, not {kind} (for TeleBot: BotSessionStorage)")
        self._store = store
        self._owned = False
        self._records = _Records(store.codec)

    @classmethod
    def from_url(cls, url: str, **store_options: Any) -> Self:
        """A storage with a store of its own; ``aclose`` closes it.

        Args:
            url: As for ``SessionStore.from_url``.
            **store_options: As for ``SessionStore.from_url``: ``prefix``, ``ttl`` (seconds, a day unless given; None keeps
                records for good, as telebot's own storages do), ...

        Raises:
            TypeError, ValueError: what ``SessionStore.from_url`` does not take.
        """
        storage = cls(SessionStore.from_url(url, **store_options))
        storage._owned = True
        return storage

    async def set_state(
        self,
        chat_id: Ref,
        user_id: Ref,
        state: Any,
        business_connection_id: Ref = None,
        message_thread_id: Ref = None,
        bot_id: Ref = None,
    ) -> bool:
        """Sets the state (a ``State``, or a value like "name", 1, None) and keeps the data; creates the record. True."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        await self._store.update(*where, self._records.state(state))
        return True

    async def get_state(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> Any:
        """The state; None if there is none."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return self._records.state_of(await self._store.get(*where))

    async def delete_state(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> bool:
        """Removes the record, state and data; whether there was one."""
        return await self._store.delete(*_where(chat_id, user_id, business_connection_id, message_thread_id, bot_id))

    async def set_data(
        self,
        chat_id: Ref,
        user_id: Ref,
        key: Any,
        value: Any,
        business_connection_id: Ref = None,
        message_thread_id: Ref = None,
        bot_id: Ref = None,
    ) -> bool:
        """Sets one key of the data, atomically: what others set meanwhile stays. True.

        Raises:
            RuntimeError: there is no record, as with telebot's own.
        """
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        try:
            await self._store.update(*where, self._records.data({key: value}), create=False)
        except SessionGone as error:
            raise _no_record(self._store.key(*where)) from error
        return True

    async def get_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> dict[Any, Any]:
        """A copy of the data; empty if there is no record."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return self._records.data_of(await self._store.get(*where))

    async def reset_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> bool:
        """Removes the data and keeps the state; whether there is a record."""
        return await self.save(chat_id, user_id, {}, business_connection_id, message_thread_id, bot_id)

    async def save(
        self,
        chat_id: Ref,
        user_id: Ref,
        data: Mapping[Any, Any],
        business_connection_id: Ref = None,
        message_thread_id: Ref = None,
        bot_id: Ref = None,
    ) -> bool:
        """Replaces the data and keeps the state; whether there is a record."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        try:
            return bool(await self._store.replace(*where, self._records.data(data), keep=(STATE,), create=False))
        except SessionGone:
            return False

    def get_interactive_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> AsyncStateData:
        """What ``bot.retrieve_data`` gives."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return AsyncStateData(self._store, self._records, where)

    async def aclose(self) -> None:
        """Closes the store if ``from_url`` made it. telebot does not call this: your program does, at its end."""
        if self._owned:
            await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


class AsyncStateData:
    """``async with bot.retrieve_data(...) as data``: loads the data, and saves at the end the keys that have changed.

    Change the dict as you like, in place, nested too. After an exception nothing is saved. Where there is no record to save
    to (any more), that is logged; one that is created inside, where there was none, gets the data.

    Attributes:
        data: The data; None before they are loaded.
    """

    def __init__(self, store: BotSessionStore, records: _Records, where: tuple[Id, str]) -> None:
        self._store = store
        self._records = records
        self._where = where
        self._session: BotSessionHelper | None = None
        self.data: dict[Any, Any] | None = None

    async def __aenter__(self) -> dict[Any, Any]:
        self._session = await BotSessionHelper.load(self._store, *self._where)
        self.data = self._records.data_of(self._session)
        return self.data

    async def __aexit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        session = self._session
        if kind is not None or session is None:
            return
        self._records.put(self.data, session)
        try:
            if session.version:
                await session.save()
            elif session.data:
                await self._store.update(*self._where, session.data, create=False)
        except SessionGone as gone:
            _log_dropped(gone)


class BotSessionStorage(StateStorageBase):
    """A state storage for ``TeleBot``, for any number of threads; otherwise what ``AsyncBotSessionStorage`` is.

    Args:
        store: Where the records are. It stays yours: ``close`` does not close it.

    Raises:
        TypeError: not a synchronous store.
    """

    def __init__(self, store: sync.SessionStore) -> None:
        if not isinstance(store, sync.SessionStore):
            kind = f"{type(store).__module__}.{type(store).__name__}"
            raise TypeError(
                f"BotSessionStorage needs a sync.SessionStore, not {kind} (for AsyncTeleBot: AsyncBotSessionStorage)"
            )
        self._store = store
        self._owned = False
        self._records = _Records(store.codec)

    @classmethod
    def from_url(cls, url: str, **store_options: Any) -> Self:
        """A storage with a store of its own, from ``sync.SessionStore.from_url``; ``close`` closes it.

        Raises:
            TypeError, ValueError: what that does not take.
        """
        storage = cls(sync.SessionStore.from_url(url, **store_options))
        storage._owned = True
        return storage

    def set_state(
        self,
        chat_id: Ref,
        user_id: Ref,
        state: Any,
        business_connection_id: Ref = None,
        message_thread_id: Ref = None,
        bot_id: Ref = None,
    ) -> bool:
        """Sets the state (a ``State``, or a value like "name", 1, None) and keeps the data; creates the record. True."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        self._store.update(*where, self._records.state(state))
        return True

    def get_state(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> Any:
        """The state; None if there is none."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return self._records.state_of(self._store.get(*where))

    def delete_state(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> bool:
        """Removes the record, state and data; whether there was one."""
        return self._store.delete(*_where(chat_id, user_id, business_connection_id, message_thread_id, bot_id))

    def set_data(
        self,
        chat_id: Ref,
        user_id: Ref,
        key: Any,
        value: Any,
        business_connection_id: Ref = None,
        message_thread_id: Ref = None,
        bot_id: Ref = None,
    ) -> bool:
        """Sets one key of the data, atomically: what others set meanwhile stays. True.

        Raises:
            RuntimeError: there is no record, as with telebot's own.
        """
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        try:
            self._store.update(*where, self._records.data({key: value}), create=False)
        except SessionGone as error:
            raise _no_record(self._store.key(*where)) from error
        return True

    def get_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> dict[Any, Any]:
        """A copy of the data; empty if there is no record."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return self._records.data_of(self._store.get(*where))

    def reset_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> bool:
        """Removes the data and keeps the state; whether there is a record."""
        return self.save(chat_id, user_id, {}, business_connection_id, message_thread_id, bot_id)

    def save(
        self,
        chat_id: Ref,
        user_id: Ref,
        data: Mapping[Any, Any],
        business_connection_id: Ref = None,
        message_thread_id: Ref = None,
        bot_id: Ref = None,
    ) -> bool:
        """Replaces the data and keeps the state; whether there is a record."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        try:
            return bool(self._store.replace(*where, self._records.data(data), keep=(STATE,), create=False))
        except SessionGone:
            return False

    def get_interactive_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> StateData:
        """What ``bot.retrieve_data`` gives."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return StateData(self._store, self._records, where)

    def close(self) -> None:
        """Closes the store if ``from_url`` made it. telebot does not call this: your program does, at its end."""
        if self._owned:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class StateData:
    """``with bot.retrieve_data(...) as data``: ``AsyncStateData`` for threads.

    Attributes:
        data: The data, loaded at once: programs for telebot read ``bot.retrieve_data(...).data`` without ``with``.
    """

    def __init__(self, store: sync.SessionStore, records: _Records, where: tuple[Id, str]) -> None:
        self._store = store
        self._records = records
        self._where = where
        self._session = store.session(*where).__enter__()
        self.data = records.data_of(self._session)

    def __enter__(self) -> dict[Any, Any]:
        return self.data

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        session = self._session
        if kind is not None:
            return
        self._records.put(self.data, session)
        try:
            if session.version:
                session.save()
            elif session.data:
                self._store.update(*self._where, session.data, create=False)
        except SessionGone as gone:
            _log_dropped(gone)
