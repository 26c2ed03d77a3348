"""``botsession migrate``: what is deleted at the source, and what cannot be migrated."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from aiogram.fsm.storage.base import DefaultKeyBuilder, StorageKey
from aiogram.fsm.storage.redis import RedisEventIsolation, RedisStorage

from redis_botsession import BotSession, OutcomeUnknown, SessionStore
from redis_botsession._store.command_store import CommandStore
from redis_botsession.adapters.aiogram import BotSessionStorage
from redis_botsession.cli.migrate.reader import Reader
from redis_botsession.cli.migrate.sources.base import Unit

from .migrating import BOT, SECRET, Client, Migrate, counts, json_session, keys_under

# --- Deleting at the source


async def test_migrate_with_delete_source_nothing_but_what_was_migrated_goes(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    builder = DefaultKeyBuilder(prefix=source_prefix)
    old, new = RedisStorage(source, builder), BotSessionStorage(target)
    keys = [StorageKey(BOT, 42, n) for n in range(250)]
    for key in keys:
        await old.set_state(key, "s")
        await old.set_data(key, {"n": key.user_id})
    async with RedisEventIsolation(source, builder).lock(keys[0]):
        await source.set(f"{source_prefix}:nonsense", "x")
        await source.set(f"{source_prefix}-other", "x")
        asked = ("aiogram", "--bot-id", str(BOT))
        assert (await migrate(*asked))[1]["counts"] == counts(migrated=250, not_understood=1)
        assert len(await keys_under(source, source_prefix)) == 503
        # What an interrupted run has written and not deleted any more.
        assert (await migrate(*asked, "--delete-source"))[1]["counts"] == counts(there=250, not_understood=1, deleted=250)
        left = {b":nonsense", b"-other", b":42:0:lock"}
        assert await keys_under(source, source_prefix) == {source_prefix.encode() + key for key in left}
    assert [await new.get_data(key) for key in keys] == [{"n": key.user_id} for key in keys]


@pytest.mark.parametrize("when", ["before it looks", "between looking and deleting"])
@pytest.mark.parametrize("change", ["data", "no state"])
async def test_migrate_what_the_old_bot_changes_meanwhile_is_not_deleted(
    migrate: Migrate,
    empty_url: str,
    source: Client,
    source_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    change: str,
) -> None:
    old = RedisStorage(source, DefaultKeyBuilder(prefix=source_prefix))
    changed, others = StorageKey(BOT, 42, 7), [StorageKey(BOT, 42, 100 + n) for n in range(9)]
    for key in (changed, *others):
        await old.set_state(key, "s")
        await old.set_data(key, {"n": 1})
    delete, read = Reader.delete, Reader.read
    is_deleting = False

    with redis.Redis.from_url(empty_url) as client:

        def change_it() -> None:
            if change == "data":
                client.set(f"{source_prefix}:42:7:data", '{"new": 1}')
            else:
                client.delete(f"{source_prefix}:42:7:state")

        def is_among(units: list[Unit]) -> bool:
            # SCAN may give them in several steps.
            return any(f"{source_prefix}:42:7:".encode() in unit.keys[0] for unit in units)

        async def deletes(self: Reader, units: list[Unit], *args: Any) -> list[bool]:
            nonlocal is_deleting
            if is_among(units):
                is_deleting = True
                if when == "before it looks":
                    change_it()
            return await delete(self, units, *args)

        async def reads(self: Reader, units: list[Unit]) -> Any:
            found = await read(self, units)
            if is_deleting and when != "before it looks" and is_among(units):
                change_it()
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Reader, "delete", deletes)
            patch.setattr(Reader, "read", reads)
            status, report = await migrate("aiogram", "--bot-id", str(BOT), "--delete-source")

    assert (status, report["counts"]) == (0, counts(migrated=10, deleted=9, kept=1))
    assert await old.get_data(changed) == ({"new": 1} if change == "data" else {"n": 1})
    assert await old.get_state(changed) == ("s" if change == "data" else None)
    assert len(await keys_under(source, source_prefix)) == (2 if change == "data" else 1)
    # The next run sees that they differ.
    again = (await migrate("aiogram", "--bot-id", str(BOT), "--delete-source"))[1]
    assert again["counts"] == counts(there=1, changed=1, kept=1)


async def test_migrate_what_differs_from_the_target_is_not_deleted(
    migrate: Migrate, source: Client, target: SessionStore, source_prefix: str
) -> None:
    for n in range(3):
        await source.set(f"{source_prefix}42:{n}", json_session("42", str(n), data={"n": 1}))
    await target.set(42, 0, BotSession("42", "0", {"n": True}))
    await target.set(42, 1, BotSession("42", "1", {"n": 1}))
    expected = counts(migrated=1, there=2, changed=1, deleted=2, kept=1)
    assert (await migrate("json", "--delete-source"))[1]["counts"] == expected
    assert await keys_under(source, source_prefix) == {f"{source_prefix}42:0".encode()}
    assert (await migrate("json", "--delete-source", "--overwrite"))[1]["counts"] == counts(migrated=1, deleted=1)
    assert await keys_under(source, source_prefix) == set()


# --- What cannot be migrated


async def test_migrate_reports_failures_and_goes_on(
    migrate: Migrate, source: Client, target: SessionStore, prefix: str, source_prefix: str
) -> None:
    await source.set(f"{source_prefix}42:good", json_session("42", "good", data={"n": 1}))
    await source.set(f"{source_prefix}42:text", SECRET)
    await source.lpush(f"{source_prefix}42:list", SECRET)
    await source.set(f"{source_prefix}42:large", json_session("42", "large", data={"text": "x" * 2_000}))
    nested: Any = SECRET
    for _ in range(40):
        nested = [nested]
    await source.set(f"{source_prefix}42:deep", json_session("42", "deep", data={"list": nested}))
    await source.set(f"{source_prefix}42:taken", json_session("42", "taken"))
    await source.set(f"{prefix}{{42}}:taken", "another's")
    await source.set(f"{source_prefix}42:wrong", json_session("43", "wrong", data={SECRET: SECRET}))
    await source.set(source_prefix.encode() + b"\xff:\n", SECRET)

    status, report = await migrate("json", "--max-bytes", "1000", "--delete-source")

    assert (status, report["counts"]) == (1, counts(migrated=1, deleted=1, failed=5, not_understood=2))
    reasons = {row["key"].removeprefix(source_prefix): row["reason"] for row in report["listed"]["failed"]}
    assert reasons.keys() == {"42:text", "42:list", "42:large", "42:deep", "42:taken"}
    assert "no JSON" in reasons["42:text"]
    assert reasons["42:list"] == "it is no string"
    assert "1,000" in reasons["42:large"]
    assert "list" in reasons["42:deep"]
    assert "another type" in reasons["42:taken"]
    misread = {row["key"].removeprefix(source_prefix): row["reason"] for row in report["listed"]["not_understood"]}
    assert misread == {"42:wrong": "it holds the session of another userId and channelId", "\\xff:\n": "it is no UTF-8"}
    assert [ids async for ids in target.scan()] == [("42", "good")]
    assert len(await keys_under(source, source_prefix)) == 7


async def test_migrate_of_many_keys_that_are_not_understood_the_first_are_listed(
    migrate: Migrate, source: Client, source_prefix: str
) -> None:
    await source.mset({f"{source_prefix}:x:{n}": "x" for n in range(50)})
    status, report = await migrate("telebot")
    assert (status, report["counts"]) == (1, counts(not_understood=50))
    assert len(report["listed"]["not_understood"]) == 20


async def test_migrate_key_of_another_type_is_told_once(migrate: Migrate, source: Client, source_prefix: str) -> None:
    await source.set(f"{source_prefix}:42:1:state", "s")
    await source.lpush(f"{source_prefix}:42:1:data", SECRET)
    status, report = await migrate("aiogram", "--bot-id", str(BOT), "--delete-source")
    assert (status, report["counts"]) == (1, counts(failed=1))
    assert report["listed"]["failed"] == [{"key": f"{source_prefix}:42:1:data", "reason": "it is no string"}]


@pytest.mark.parametrize("is_written", [True, False])
async def test_migrate_write_without_a_reply_is_sent_again_and_counts_once(
    migrate: Migrate,
    source: Client,
    source_prefix: str,
    target: SessionStore,
    monkeypatch: pytest.MonkeyPatch,
    is_written: bool,
) -> None:
    await source.set(f"{source_prefix}42:1", json_session("42", "1", data={"n": 1}))
    put, attempts = CommandStore.set, 0

    async def loses_the_reply(self: CommandStore, *args: Any, **options: Any) -> int:
        nonlocal attempts
        attempts += 1
        version = await put(self, *args, **options) if is_written or attempts > 1 else 0
        if attempts == 1:
            raise OutcomeUnknown("the connection was lost")
        return version

    monkeypatch.setattr(CommandStore, "set", loses_the_reply)
    status, report = await migrate("json", "--delete-source")
    assert (status, report["counts"], attempts) == (0, counts(migrated=1, deleted=1), 2)
    session = await target.get(42, 1)
    assert session is not None
    assert session.data == {"n": 1}
