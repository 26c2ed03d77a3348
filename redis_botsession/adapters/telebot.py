"""State storages for pyTelegramBotAPI (telebot): ``AsyncTeleBot(token, state_storage=AsyncBotSessionStorage(store))``.

Both do what telebot's ``StateMemoryStorage`` does, with these differences on purpose:

- ``retrieve_data`` saves only the keys that were changed in its block. telebot's own storages write all data back, over what
  other handlers, or ``add_data`` and ``reset_data`` inside the block, have written meanwhile.
- An exception inside ``retrieve_data`` reaches the bot's exception handler, and nothing is saved. telebot's own storages save
  and swallow the exception: their ``__exit__`` returns True.
- A record that was deleted inside ``retrieve_data`` stays deleted, and a new record in its place is not written to. telebot's
  own storages put the old data into the new record.
- All ids of a record are kept apart. telebot leaves out ids that are missing, so topic 7 and bot 7 share a record.
- ``get_data`` returns a copy. Changing what telebot's memory storage returns changes what is stored.
- Records expire with the store's rolling TTL, if it has one. Every write and every ``retrieve_data`` renews it.
- Keys, values and states are what the store's codec can store, and come back with their types. The data are a dict.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast

from telebot.asyncio_storage import StateStorageBase as AsyncStateStorageBase
from telebot.storage import StateStorageBase

from .. import sync
from .._codec.codec import Codec
from .._session.live_session import BotSessionHelper, LiveSession
from .._session.record import BotSession, Id
from .._store.base import BotSessionStore
from .._transport.options import StoreOptions, SyncStoreOptions
from .._transport.without_event_loop import run
from ..errors import SessionGone
from ..store import SessionStore
from ._ids import STATE, Names, channel_of

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

#: One of the ids of a record; None where an update has no such id.
Ref = str | int | None


def _where(
    chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
) -> tuple[Id, str]:
    """The user and the channel in the store.

    As in telebot, 0 or "" as business connection, topic or bot means that there is none.

    User and chat may be missing, too: telebot asks for a state without a user when it handles counts of reactions.
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


class _Fields:
    """What a telebot record is as the top-level keys of a session. No I/O."""

    def __init__(self, codec: Codec) -> None:
        self._names = Names(codec)

    def state(self, state: Any) -> dict[str, Any]:
        """The top-level key of a state. Of a ``State`` object its name is stored, as in telebot."""
        return {STATE: state.name if hasattr(state, "name") else state}

    def state_of(self, session: BotSession | None) -> Any:
        return None if session is None else session.data.get(STATE)

    def data(self, data: Any) -> dict[str, Any]:
        """The top-level keys of the data."""
        if not isinstance(data, Mapping):
            raise TypeError(f"the data of a state are a dict, not {type(data).__name__}")
        return self._names.pack(data)

    def data_of(self, session: BotSession | None) -> dict[Any, Any]:
        return {} if session is None else self._names.unpack(session.data)

    def put(self, data: Any, session: BotSession) -> None:
        """Puts the data, as a handler has left them, back into the session they were loaded from."""
        state = {STATE: session.data[STATE]} if STATE in session.data else {}
        session.data = self.data(data) | state


