"""aiogram 3 (https://docs.aiogram.dev): the storage of its state machine in a store of sessions.

``Dispatcher(storage=BotSessionStorage.from_url("redis://localhost:6379/0"))``. What aiogram keeps under one ``StorageKey`` is
one session: the state and each key of the data are top-level keys of it, with one rolling TTL.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from datetime import timedelta
from typing import Any, Self, Unpack, overload

from aiogram import enums
from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import DEFAULT_DESTINY, BaseEventIsolation, BaseStorage, StateType, StorageKey

from .._codec.codec import Codec
from .._store.base import BotSessionStore
from .._transport.options import StoreOptions
from ..leases import DEFAULT_LEASE, Leases
from ..store import SessionStore
from ._ids import STATE, Names, channel_of, parts_of


def ids_of(key: StorageKey) -> tuple[str, str]:
    """The user and the channel of the store that ``key`` stands for; another key, other ids."""
    destiny = None if key.destiny == DEFAULT_DESTINY else key.destiny
    channel = channel_of(key.bot_id, key.chat_id, t=key.thread_id, b=key.business_connection_id, d=destiny)
    return str(key.user_id), channel


def key_of(user_id: str, channel_id: str) -> StorageKey:
    """The reverse of ``ids_of``, for what ``store.scan()`` and ``store.channels(user_id)`` give.

    Raises:
        ValueError: these are not the ids of an aiogram session.
    """
    try:
        (bot, chat), tagged = parts_of(channel_id, 2)
        thread = tagged.get("t")
        key = StorageKey(
            bot_id=int(bot),
            chat_id=int(chat),
            user_id=int(user_id),
            thread_id=None if thread is None else int(thread),
            business_connection_id=tagged.get("b"),
            destiny=tagged.get("d", DEFAULT_DESTINY),
        )
    except ValueError as error:
        raise ValueError(f"session {user_id}:{channel_id} is none of aiogram's: {error}") from None
    if ids_of(key) != (user_id, channel_id):
        raise ValueError(f"session {user_id}:{channel_id} is none of aiogram's: it would be {':'.join(ids_of(key))}")
    return key


def aiogram_codec() -> Codec:
    """A codec that also stores aiogram's enums, like ``message.content_type``, each as what it is.

    ``from_url`` uses one unless it is given another. Every store that loads such sessions needs one. Register your own types
    with it.
    """
    codec = Codec()
    for name in enums.__all__:
        codec.register(getattr(enums, name), tag=f"aiogram.{name}")
    return codec


class BotSessionStorage(BaseStorage):
    """States and data of aiogram in a store of sessions.

    Each method is one round trip. Reads renew the TTL, too. What ``get_data`` and ``update_data`` return is the caller's:
    nothing changes in the store until it is set.

    Keys of the data may be whatever the codec stores, not only ``str``; values keep their types.

    Args:
        store: Where the sessions are. It stays yours: ``close`` does not close it.

    Raises:
        TypeError: ``store`` is no store.
    """

    def __init__(self, store: BotSessionStore) -> None:
        if not isinstance(store, BotSessionStore):
            raise TypeError(
                f"BotSessionStorage needs a BotSessionStore, not {type(store).__name__}; for a URL there is from_url(url)"
            )
        self.store = store
        self._names = Names(store.codec)
        self._owns_store = False
        self._isolations: list[BotSessionIsolation] = []

    @classmethod
    def from_url(cls, url: str, **options: Unpack[StoreOptions]) -> Self:
        """A storage with a store of its own, which ``close`` closes.

        Args:
            url: As for ``SessionStore.from_url``.
            **options: As for ``SessionStore.from_url``, with two other defaults: ``ttl`` is None unless given, so states and
                data are kept for good, as by aiogram's ``RedisStorage``; ``codec`` is an ``aiogram_codec()``.

        Raises:
            What ``SessionStore.from_url`` raises.
        """
        options.setdefault("ttl", None)
        options.setdefault("codec", aiogram_codec())
        storage = cls(SessionStore.from_url(url, **options))
        storage._owns_store = True
        return storage

    async def set_state(self, key: StorageKey, state: StateType = None) -> None:
        """Sets the state; None takes it away, and the session with it if there are no data.

        Raises:
            TypeError: neither a State, nor a ``str``, nor None.
            What ``store.update`` raises.
        """
        name = state.state if isinstance(state, State) else state
        if name is None:
            await self.store.discard(*ids_of(key), [STATE])
        elif isinstance(name, str):
            # The value of a member of an enum of texts, which aiogram takes for a text.
            await self.store.update(*ids_of(key), {STATE: str.__str__(name)})
        else:
            raise TypeError(f"a state is a State, a str or None, not {type(name).__name__}; give MyStates.my_state")

    async def get_state(self, key: StorageKey) -> str | None:
        """The state; None if there is none. Raises what ``store.get`` raises."""
        session = await self.store.get(*ids_of(key), touch=True)
        state: str | None = None if session is None else session.data.get(STATE)
        return state

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """Replaces the data, not the state; an empty dict takes them away, and the session with them if there is no state.

        Raises:
            DataNotDictLikeError: ``data`` is no ``dict``.
            What ``store.replace`` raises.
        """
        if not isinstance(data, dict):
            raise _not_a_dict(data)
        await self.store.replace(*ids_of(key), self._names.pack(data), keep=[STATE], drop_empty=True)

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """The data, in a dict of the caller's own; an empty one if there are none. Raises what ``store.get`` raises."""
        session = await self.store.get(*ids_of(key), touch=True)
        return {} if session is None else self._names.unpack(session.data)

    @overload
    async def get_value(self, storage_key: StorageKey, dict_key: str) -> Any | None: ...

    @overload
    async def get_value(self, storage_key: StorageKey, dict_key: str, default: Any) -> Any: ...

    async def get_value(self, storage_key: StorageKey, dict_key: str, default: Any | None = None) -> Any | None:
        """One value of the data, or a copy of ``default``. Raises what ``store.get`` raises."""
        data = await self.get_data(storage_key)
        return data[dict_key] if dict_key in data else copy(default)

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        """Merges ``data`` into the data, in the store: what others write to other keys meanwhile stays.

        Args:
            key: The session.
            data: Whatever ``dict.update`` takes.

        Returns:
            The data as they are right after, in a dict of the caller's own.

        Raises:
            DataNotDictLikeError: ``dict.update`` would not take ``data``.
            What ``store.update_and_get`` raises.
        """
        try:
            changes = dict(data)
        except (TypeError, ValueError):
            raise _not_a_dict(data) from None
        if not changes:
            return await self.get_data(key)
        session = await self.store.update_and_get(*ids_of(key), self._names.pack(changes))
        return {} if session is None else self._names.unpack(session.data)

    def create_isolation(self, *, lease: float | timedelta = DEFAULT_LEASE) -> BotSessionIsolation:
        """The isolation of events on the same store; closed with the storage.

        Args:
            lease: As for ``BotSessionIsolation``.

        Raises:
            What ``BotSessionIsolation`` raises.
        """
        isolation = BotSessionIsolation(self.store, lease=lease)
        self._isolations.append(isolation)
        return isolation

    async def close(self) -> None:
        """Closes the isolations that it has created, and the store if ``from_url`` made it."""
        # aiogram closes the storage first. Those who hold a lease need the store to give it back.
        for isolation in self._isolations:
            await isolation.close()
        if self._owns_store:
            await self.store.aclose()


