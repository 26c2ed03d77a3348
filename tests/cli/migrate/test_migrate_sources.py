"""What keys and values of other storages mean. No I/O; the keys are those of the real libraries."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from aiogram.fsm.storage.base import DefaultKeyBuilder, StorageKey
from hypothesis import given
from hypothesis import strategies as st
from telebot.storage.base_storage import StateStorageBase

from redis_botsession.adapters.aiogram import ids_of
from redis_botsession.adapters.telebot import _where as telebot_ids_of
from redis_botsession.cli.migrate import SOURCES
from redis_botsession.cli.migrate.sources.base import Found, NotUnderstood, Record, Source, Unit, Unreadable, literal

from .migrating import BOT, SECRET


def aiogram(**layout: Any) -> Source:
    return SOURCES["aiogram"](**{"bot_id": BOT, **layout})


def telebot(**layout: Any) -> Source:
    return SOURCES["telebot"](**layout)


def unit(source: Source, key: str) -> Unit:
    found = source.unit_of(key)
    assert found is not None
    return found


def ids(source: Source, key: str) -> tuple[str, str]:
    found = unit(source, key)
    return found.user_id, found.channel_id


def value(source: Source, key: str, *replies: Any, ttl_ms: int = -1) -> list[Record]:
    found = [Found(reply, -2 if reply is None else ttl_ms) for reply in replies]
    return source.records(unit(source, key), found)


# --- Keys of aiogram

ids_of_telegram = st.integers(1, 2**52)
chats = st.one_of(ids_of_telegram, st.integers(-(2**52), -1))
# What the separator may be is also in the ids: nothing that hides where a part ends is left out.
separators = st.sampled_from([":", "::", "_", "-", ".", "|", "5", "a", ":state"])
texts = st.text("ab:_-.|5", min_size=1, max_size=6)
# As Telegram makes them: of base64, and no number.
businesses = st.text("ab_-5", min_size=1, max_size=6).filter(lambda text: re.fullmatch(r"-?[0-9]+", text) is None)


@st.composite
def aiogram_keys(draw: st.DrawFn) -> tuple[dict[str, Any], StorageKey]:
    layout: dict[str, Any] = {
        "prefix": draw(st.sampled_from(["fsm", "my:bot", "a*b"])),
        "separator": draw(separators),
        "with_bot_id": draw(st.booleans()),
        "with_business_connection_id": draw(st.booleans()),
        "with_destiny": draw(st.booleans()),
    }
    begins_with_number = re.compile("-?[0-9]+" + re.escape(layout["separator"]))
    destinies = texts.filter(lambda text: not begins_with_number.match(text))
    key = StorageKey(
        bot_id=draw(ids_of_telegram),
        chat_id=draw(chats),
        user_id=draw(chats),
        thread_id=draw(st.none() | st.integers(1, 999)),
        business_connection_id=draw(st.none() | businesses) if layout["with_business_connection_id"] else None,
        destiny=draw(st.just("default") | st.just("aiogd:context:x5") | destinies) if layout["with_destiny"] else "default",
    )
    return layout, key


@given(aiogram_keys(), st.sampled_from(["state", "data"]))
def test_source_reads_aiogram_keys_exactly_or_not_at_all(made: tuple[dict[str, Any], StorageKey], part: Any) -> None:
    layout, key = made
    builder = DefaultKeyBuilder(**layout)
    source = SOURCES["aiogram"](bot_id=key.bot_id, **layout)
    try:
        found = unit(source, builder.build(key, part))
    except NotUnderstood:
        assert layout["separator"] not in {":", "::"} or chat_is_bot(key)
    else:
        assert (found.user_id, found.channel_id) == ids_of(key)
        assert [item.decode() for item in found.keys] == [builder.build(key, "state"), builder.build(key, "data")]


def chat_is_bot(key: StorageKey) -> bool:
    return key.chat_id == key.bot_id


@given(
    ids_of_telegram,
    chats,
    chats,
    st.none() | st.integers(1, 999),
    st.none() | st.from_regex(r"[A-Za-z0-9_-]*[A-Za-z_][A-Za-z0-9_-]*", fullmatch=True),
    st.sampled_from(["default", "scenes_history", "aiogd:stack:", "aiogd:context:aB3xYz"]),
)
def test_source_understands_keys_of_aiogram_dialog(
    bot: int, chat: int, user: int, thread: int | None, business: str | None, destiny: str
) -> None:
    key = StorageKey(bot, chat, user, thread, business, destiny)
    layout: dict[str, Any] = {"with_bot_id": True, "with_business_connection_id": True, "with_destiny": True}
    assert ids(SOURCES["aiogram"](**layout), DefaultKeyBuilder(**layout).build(key, "data")) == ids_of(key)


@given(chats, chats, texts)
def test_source_without_threads_a_destiny_may_be_anything(chat: int, user: int, destiny: str) -> None:
    key = StorageKey(BOT, chat, user, destiny=destiny)
    if not chat_is_bot(key):
        built = DefaultKeyBuilder(with_destiny=True).build(key, "state")
        assert ids(aiogram(with_destiny=True, with_threads=False), built) == ids_of(key)


def test_source_three_numbers_are_a_topic_or_a_bot_by_layout() -> None:
    assert ids(aiogram(), "fsm:-100:5:42:state") == ids_of(StorageKey(BOT, -100, 42, thread_id=5))
    assert ids(aiogram(with_bot_id=True), "fsm:777:-100:42:state") == ids_of(StorageKey(BOT, -100, 42))
    assert ids(aiogram(), "fsm:-100:42:data") == ids_of(StorageKey(BOT, -100, 42))


@pytest.mark.parametrize(
    ("layout", "key", "reason"),
    [
        ({}, "fsm:777:42:42:state", "--with-bot-id"),
        ({}, "fsm:42:state", r"not of the shape fsm:chat:\[thread\]:user:part"),
        ({}, "fsm:42:42", "not of the shape"),
        ({}, "fsm:-100:-5:42:state", "not of the shape"),
        ({}, "fsm:042:42:state", "not of the shape"),
        ({}, "fsm:+42:42:state", "not of the shape"),
        ({}, "fsm:٤٢:42:state", "not of the shape"),
        ({}, "fsm:42:42:x:state", "not of the shape"),
        ({}, "other:42:42:state", "not of the shape"),
        ({}, "fsm" + ":1" * 1000 + ":state", "not of the shape"),
        ({"with_bot_id": True}, "fsm:-100:5:42:state", "not of the shape"),
        ({"with_bot_id": True}, "fsm:42:42:state", "not of the shape"),
        ({"with_business_connection_id": True}, "fsm:abc:5:6:42:state", None),
        ({"with_business_connection_id": True}, "fsm:5:6:7:42:state", "not of the shape"),
        ({"with_business_connection_id": True, "separator": "_"}, "fsm_a_5_6_42_state", "2 ways; --no-threads may help"),
        ({"separator": "-"}, "fsm-1-2--3-state", None),
        ({"with_business_connection_id": True, "with_threads": False}, "fsm:abc:6:42:state", None),
        ({"with_destiny": True}, "fsm:42:42:state", "not of the shape"),
    ],
)
def test_source_what_does_not_fit_or_fits_twice_is_not_guessed(layout: dict[str, Any], key: str, reason: str | None) -> None:
    source = aiogram(**layout)
    if reason is None:
        assert source.unit_of(key) is not None
    else:
        with pytest.raises(NotUnderstood, match=reason):
            source.unit_of(key)


def test_source_locks_of_aiogram_are_nothing_to_migrate() -> None:
    assert aiogram().unit_of("fsm:42:42:lock") is None


def test_source_where_keys_do_not_tell_the_bot_it_is_asked_for() -> None:
    with pytest.raises(ValueError, match="--bot-id"):
        SOURCES["aiogram"]()
    with pytest.raises(ValueError, match="--bot-id"):
        SOURCES["telebot"](with_bot_id=False)


def test_source_looks_only_for_keys_of_the_given_bot() -> None:
    assert aiogram(with_bot_id=True).pattern == b"fsm:777:*"
    assert SOURCES["aiogram"](with_bot_id=True).pattern == b"fsm:*"
    assert telebot(bot_id=BOT).pattern == b"telebot:777:*"
    assert aiogram(prefix="a*[b]?^\\").pattern == rb"a\*\[b\]\?\^\\:*"


def test_source_pattern_of_a_prefix_matches_itself_alone() -> None:
    assert literal("plain:") == b"plain:"


# --- Keys of pyTelegramBotAPI

# Its types say that nothing may be None.
telebot_key: Any = StateStorageBase()._get_key


@given(
    st.none() | ids_of_telegram,
    st.none() | businesses,
    st.none() | st.integers(1, 999),
    chats,
    chats,
    st.sampled_from([":", "_", "-", "::"]),
)
def test_source_reads_telebot_keys_exactly_or_not_at_all(
    bot: int | None, business: str | None, thread: int | None, chat: int, user: int, separator: str
) -> None:
    key = telebot_key(chat, user, "telebot", separator, business, thread, bot)
    source = telebot(separator=separator, with_bot_id=bot is not None, bot_id=BOT if bot is None else bot)
    expected = telebot_ids_of(chat, user, business, thread, BOT if bot is None else bot)
    try:
        found = ids(source, key)
    except NotUnderstood:
        assert separator not in {":", "::"} or BOT in (chat, thread)
    else:
        assert found == (str(expected[0]), expected[1])


@given(ids_of_telegram, st.none() | st.just("BYZ0bR4hmEkJEAAAPMW5uE-VGVY"), st.none() | st.integers(1, 999), chats, chats)
def test_source_keys_as_telegram_makes_them_are_all_understood(
    bot: int, business: str | None, thread: int | None, chat: int, user: int
) -> None:
    key = telebot_key(chat, user, "telebot", ":", business, thread, bot)
    expected = telebot_ids_of(chat, user, business, thread, bot)
    assert ids(telebot(), key) == (str(expected[0]), expected[1])


@pytest.mark.parametrize("key", ["telebot:42", "telebot:42:42", "telebot:x:y:z", "telebot:777:None:42", "other:1:2:3"])
def test_source_what_telebot_never_made_is_not_understood(key: str) -> None:
    with pytest.raises(NotUnderstood, match="not of the shape"):
        telebot().unit_of(key)


@pytest.mark.parametrize("key", ["telebot:777:42:42", "telebot:777:42:43"])
def test_source_bot_that_would_be_a_topic_is_not_understood(key: str) -> None:
    with pytest.raises(NotUnderstood, match="--with-bot-id"):
        telebot(with_bot_id=False, bot_id=BOT).unit_of(key)


# --- Values


def test_source_aiogram_session_has_the_longer_life() -> None:
    source = aiogram()
    found = [Found(b"Form:name", 5_000), Found(b'{"n": 1, ":x": [1.5, null]}', 9_000)]
    (record,) = source.records(unit(source, "fsm:42:42:state"), found)
    assert record.data == {":state": "Form:name", "n": 1, "::x": [1.5, None]}
    assert record.ttl_ms == 9_000


@pytest.mark.parametrize(("state_ttl", "data_ttl"), [(-1, 5_000), (5_000, -1), (-1, -1)])
def test_source_without_a_ttl_at_one_of_them_there_is_none(state_ttl: int, data_ttl: int) -> None:
    source = aiogram()
    found = [Found(b"s", state_ttl), Found(b"{}", data_ttl)]
    (record,) = source.records(unit(source, "fsm:42:42:state"), found)
    assert record.ttl_ms is None


def test_source_state_alone_and_data_alone_are_sessions() -> None:
    key = "fsm:42:42:data"
    assert [record.data for record in value(aiogram(), key, b"s", None)] == [{":state": "s"}]
    assert [record.data for record in value(aiogram(), key, None, b'{"a": 1}')] == [{"a": 1}]


def test_source_old_telebot_has_all_users_of_a_chat_in_a_key() -> None:
    source = SOURCES["old-telebot"](bot_id=BOT)
    kept = {"42": {"state": "name", "data": {"n": 1}}, "43": {"state": 5, "data": {}}, "44": {"state": None, "data": {}}}
    records = value(source, "telebot_-100", json.dumps(kept).encode(), ttl_ms=7_000)
    assert [(record.user_id, record.data, record.ttl_ms) for record in records] == [
        ("42", {":state": "name", "n": 1}, 7_000),
        ("43", {":state": 5}, 7_000),
        ("44", {":state": None}, 7_000),
    ]
    assert {record.channel_id for record in records} == {telebot_ids_of(-100, 42, None, None, BOT)[1]}
    with pytest.raises(NotUnderstood, match="telebot_chat"):
        source.unit_of("telebot_x")


SESSION = {
    "userId": "a:b",
    "channelId": "c",
    "data": {"step": "name"},
    "createdAt": "2024-05-06T07:08:09.123Z",
    "updatedAt": "2024-05-06T07:08:10.000Z",
}


def test_source_json_keeps_its_times_and_tells_its_ids_itself() -> None:
    session = {**SESSION, "expiresAt": "2999-01-01T00:00:00Z"}
    (record,) = value(SOURCES["json"](), "bot:session:a:b:c", json.dumps(session).encode(), ttl_ms=5_000)
    assert (record.user_id, record.channel_id, record.data) == ("a:b", "c", {"step": "name"})
    assert record.created_at == datetime(2024, 5, 6, 7, 8, 9, 123_000, UTC)
    assert record.expires_at == datetime(2999, 1, 1, tzinfo=UTC)


def test_source_ids_in_json_may_be_numbers_and_times_may_be_missing() -> None:
    session = {"userId": 42, "channelId": -7, "data": {}, "expiresAt": None}
    assert value(SOURCES["json"](), "bot:session:42:-7", json.dumps(session).encode()) == [Record("42", "-7", {})]


@pytest.mark.parametrize(("user", "channel"), [("a", "b:d"), ("a:b", "C"), ("x", "c")])
def test_source_json_with_other_ids_than_its_key_is_not_understood(user: str, channel: str) -> None:
    session = {**SESSION, "userId": user, "channelId": channel}
    with pytest.raises(NotUnderstood, match="another userId"):
        value(SOURCES["json"](), "bot:session:a:b:c", json.dumps(session).encode())


def test_source_key_without_a_channel_is_not_understood() -> None:
    with pytest.raises(NotUnderstood, match="userId:channelId"):
        SOURCES["json"]().unit_of("bot:session:42")


BROKEN = [
    (SECRET.encode(), "no JSON"),
    (b'{"a": ' + SECRET.encode(), "no JSON"),
    (b"\xff" + SECRET.encode(), "no UTF-8"),
    (f'["{SECRET}"]'.encode(), "no JSON object, but list"),
    (b"null", "no JSON object, but NoneType"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"a": ' + b"9" * 5_000 + b"}", "too long"),
]


@pytest.mark.parametrize(("raw", "reason"), BROKEN, ids=[str(n) for n in range(len(BROKEN))])
@pytest.mark.parametrize("kind", ["aiogram", "telebot", "old-telebot", "json"])
def test_source_value_that_cannot_be_read_says_why_and_shows_nothing_of_it(kind: str, raw: bytes, reason: str) -> None:
    key, *replies = {
        "aiogram": ("fsm:42:42:data", None, raw),
        "telebot": ("telebot:777:42:42", [b"s", raw]),
        "old-telebot": ("telebot_42", raw),
        "json": ("bot:session:42:7", raw),
    }[kind]
    source = SOURCES[kind](**({} if kind == "json" else {"bot_id": BOT}))
    with pytest.raises(Unreadable, match=reason) as caught:
        value(source, str(key), *replies)
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"


@pytest.mark.parametrize(
    "change",
    [
        {"userId": None},
        {"userId": ""},
        {"channelId": True},
        {"channelId": 1.5},
        {"data": [SECRET]},
        {"data": None},
        {"createdAt": SECRET},
        {"createdAt": 1714979289},
        {"expiresAt": "2024-05-06T07:08:09"},
        {"extra": SECRET},
    ],
    ids=str,
)
def test_source_json_that_is_no_session_is_refused_without_showing_it(change: dict[str, Any]) -> None:
    with pytest.raises(Unreadable) as caught:
        value(SOURCES["json"](), "bot:session:a:b:c", json.dumps({**SESSION, **change}).encode())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "kept", [{"x": {"state": "s", "data": {}}}, {"42": [SECRET]}, {"42": {SECRET: 1}}, {"42": {"data": [SECRET]}}], ids=str
)
def test_source_what_telebot_of_before_4_23_never_wrote_is_refused(kept: dict[str, Any]) -> None:
    with pytest.raises(Unreadable) as caught:
        value(SOURCES["old-telebot"](bot_id=BOT), "telebot_42", json.dumps(kept).encode())
    assert SECRET not in str(caught.value)


def test_source_hash_without_state_and_data_is_refused() -> None:
    source = telebot()
    with pytest.raises(Unreadable, match="neither"):
        source.records(unit(source, "telebot:777:42:42"), [Found([None, None], -1)])
