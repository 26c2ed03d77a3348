"""The sources by the names that ``botsession migrate`` takes. A new source is added here; its options in ``cli/_main.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from .aiogram import AiogramSource
from .base import Source
from .json import JsonSource
from .telebot import OldTelebotSource, TelebotSource

SOURCES: Final[Mapping[str, Callable[..., Source]]] = {
    "aiogram": AiogramSource,
    "telebot": TelebotSource,
    "old-telebot": OldTelebotSource,
    "json": JsonSource,
}