def _not_a_dict(data: object) -> DataNotDictLikeError:
    return DataNotDictLikeError(f"Data must be a dict or dict-like object, got {type(data).__name__}")


class BotSessionIsolation(BaseEventIsolation):
    """One event at a time for each ``StorageKey``, in all processes of the bot.

    ``Dispatcher(storage=storage, events_isolation=storage.create_isolation())``. A lease for each key, that is renewed while a
    handler runs, and runs out if its process dies. Events that wait do so in order, and are called when it is their turn.

    Args:
        store: A ``SessionStore`` or ``MemorySessionStore``, best that of the storage. It stays yours: ``close`` does not close
            it.
        lease: Seconds (or a timedelta) that events wait for a process that has died. A process whose event loop is blocked
            for so long loses its leases; that is logged.

    Raises:
        TypeError: another kind of store, or of time.
        ValueError: ``lease`` is less than 0.1 seconds.
    """

    def __init__(self, store: BotSessionStore, *, lease: float | timedelta = DEFAULT_LEASE) -> None:
        self.store = store
        self._leases = Leases(store, lease=lease)
        self._owns_store = False

    @classmethod
    def from_url(cls, url: str, *, lease: float | timedelta = DEFAULT_LEASE, **options: Unpack[StoreOptions]) -> Self:
        """An isolation with a store of its own, which ``close`` closes.

        Args:
            url: As for ``SessionStore.from_url``.
            lease: As for the class.
            **options: As for ``SessionStore.from_url``.

        Raises:
            What ``SessionStore.from_url`` and the class raise.
        """
        isolation = cls(SessionStore.from_url(url, **options), lease=lease)
        isolation._owns_store = True
        return isolation

    @asynccontextmanager
    async def lock(self, key: StorageKey) -> AsyncGenerator[None, None]:
        """Waits until no other event of ``key`` is handled, and keeps others waiting meanwhile.

        Raises:
            What ``Leases.hold`` raises.
        """
        async with self._leases.hold(*ids_of(key)):
            yield

    async def close(self) -> None:
        """Lets no event in any more; events that are handled get 5 seconds to end. Closes the store if ``from_url`` made it."""
        await self._leases.aclose()
        if self._owns_store:
            await self.store.aclose()
