"""The contract: merges, versions and modify."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from .._session.changes import Write
from .._session.record import BotSession
from .._store.base import BotSessionStore
from ..errors import SerializationError, SessionGone, SessionTooLarge, VersionConflict
from .harness import HOUR, Harness, check, load


class WriteContract(Harness):
    """Concurrent writers lose nothing."""

    # --- update

    @check(max_bytes=200)
    async def test_store_write_counts_a_key_to_remove_once(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"a": "x" * 20, "b": 2})
        await store.write("u", "c", Write(remove=["a", "a", "a"]))
        assert (await load(store)).data == {"b": 2}
        # The size is still right: the limit holds.
        with pytest.raises(SessionTooLarge):
            await store.update("u", "c", {"large": "x" * 200})

    @check()
    async def test_store_write_refuses_names_that_are_none(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"a": 1, "b": 2})
        wrong: Any = 5
        with pytest.raises(ValueError, match="'a' is both changed and removed"):
            await store.write("u", "c", Write(values={"a": 2}, remove=["a"]))
        with pytest.raises(ValueError, match="'a' is both changed and kept"):
            await store.write("u", "c", Write(values={"a": 2}, keep=["a"]))
        with pytest.raises(ValueError, match="not both"):
            await store.write("u", "c", Write(remove=["a"], keep=["b"]))
        with pytest.raises(TypeError, match="not one str"):
            await store.write("u", "c", Write(remove="ab"))
        with pytest.raises(TypeError, match="must be str, not int"):
            await store.write("u", "c", Write(remove=[wrong]))
        assert (await load(store)).data == {"a": 1, "b": 2}

    @check()
    async def test_update_merges(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"a": 1, "b": {"x": 1}, "c": 3})
        await store.update("u", "c", {"b": {"y": 2}, "d": 4}, remove=["c", "never there"])
        session = await load(store)
        assert session.data == {"a": 1, "b": {"y": 2}, "d": 4}
        assert session.created_at < session.updated_at

    @check()
    async def test_update_creates_only_where_it_may(self, store: BotSessionStore) -> None:
        with pytest.raises(SessionGone):
            await store.update("u", "c", {"a": 1}, create=False)
        assert await store.get("u", "c") is None
        await store.update("u", "c", {"a": 1})
        await store.update("u", "c", {"b": 2}, create=False)
        assert (await load(store)).data == {"a": 1, "b": 2}

    @check()
    async def test_update_refuses_bad_arguments(self, store: BotSessionStore) -> None:
        await store.update("u", "c", {"a": 1})
        before = await load(store)
        with pytest.raises(ValueError, match="both changed and removed"):
            await store.update("u", "c", {"a": 2}, remove=["a"])
        with pytest.raises(TypeError):
            await store.update("u", "c", {}, remove="a")
        with pytest.raises(TypeError):
            await store.update("u", "c", {}, remove=cast("Any", [1]))
        with pytest.raises(SerializationError):
            await store.update("u", "c", cast("Any", {1: "x"}))
        with pytest.raises(SerializationError):
            await store.update("u", "c", cast("Any", [("a", 2)]))
        with pytest.raises(ValueError, match="aware"):
            await store.update("u", "c", {"a": 2}, expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - naive on purpose
        for version, error in ((-1, ValueError), ("1", TypeError), (True, TypeError)):
            with pytest.raises(error):
                await store.update("u", "c", {"a": 2}, expected_version=cast("Any", version))
        assert await load(store) == before

    @check()
    async def test_store_concurrent_updates_of_different_keys_all_stay(self, store: BotSessionStore) -> None:
        await asyncio.gather(*(store.update("u", "c", {f"k{n}": n}) for n in range(200)))
        assert (await load(store)).data == {f"k{n}": n for n in range(200)}

    # --- update_and_get, replace, discard

    @check()
    async def test_update_and_get_gives_the_session_as_it_is_then(self, store: BotSessionStore) -> None:
        assert await store.update_and_get("u", "c", {"a": 1, "b": {"x": (1,)}}) == await load(store)
        session = await store.update_and_get("u", "c", {"a": 2, "d": None}, remove=["b", "never there"])
        assert session == await load(store)
        assert session is not None
        assert session.data == {"a": 2, "d": None}
        with pytest.raises(SessionGone):
            await store.update_and_get("u", "new", {"a": 1}, create=False)
        assert await store.channels("u") == ["c"]
        deadline = datetime.now(UTC) - HOUR
        await store.update("u", "c", {}, expires_at=deadline)
        assert await store.get("u", "c") is None
        for wrong, error in (({"a": object()}, SerializationError), (cast("Any", {1: 1}), SerializationError)):
            with pytest.raises(error):
                await store.update_and_get("u", "c", wrong)
        assert await store.get("u", "c") is None

    @check()
    async def test_store_concurrent_update_and_gets_see_each_other(self, store: BotSessionStore) -> None:
        sessions = await asyncio.gather(*(store.update_and_get("u", "c", {f"k{n}": n}) for n in range(50)))
        assert (await load(store)).data == {f"k{n}": n for n in range(50)}
        for n, session in enumerate(sessions):
            assert session is not None
            assert session.data[f"k{n}"] == n

    @check()
    async def test_replace_keeps_what_it_is_told_to_keep(self, store: BotSessionStore) -> None:
        deadline = datetime.now(UTC) + HOUR
        created = datetime(2020, 1, 1, tzinfo=UTC)
        await store.set("u", "c", BotSession("u", "c", {"a": 1, "b": 2, "kept": [3]}, created_at=created, expires_at=deadline))
        before = await load(store)
        version = await store.replace("u", "c", {"a": 4, "d": 5}, keep=["kept", "never there"])
        after = await load(store)
        assert after.data == {"a": 4, "d": 5, "kept": [3]}
        assert (after.version, after.created_at, after.expires_at) == (version, created, deadline)
        assert version > before.version
        await store.replace("u", "c", {}, keep=["kept"], drop_empty=True)
        assert (await load(store)).data == {"kept": [3]}
        await store.replace("u", "c", {})
        assert (await load(store)).data == {}
        assert await store.replace("u", "c", {}, drop_empty=True) == 0
        assert await store.get("u", "c") is None
        assert await store.channels("u") == []

    @check()
    async def test_replace_creates_only_where_it_may(self, store: BotSessionStore) -> None:
        with pytest.raises(SessionGone):
            await store.replace("u", "c", {"a": 1}, create=False)
        assert await store.replace("u", "c", {}, drop_empty=True) == 0
        assert await store.get("u", "c") is None
        assert await store.channels("u") == []
        assert await store.replace("u", "c", {"a": 1}, keep=["b"]) > 0
        assert (await load(store)).data == {"a": 1}
        with pytest.raises(ValueError, match="both changed and kept"):
            await store.replace("u", "c", {"a": 1}, keep=["a"])
        with pytest.raises(SerializationError):
            await store.replace("u", "c", {"a": object()})
        assert (await load(store)).data == {"a": 1}

    @check(max_bytes=200)
    async def test_replace_and_discard_count_what_goes(self, store: BotSessionStore) -> None:
        for n in range(5):
            await store.replace("u", "c", {str(n): "x" * 120}, keep=["kept"])
            await store.update("u", "c", {"kept": "y" * 50})
        assert (await load(store)).data == {"4": "x" * 120, "kept": "y" * 50}
        with pytest.raises(SessionTooLarge):
            await store.replace("u", "c", {"a": "x" * 170}, keep=["kept"])
        await store.discard("u", "c", ["kept"])
        await store.replace("u", "c", {"a": "x" * 170}, keep=["kept"])
        assert (await load(store)).data == {"a": "x" * 170}

    @check()
    async def test_discard_takes_the_session_with_its_last_key(self, store: BotSessionStore) -> None:
        assert await store.discard("u", "c", ["a"]) == 0
        assert await store.channels("u") == []
        version = await store.update("u", "c", {"a": 1, "b": None, "": 2})
        assert await store.discard("u", "c", ["a", "never there"]) > version
        assert (await load(store)).data == {"b": None, "": 2}
        assert await store.discard("u", "c", ["", "b"]) == 0
        assert await store.get("u", "c") is None
        assert await store.channels("u") == []
        assert await store.size() == 0

    @check()
    async def test_replace_loses_no_update_of_a_kept_key(self, store: BotSessionStore) -> None:
        async def count() -> None:
            for n in range(20):
                await store.update("u", "c", {f"s{n}": n})

        async def rewrite() -> None:
            for n in range(20):
                await store.replace("u", "c", {"data": n}, keep=[f"s{m}" for m in range(20)])

        await asyncio.gather(count(), rewrite())
        assert (await load(store)).data == {"data": 19, **{f"s{n}": n for n in range(20)}}

    # --- versions

    @check()
    async def test_store_versions_grow_and_never_repeat(self, store: BotSessionStore) -> None:
        versions = [await store.update("u", "c", {"n": n}) for n in range(20)]
        versions.append(await store.set("u", "c", BotSession("u", "c")))
        await store.delete("u", "c")
        versions.append(await store.update("u", "c", {"n": 0}))
        assert versions == sorted(set(versions))
        assert versions[0] > 0
        assert (await load(store)).version == versions[-1]

    @check()
    async def test_store_reads_and_touches_leave_the_version(self, store: BotSessionStore) -> None:
        version = await store.update("u", "c", {"n": 1})
        await store.get("u", "c", touch=True)
        await store.touch("u", "c")
        assert (await load(store)).version == version

    @check()
    async def test_store_expected_version(self, store: BotSessionStore) -> None:
        empty = BotSession("u", "c")
        writes: list[Callable[[int], Awaitable[int]]] = [
            lambda expected: store.set("u", "c", empty, expected_version=expected),
            lambda expected: store.update("u", "c", {"n": 1}, expected_version=expected),
            lambda expected: store.delete("u", "c", expected_version=expected),
        ]
        for write in writes:
            with pytest.raises(VersionConflict) as caught:
                await write(7)
            assert (caught.value.expected, caught.value.actual) == (7, 0)
            version = await store.update("u", "c", {"n": 0}, expected_version=0)
            for wrong in (0, version - 1, version + 1):
                with pytest.raises(VersionConflict) as caught:
                    await write(wrong)
                assert (caught.value.expected, caught.value.actual) == (wrong, version)
                assert caught.value.key == store.key("u", "c")
            assert (await load(store)).version == version
            await write(version)
            await store.delete("u", "c")
        assert await store.delete("u", "c", expected_version=0) is False

    @check()
    async def test_store_one_of_many_compare_and_sets_wins(self, store: BotSessionStore) -> None:
        for start in (0, await store.update("u", "d", {"n": -1})):
            channel = "d" if start else "c"
            results = await asyncio.gather(
                *(store.update("u", channel, {"n": n}, expected_version=start) for n in range(50)), return_exceptions=True
            )
            conflicts = [result for result in results if isinstance(result, VersionConflict)]
            won = [n for n, result in enumerate(results) if isinstance(result, int)]
            assert (len(won), len(conflicts)) == (1, 49)
            assert (await load(store, "u", channel)).data == {"n": won[0]}

    @check()
    async def test_store_session_created_again_is_another(self, store: BotSessionStore) -> None:
        version = await store.update("u", "c", {"old": 1})
        await store.delete("u", "c")
        await store.update("u", "c", {"new": 1})
        with pytest.raises(VersionConflict):
            await store.update("u", "c", {"late": 1}, expected_version=version)
        with pytest.raises(SessionGone):
            await store.update("u", "c", {"late": 1}, since_version=version)
        assert (await load(store)).data == {"new": 1}

    @check()
    async def test_store_since_version_lets_through_what_was_only_written(self, store: BotSessionStore) -> None:
        version = await store.update("u", "c", {"a": 1})
        await store.update("u", "c", {"b": 1})
        await store.set("u", "c", BotSession("u", "c", {"c": 1}))
        await store.update("u", "c", {"d": 1}, since_version=version)
        assert (await load(store)).data == {"c": 1, "d": 1}

    # --- modify

    @check()
    async def test_store_concurrent_modifies_all_count(self, store: BotSessionStore) -> None:
        def add(session: BotSession) -> None:
            session.data["n"] = session.data.get("n", 0) + 1

        async def slow_add(session: BotSession) -> None:
            await asyncio.sleep(0)
            add(session)

        await asyncio.gather(*(store.modify("u", "c", add if n % 2 else slow_add) for n in range(100)))
        assert (await load(store)).data == {"n": 100}

    @check()
    async def test_modify_gives_what_it_saved(self, store: BotSessionStore) -> None:
        deadline = datetime.now(UTC) + HOUR

        def change(session: BotSession) -> None:
            session.data["nested"] = {"n": 1}
            session.expires_at = deadline

        assert await store.modify("u", "c", change) == await load(store)

        def change_again(session: BotSession) -> None:
            session.data["nested"]["n"] = 2
            session.data["more"] = True

        session = await store.modify("u", "c", change_again)
        assert session == await load(store)
        assert (session.data, session.expires_at) == ({"nested": {"n": 2}, "more": True}, deadline)
        assert await store.modify("u", "c", lambda _: None) == session

    @check()
    async def test_modify_is_tried_again_after_a_conflict(self, store: BotSessionStore) -> None:
        seen: list[Any] = []

        async def meddle(session: BotSession) -> None:
            seen.append(session.data.get("other"))
            if len(seen) < 3:
                await store.update("u", "c", {"other": len(seen)})
            session.data["mine"] = True

        await store.modify("u", "c", meddle)
        assert seen == [None, 1, 2]
        assert (await load(store)).data == {"other": 2, "mine": True}

        async def always_meddle(session: BotSession) -> None:
            await store.update("u", "c", {"other": len(seen)})
            session.data["mine"] = False

        with pytest.raises(VersionConflict):
            await store.modify("u", "c", always_meddle, attempts=3)
        with pytest.raises(ValueError, match="attempts"):
            await store.modify("u", "c", lambda _: None, attempts=0)

    @check()
    async def test_modify_writes_nothing_when_its_function_fails(self, store: BotSessionStore) -> None:
        def fail(session: BotSession) -> None:
            session.data["n"] = 1
            raise LookupError("no")

        with pytest.raises(LookupError):
            await store.modify("u", "c", fail)
        assert await store.get("u", "c") is None

    @check()
    async def test_modify_inside_of_itself_is_refused(self, store: BotSessionStore) -> None:
        async def inner(session: BotSession) -> None:
            await store.modify("u", "c", lambda _: None)

        with pytest.raises(RuntimeError, match="inside of its own"):
            await store.modify("u", "c", inner)
