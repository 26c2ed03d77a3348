"""The adapters beside what their frameworks bring along, for ``python -m benchmarks.lost_updates``.

Each is used as its framework uses it, without the framework's dispatcher around it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from .contender import Contender
from .contenders import CONTENDERS, Aiogram, Telebot


class AiogramAdapter(Aiogram):
    """``BotSessionStorage.from_url`` of ``redis_botsession.adapters.aiogram``."""

    name, title = "aiogram-adapter", "aiogram, BotSessionStorage"

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        from aiogram.fsm.storage.base import StorageKey

        from redis_botsession.adapters.aiogram import BotSessionStorage

        self._key = StorageKey
        self._storage = BotSessionStorage.from_url(url)


class TelebotAdapter(Telebot):
    """``AsyncBotSessionStorage.from_url`` of ``redis_botsession.adapters.telebot``."""

    name, title = "telebot-adapter", "pyTelegramBotAPI, AsyncBotSessionStorage"

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        from redis_botsession.adapters.telebot import AsyncBotSessionStorage

        self._storage = AsyncBotSessionStorage.from_url(url)

    async def close(self) -> None:
        await self._storage.aclose()


class Pickle(Contender):
    """python-telegram-bot's ``PicklePersistence``, all processes with one file: what one key of ``user_data`` comes to."""

    name, title, package = "ptb-pickle", "python-telegram-bot, PicklePersistence", "python-telegram-bot"
    commands: ClassVar[Sequence[str]] = ()

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        self._persistence = self._make(url)
        # As an application does at its start.
        self._data = await self._persistence.get_user_data()

    async def close(self) -> None:
        await self._persistence.flush()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        self._data[user] = data
        await self._persistence.update_user_data(user, deepcopy(data))

    async def load(self, user: int) -> dict[str, Any] | None:
        data: dict[str, Any] | None = self._data.get(user)
        return data

    async def update(self, user: int, key: str, value: object) -> None:
        await self._persistence.refresh_user_data(user, self._data.setdefault(user, {}))
        self._data[user][key] = value
        await self._persistence.update_user_data(user, deepcopy(self._data[user]))

    def _make(self, url: str) -> Any:
        from telegram.ext import PicklePersistence

        return PicklePersistence(Path(tempfile.gettempdir()) / f"{sha256(url.encode()).hexdigest()}.pickle")


class PersistenceAdapter(Pickle):
    """``BotSessionPersistence.from_url`` of ``redis_botsession.adapters.telegram``."""

    name, title = "ptb-adapter", "python-telegram-bot, BotSessionPersistence"

    def _make(self, url: str) -> Any:
        from redis_botsession.adapters.telegram import BotSessionPersistence

        return BotSessionPersistence.from_url(url, bot_id=1)


class Agents(Contender):
    """A state of the Microsoft 365 Agents SDK, read and written as a whole, as the SDK's own storages have it."""

    name, title, package = "agents-whole", "Microsoft 365 Agents SDK, state written whole", "microsoft-agents-hosting-core"
    commands: ClassVar[Sequence[str]] = ("hgetall", "evalsha")
    on_conflict: ClassVar[Literal["overwrite", "merge"]] = "overwrite"

    async def open(self, url: str, users: Sequence[int] = ()) -> None:
        from microsoft_agents.hosting.core.state.agent_state import CachedAgentState

        from redis_botsession.adapters.microsoft_agents import BotSessionStorage

        self._state: Any = CachedAgentState
        self._storage: Any = BotSessionStorage.from_url(url, on_conflict=self.on_conflict)

    async def close(self) -> None:
        await self._storage.aclose()

    async def save(self, user: int, data: dict[str, Any]) -> None:
        await self._storage.write({f"test/users/{user}": self._state(data)})

    async def load(self, user: int) -> dict[str, Any] | None:
        items = await self._storage.read([f"test/users/{user}"], target_cls=self._state)
        return next((item.state for item in items.values()), None)

    async def update(self, user: int, key: str, value: object) -> None:
        place = f"test/users/{user}"
        items = await self._storage.read([place], target_cls=self._state)
        item = items.get(place) or self._state()
        item.state[key] = value
        await self._storage.write({place: item})


class AgentsAdapter(Agents):
    """The same, with what has changed merged: the default of ``redis_botsession.adapters.microsoft_agents``."""

    name, title, on_conflict = "agents-adapter", "Microsoft 365 Agents SDK, BotSessionStorage", "merge"


#: All of the frameworks' ways by name, each before its adapter.
PAIRS: Final = {
    kind.name: kind
    for kind in (Aiogram, AiogramAdapter, Telebot, TelebotAdapter, Pickle, PersistenceAdapter, Agents, AgentsAdapter)
}

#: These and those of ``benchmarks.compare``.
ALL: Final = {**CONTENDERS, **PAIRS}
