"""Keys: of one session each, of one slot for each user, and back to their ids."""

from __future__ import annotations

import enum
import fnmatch
from typing import Any, cast

import fakeredis
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from redis_botsession._protocol.layout import Keys, channel_of, member, owner_tag
from redis_botsession._session.record import normal_id
from redis_botsession.testing.harness import ODD_IDS

from ..support.strategies import ids, prefixes

#: A prefix, a user and a channel.
addresses = st.tuples(prefixes, ids, ids)


def session_key(address: tuple[str, str, str]) -> bytes:
    prefix, user, channel = address
    return Keys(prefix).session(user, channel)


def matches(pattern: bytes, key: bytes) -> bool:
    """Whether SCAN would find ``key``; ``*`` means the same to fnmatch, and our patterns hold nothing else."""
    return fnmatch.fnmatchcase(key.decode("latin-1"), pattern.decode("latin-1"))


# --- one key, one session


@given(st.lists(addresses, min_size=2, max_size=20, unique=True))
@example([("", "a:b", "c"), ("", "a", "b:c")])
@example([("", "a}:b", "c"), ("", "a", "b}:c")])
@example([("", ":", "a"), ("", "%3A", "a")])
@example([("a", "b", "c"), ("a:", "b", "c")])
@example([("", "\ud800", "c"), ("", "\ufffd", "c"), ("", "?", "c")])
def test_keys_no_two_sessions_have_one_key(several: list[tuple[str, str, str]]) -> None:
    assert len(set(map(session_key, several))) == len(several)


@given(st.lists(addresses, min_size=1, max_size=20))
def test_keys_no_two_users_have_one_index_and_no_index_is_a_session(several: list[tuple[str, str, str]]) -> None:
    owners = {(prefix, user) for prefix, user, _ in several}
    indexes = {Keys(prefix).index(user) for prefix, user in owners}
    assert len(indexes) == len(owners)
    assert indexes.isdisjoint(map(session_key, several))


@given(st.lists(addresses, min_size=2, max_size=20, unique=True))
def test_keys_no_two_sessions_have_one_owner_tag(several: list[tuple[str, str, str]]) -> None:
    tags = {owner_tag(session_key(address)) for address in several}
    assert len(tags) == len(several)
    assert {len(tag) for tag in tags} == {8}


@pytest.mark.parametrize(
    ("user", "channel", "key"),
    [
        ("1", "2", b"bot:session:{1}:2"),
        ("Az09._-", "c", b"bot:session:{Az09._-}:c"),
        ("a:b", "*", b"bot:session:{a%3Ab}:%2A"),
        ("{}%~ \n", "c", b"bot:session:{%7B%7D%25%7E%20%0A}:c"),
        ("ключ", "🤖", b"bot:session:{%D0%BA%D0%BB%D1%8E%D1%87}:%F0%9F%A4%96"),
        ("\ud800", "c", b"bot:session:{%ED%A0%80}:c"),
    ],
)
def test_keys_stay_what_they_were(user: str, channel: str, key: bytes) -> None:
    # Another spelling, and all sessions that are stored are lost.
    keys = Keys("bot:session:")
    assert keys.session(user, channel) == key
    assert keys.index(user) == key[: key.index(b"}") + 1]


# --- and back


@given(addresses)
def test_keys_ids_come_back_from_a_key(address: tuple[str, str, str]) -> None:
    prefix, user, channel = address
    assert Keys(prefix).ids(session_key(address)) == (user, channel)
    assert channel_of(member(channel)) == channel


@given(st.lists(ids, min_size=2, unique=True))
def test_keys_no_two_channels_are_one_member(channels: list[str]) -> None:
    assert len(set(map(member, channels))) == len(channels)


@given(prefixes, st.one_of(st.binary(), st.from_regex(rb"\{[%0-9A-Fa-fx:.~]*\}:?[%0-9A-Fa-fx:.~]*", fullmatch=True)))
def test_keys_key_has_ids_only_if_these_ids_have_that_key(prefix: str, rest: bytes) -> None:
    keys = Keys(prefix)
    key = prefix.encode("utf-8", "surrogatepass") + rest
    found = keys.ids(key)
    assert found is None or keys.session(*found) == key


