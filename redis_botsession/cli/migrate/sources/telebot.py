"""pyTelegramBotAPI's ``StateRedisStorage``, of both kinds: a hash with the state and the data as JSON; or, until its 4.22, one
JSON string for all users of a chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...._codec.codec import Codec
from ....adapters._ids import STATE, Names, channel_of
from .base import Found, NotUnderstood, Record, Source, Unit, Unreadable, json_in, literal, longest, object_in, text_in
from .shapes import BUSINESS, NUMBER, POSITIVE, Field, read_key

_STATE_AND_DATA: Final = {"state", "data"}
#: Keys out of JSON are all str.
_NAMES: Final = Names(Codec())


class TelebotSource(Source):
    """States of pyTelegramBotAPI from 4.23 on.

    Args:
        prefix: The storage's ``prefix``.
        separator: The storage's ``separator``.
        with_bot_id: Whether keys begin with the bot's id: those of ``TeleBot`` and ``AsyncTeleBot`` do.
        bot_id: The bot, if the keys do not name one. If they do, keys of other bots are left alone.
        with_threads: Whether keys may name a topic.

    Raises:
        ValueError: neither the keys nor ``bot_id`` name the bot.
    """

    name = "telebot"
    command = ("HMGET", "state", "data")
    kind = "hash"

    def __init__(
        self,
        *,
        prefix: str = "telebot",
        separator: str = ":",
        with_bot_id: bool = True,
        bot_id: int | None = None,
        with_threads: bool = True,
    ) -> None:
        if bot_id is None and not with_bot_id:
            raise ValueError("the keys do not name the bot: give --bot-id N")
        self._prefix = prefix
        self._separator = separator
        self._bot_id = bot_id
        self._with_bot_id = with_bot_id
        fields = [
            Field("bot", POSITIVE) if with_bot_id else None,
            Field("business connection", BUSINESS, is_optional=True),
            Field("thread", POSITIVE, is_optional=True) if with_threads else None,
            Field("chat", NUMBER),
            Field("user", NUMBER),
        ]
        self._fields = [field for field in fields if field is not None]
        self._advice = "; --no-threads may help" if with_threads else ""
        begin = [prefix, str(bot_id)] if with_bot_id and bot_id is not None else [prefix]
        self.pattern = literal(separator.join([*begin, ""])) + b"*"

    def unit_of(self, key: str) -> Unit | None:
        ids = read_key(key, self._prefix, self._separator, self._fields, self._advice)
        bot = ids.get("bot", str(self._bot_id))
        if not self._with_bot_id and bot in (ids.get("thread"), ids["chat"]):
            raise NotUnderstood(
                "its chat or topic would be the bot itself: the keys seem to have the bot's id, say --with-bot-id"
            )
        where = _where(bot, ids["chat"], ids["user"], ids.get("business connection"), ids.get("thread"))
        return Unit((key.encode("utf-8", "surrogatepass"),), *where)

    def records(self, unit: Unit, found: Sequence[Found]) -> list[Record]:
        state, data = found[0].value
        if state is None and data is None:
            raise Unreadable("it has neither a state nor data")
        fields: dict[str, Any] = {} if state is None else {STATE: text_in(state, "the state")}
        if data is not None:
            fields |= _NAMES.pack(json_in(data, "the data"))
        return [Record(unit.user_id, unit.channel_id, fields, longest(found))]


class OldTelebotSource(Source):
    """States of pyTelegramBotAPI until 4.22: of all users of a chat, in one JSON string.

    Args:
        prefix: The storage's ``prefix``; the chat's id stands right after it.
        bot_id: The bot, which the keys do not name.
    """

    name = "telebot"

    def __init__(self, *, prefix: str = "telebot_", bot_id: int) -> None:
        self._prefix = prefix
        self._bot_id = bot_id
        self.pattern = literal(prefix) + b"*"

    def unit_of(self, key: str) -> Unit | None:
        chat = key.removeprefix(self._prefix)
        if not NUMBER.fullmatch(chat):
            raise NotUnderstood(f"it is not of the shape {self._prefix}chat")
        return Unit((key.encode("utf-8", "surrogatepass"),), channel_id=chat)

    def records(self, unit: Unit, found: Sequence[Found]) -> list[Record]:
        users = json_in(found[0].value, "the chat")
        return [self._record(user, unit.channel_id, value, longest(found)) for user, value in users.items()]

    def _record(self, user: str, chat: str, value: Any, ttl_ms: int | None) -> Record:
        kept = object_in(value, "what is kept of a user")
        if not NUMBER.fullmatch(user) or not kept.keys() <= _STATE_AND_DATA:
            raise Unreadable("it is no object of users with a state and data each")
        data = kept.get("data")
        fields = {} if data is None else _NAMES.pack(object_in(data, "the data of a user"))
        # As telebot's own migrate_format, the state as it is: also an int, or None.
        return Record(*_where(str(self._bot_id), chat, user), {STATE: kept.get("state"), **fields}, ttl_ms)


def _where(bot: str, chat: str, user: str, business: str | None = None, thread: str | None = None) -> tuple[str, str]:
    """The user and the channel, the same as in the adapter for telebot; a test compares them."""
    return user, channel_of(chat, b=bot, c=business, t=thread)