class _Records:
    """The methods of both storages. On the store of a ``sync.SessionStore`` these coroutines never suspend.

    Each record is a session: the state is the top-level key ``:state``, the data are the keys beside it. Besides what each
    method names, they raise what the store's methods raise: ``SerializationError`` and ``SessionTooLarge`` for data that cannot
    be stored, ``OutcomeUnknown``, redis-py's errors, ``TypeError`` and ``ValueError`` for invalid ids.
    """

    def __init__(self, store: BotSessionStore) -> None:
        self._store = store
        self._fields = _Fields(store.codec)

    async def set_state(
        self,
        chat_id: Ref,
        user_id: Ref,
        state: Any,
        business_connection_id: Ref = None,
        message_thread_id: Ref = None,
        bot_id: Ref = None,
    ) -> bool:
        """Sets the state and keeps the data; creates the record. Returns True.

        Args:
            chat_id: The chat.
            user_id: The user.
            state: A ``State``, or a value such as "name", 1 or None.
            business_connection_id: The business connection.
            message_thread_id: The topic.
            bot_id: The bot.
        """
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        await self._store.update(*where, self._fields.state(state))
        return True

    async def get_state(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> Any:
        """Returns the state; None if there is none."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return self._fields.state_of(await self._store.get(*where))

    async def delete_state(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> bool:
        """Removes the record, state and data. Returns whether there was one."""
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
        """Sets one key of the data, atomically: other keys that are set meanwhile stay. Returns True.

        Raises:
            RuntimeError: there is no record, as with telebot's own storages.
        """
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        try:
            await self._store.update(*where, self._fields.data({key: value}), create=False)
        except SessionGone as error:
            raise RuntimeError(
                f"there is no state at {self._store.key(*where)} that data could be added to: "
                "call set_state first (or it has expired)"
            ) from error
        return True

    async def get_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> dict[Any, Any]:
        """Returns a copy of the data; empty if there is no record."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return self._fields.data_of(await self._store.get(*where))

    async def reset_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> bool:
        """Removes the data and keeps the state. Returns whether there is a record."""
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
        """Replaces the data and keeps the state. Returns whether there is a record."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        try:
            return bool(await self._store.replace(*where, self._fields.data(data), keep=(STATE,), create=False))
        except SessionGone:
            return False

    async def save_retrieved(self, where: tuple[Id, str], session: LiveSession, data: Any) -> None:
        """Saves the data that ``retrieve_data`` gave out, as its block has left them.

        A record that is gone is not brought back: that is logged. One that was created in the block, where there was none
        before, gets the data.
        """
        self._fields.put(data, session)
        try:
            if session.version:
                await session._save()
            elif session.data:
                await self._store.update(*where, session.data, create=False)
        except SessionGone as gone:
            logger.warning("changes dropped: the state at %s was deleted, has expired, or was never set", gone.key)


class AsyncBotSessionStorage(_Records, AsyncStateStorageBase):
    """A state storage for ``AsyncTeleBot``. The top of this module lists how it differs from telebot's own.

    Args:
        store: Where the records are. It stays yours: ``aclose`` does not close it.

    Raises:
        TypeError: not an asynchronous store.
    """

    def __init__(self, store: BotSessionStore) -> None:
        if not isinstance(store, BotSessionStore):
            kind = f"{type(store).__module__}.{type(store).__name__}"
            raise TypeError(f"AsyncBotSessionStorage needs a BotSessionStore, not {kind} (for TeleBot: BotSessionStorage)")
        super().__init__(store)
        self._owns_store = False

    @classmethod
    def from_url(cls, url: str, **options: Unpack[StoreOptions]) -> Self:
        """A storage with a store of its own; ``aclose`` closes it.

        Args:
            url: As for ``SessionStore.from_url``.
            **options: As for ``SessionStore.from_url``, but ``ttl`` is None unless given: records are kept for good, as by
                telebot's own storages.

        Raises:
            TypeError, ValueError: as ``SessionStore.from_url``.
        """
        options.setdefault("ttl", None)
        storage = cls(SessionStore.from_url(url, **options))
        storage._owns_store = True
        return storage

    def get_interactive_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> AsyncStateData:
        """Returns what ``bot.retrieve_data`` returns: an asynchronous context manager."""
        return AsyncStateData(self, _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id))

    async def aclose(self) -> None:
        """Closes the store if ``from_url`` made it. telebot does not call this; call it at the end of your program."""
        if self._owns_store:
            await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


class AsyncStateData:
    """``async with bot.retrieve_data(...) as data``: loads the data, and saves the keys that have changed at the end.

    Change the dict in place, nested values too. If the block raises, nothing is saved.

    Attributes:
        data: The data; None before they are loaded.
    """

    def __init__(self, records: _Records, where: tuple[Id, str]) -> None:
        self._records = records
        self._where = where
        self._session: BotSessionHelper | None = None
        self.data: dict[Any, Any] | None = None

    async def __aenter__(self) -> dict[Any, Any]:
        self._session = await BotSessionHelper.load(self._records._store, *self._where)
        self.data = self._records._fields.data_of(self._session)
        return self.data

    async def __aexit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None and self._session is not None:
            await self._records.save_retrieved(self._where, self._session, self.data)


def _blocking(
    method: Callable[Concatenate[_Records, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_BlockingRecords, P], T]:
    """A method of ``_Records`` without ``await``, with its signature and its docstring."""

    @wraps(method)
    def call(self: _BlockingRecords, *args: P.args, **options: P.kwargs) -> T:
        return run(method(self._records, *args, **options))

    return cast("Callable[Concatenate[_BlockingRecords, P], T]", call)


class _BlockingRecords:
    """The methods of ``_Records`` without ``await``."""

    def __init__(self, records: _Records) -> None:
        self._records = records

    set_state = _blocking(_Records.set_state)
    get_state = _blocking(_Records.get_state)
    delete_state = _blocking(_Records.delete_state)
    set_data = _blocking(_Records.set_data)
    get_data = _blocking(_Records.get_data)
    reset_data = _blocking(_Records.reset_data)
    save = _blocking(_Records.save)


class BotSessionStorage(_BlockingRecords, StateStorageBase):
    """A state storage for ``TeleBot``, for any number of threads. Otherwise it is like ``AsyncBotSessionStorage``.

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
        super().__init__(_Records(store.unwrapped))
        self._store = store
        self._owns_store = False

    @classmethod
    def from_url(cls, url: str, **options: Unpack[SyncStoreOptions]) -> Self:
        """A storage with a store of its own; ``close`` closes it.

        Args:
            url: As for ``redis_botsession.sync.SessionStore.from_url``.
            **options: As there, but ``ttl`` is None unless given: records are kept for good, as by telebot's own storages.

        Raises:
            TypeError, ValueError: as ``redis_botsession.sync.SessionStore.from_url``.
        """
        options.setdefault("ttl", None)
        storage = cls(sync.SessionStore.from_url(url, **options))
        storage._owns_store = True
        return storage

    def get_interactive_data(
        self, chat_id: Ref, user_id: Ref, business_connection_id: Ref = None, message_thread_id: Ref = None, bot_id: Ref = None
    ) -> StateData:
        """Returns what ``bot.retrieve_data`` returns: a context manager."""
        where = _where(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return StateData(self._store, self._records, where)

    def close(self) -> None:
        """Closes the store if ``from_url`` made it. telebot does not call this; call it at the end of your program."""
        if self._owns_store:
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
        self._records = records
        self._where = where
        self._session = store.session(*where).__enter__()
        self.data = records._fields.data_of(self._session)

    def __enter__(self) -> dict[Any, Any]:
        return self.data

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            run(self._records.save_retrieved(self._where, self._session, self.data))