@given(addresses, prefixes)
def test_keys_of_other_prefixes_and_indexes_have_no_ids(address: tuple[str, str, str], other: str) -> None:
    prefix, user, _ = address
    assert Keys(prefix).ids(Keys(prefix).index(user)) is None
    if other != prefix:
        assert Keys(other).ids(session_key(address)) is None


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"p:",
        b"p:u:c",
        b"p:{u}",
        b"p:{u}:",
        b"p:{}:c",
        b"p:{u}c",
        b"p:{u}:c:d",
        b"p:{u}:c\n",
        b"\np:{u}:c",
        b"P:{u}:c",
        b"p:{u}:{c}",
        b"p:{{u}:c",
        b"p:{u}}:c",
        b"p:{u:c",
        b"p:{u*}:c",
        b"p:{u v}:c",
        b"p:{u~}:c",
        b"p:{\xd0\xba}:c",
        b"p:{u}:%3a",
        b"p:{%7b}:c",
        b"p:{u}:%41",
        b"p:{u}:%",
        b"p:{u}:%4",
        b"p:{u}:%zz",
        b"p:{u}:%C0%AF",  # "/" in more bytes than it takes
        b"p:{u}:%F0%82%82%AC",
        b"p:{u}:%F4%90%80%80",  # beyond Unicode
        b"p:{u}:%FF",
        b"p:{%D0}:c",
    ],
)
def test_keys_foreign_keys_have_no_ids(key: bytes) -> None:
    assert Keys("p:").ids(key) is None


# --- one slot for each user


@given(prefixes, ids, st.lists(ids, min_size=1, max_size=5))
def test_keys_all_keys_of_a_user_are_in_one_slot(prefix: str, user: str, channels: list[str]) -> None:
    keys = Keys(prefix)
    slots = {key_slot(keys.session(user, channel)) for channel in channels}
    assert slots == {key_slot(keys.index(user))}


def test_keys_users_spread_over_the_slots() -> None:
    keys = Keys("bot:session:")
    assert len({key_slot(keys.index(str(user))) for user in range(1000)}) > 900


# --- MATCH


@given(st.lists(addresses, min_size=1, max_size=10), prefixes)
@example([("a", "u", "c"), ("", "u", "c")], "")
@example([("a:", "u", "c"), ("a", "u", "c"), ("b:", "u", "c")], "a")
def test_keys_pattern_matches_the_sessions_of_its_prefix_only(several: list[tuple[str, str, str]], prefix: str) -> None:
    for one in {prefix, *(address[0] for address in several)}:
        pattern = Keys(one).pattern
        for address in several:
            assert matches(pattern, session_key(address)) is (address[0] == one)
            assert not matches(pattern, Keys(address[0]).index(address[1]))


# As text: SCAN sees all of these under a prefix of the test's own.
ODD_PREFIXES = ("", ":", "a", "a:", "ab", "^a", "a-z", "!", "%", "\n", "ключ", "\ud800")


def _keys_of(prefix: str) -> tuple[set[bytes], set[bytes]]:
    """The keys of the sessions under ``prefix`` of all odd users and channels, and of their indexes."""
    keys = Keys(prefix)
    return {keys.session(user, channel) for user in ODD_IDS for channel in ODD_IDS}, {keys.index(user) for user in ODD_IDS}


def _scan_finds_the_sessions_of_each_prefix(client: redis.Redis, root: str) -> None:
    sessions = {root + odd: _keys_of(root + odd) for odd in ODD_PREFIXES}
    everything = [key for pair in sessions.values() for several in pair for key in several]
    client.mset(dict.fromkeys(everything, b""))
    for prefix, (expected, _) in sessions.items():
        found = list(client.scan_iter(match=Keys(prefix).pattern, count=10_000))
        assert set(found) == expected
    client.unlink(*everything)


def test_scan_of_a_server_finds_the_sessions_of_each_prefix(newest_url: str, prefix: str) -> None:
    with redis.Redis.from_url(newest_url) as client:
        _scan_finds_the_sessions_of_each_prefix(client, prefix)


def test_scan_of_fakeredis_finds_the_sessions_of_each_prefix() -> None:
    with fakeredis.FakeRedis() as client:
        _scan_finds_the_sessions_of_each_prefix(client, "")


# --- what ids and prefixes may be


@given(st.integers())
def test_keys_number_and_its_text_are_one_id(number: int) -> None:
    assert normal_id(number, "user_id") == str(number) == normal_id(str(number), "user_id")


def test_keys_subclasses_of_text_and_number_are_what_they_hold() -> None:
    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "shown"

    class Number(enum.IntEnum):
        ONE = 1

    assert normal_id(Text("held"), "user_id") == "held"
    assert type(normal_id(Text("held"), "user_id")) is str
    assert normal_id(Number.ONE, "user_id") == "1"


@pytest.mark.parametrize("bad", [None, True, False, 1.0, b"u", ("u",), object()])
def test_keys_what_is_no_id_is_refused_by_name(bad: object) -> None:
    with pytest.raises(TypeError, match="user_id"):
        normal_id(cast("Any", bad), "user_id")


def test_keys_empty_id_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="channel_id"):
        normal_id("", "channel_id")


@given(prefixes, st.sampled_from("{}*?[]\\"), prefixes)
def test_keys_prefix_with_a_brace_or_a_glob_character_is_refused(before: str, bad: str, after: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Keys(before + bad + after)


@pytest.mark.parametrize("bad", [b"p:", None, 1])
def test_keys_prefix_that_is_not_text_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match="prefix"):
        Keys(cast("Any", bad))
