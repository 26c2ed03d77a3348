"""aiogram's ``RedisStorage`` with its ``DefaultKeyBuilder``: the state and the data of a session under a key each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from ...._codec.codec import Codec
from ....adapters._ids import STATE, Names, channel_of
from .base import Found, NotUnderstood, Record, Source, Unit, json_in, literal, longest, text_in
from .shapes import BUSINESS, NUMBER, POSITIVE, Field, read_key

_DEFAULT_DESTINY: Final = "default"
_PART: Final = re.compile("state|data|lock")
#: Keys out of JSON are all str.
_NAMES: Final = Names(Codec())


class AiogramSource(Source):
    """The sessions of aiogram's ``RedisStorage``.

    Args:
        prefix: The key builder's ``prefix``.
        separator: The key builder's ``separator``.
        with_bot_id: As the key builder has it.
        with_business_connection_id: As the key builder has it.
        with_destiny: As the key builder has it.
        bot_id: The bot, if the keys do not name one. If they do, keys of other bots are left alone.
        with_threads: Whether keys may name a topic: only with the strategies ``USER_IN_TOPIC`` and ``CHAT_TOPIC``.

    Raises:
        ValueError: neither the keys nor ``bot_id`` name the bot.
    """

    name = "aiogram"

    def __init__(
        self,
        *,
        prefix: str = "fsm",
        separator: str = ":",
        with_bot_id: bool = False,
        with_business_connection_id: bool = False,
        with_destiny: bool = False,
        bot_id: int | None = None,
        with_threads: bool = True,
    ) -> None:
        if bot_id is None and not with_bot_id:
            raise ValueError("the keys do not name the bot: give --bot-id N")
        self._prefix = prefix
        self._separator = separator
        self._bot_id = bot_id
        self._with_bot_id = with_bot_id
        # A destiny that began with a number would look like a topic's number before the user's.
        no_number = f"(?!-?[0-9]+{re.escape(separator)})" if with_threads else ""
        destiny = re.compile(f"{no_number}.+", re.DOTALL)
        fields = [
            Field("bot", POSITIVE) if with_bot_id else None,
            Field("business connection", BUSINESS, is_optional=True) if with_business_connection_id else None,
            Field("chat", NUMBER),
            Field("thread", POSITIVE, is_optional=True) if with_threads else None,
            Field("user", NUMBER),
            Field("destiny", destiny) if with_destiny else None,
            Field("part", _PART),
        ]
        self._fields = [field for field in fields if field is not None]
        self._advice = "; --no-threads may help" if with_threads else ""
        begin = [prefix, str(bot_id)] if with_bot_id and bot_id is not None else [prefix]
        self.pattern = literal(separator.join([*begin, ""])) + b"*"

    def unit_of(self, key: str) -> Unit | None:
        ids = read_key(key, self._prefix, self._separator, self._fields, self._advice)
        bot = ids.get("bot", str(self._bot_id))
        if not self._with_bot_id and ids["chat"] == bot:
            raise NotUnderstood("its chat would be the bot itself: the keys seem to have the bot's id, say --with-bot-id")
        part = ids["part"]
        if part == "lock":
            return None
        destiny = ids.get("destiny", _DEFAULT_DESTINY)
        # The same ids as in the adapter for aiogram; a test compares them.
        channel = channel_of(
            bot,
            ids["chat"],
            t=ids.get("thread"),
            b=ids.get("business connection"),
            d=None if destiny == _DEFAULT_DESTINY else destiny,
        )
        stem = key.removesuffix(part).encode("utf-8", "surrogatepass")
        return Unit((stem + b"state", stem + b"data"), ids["user"], channel)

    def records(self, unit: Unit, found: Sequence[Found]) -> list[Record]:
        state, data = found
        fields: dict[str, Any] = {STATE: text_in(state.value, "the state")} if state.exists else {}
        if data.exists:
            fields |= _NAMES.pack(json_in(data.value, "the data"))
        return [Record(unit.user_id, unit.channel_id, fields, longest(found))]
