"""Leases across processes; with processes, servers and connections that are lost; on clusters and behind Sentinel."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
import redis.asyncio
from redis.crc import key_slot

from redis_botsession import SessionStore
from redis_botsession._transport import pubsub
from redis_botsession.embedded import LocalServer
from redis_botsession.leases import Leases
from redis_botsession.testing.harness import eventually

from ..store.test_least_privilege import CLUSTER, RULE, refused
from ..store.test_refusals import as_user
from ..support.processes import free_port, kill, paused
from ..support.redis_servers import SERVERS, locate_or_skip
from ..support.topologies import ClusterServers, SentinelServers
from .holders import HolderProcess, LeaseOnServer, LeaseUser, lease_user

PROCESSES = 4
EACH = 50
NEWEST = next(server for server in SERVERS if server.id == "redis-8.2")
#: Permissions that leases need besides those of the store.
LEASES = "+get +set +pttl +pexpire +publish +subscribe +unsubscribe &bot:session:*"

# Reads a number and writes the next one, which loses counts when two processes do it at once.
COUNTER = """
import asyncio, sys
from contextlib import nullcontext
import redis.asyncio
from redis_botsession import SessionStore
from redis_botsession.leases import Leases

url, prefix, each, is_isolated = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "isolated"

async def count(client, leases, user):
    async with leases.hold(user, "c") if is_isolated else nullcontext():
        number = int(await client.get(f"{prefix}{user}") or 0)
        await client.set(f"{prefix}{user}", number + 1)

async def main():
    async with redis.asyncio.Redis.from_url(url) as client, SessionStore.from_url(url, prefix=prefix) as store:
        leases = Leases(store)
        await client.ping()
        await store.get("u", "c")
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(count(client, leases, user) for _ in range(each) for user in ("u", "v")))
        await leases.aclose()

asyncio.run(main())
"""


async def count_in_processes(url: str, prefix: str, mode: str) -> list[int]:
    """Counts for two users in four processes, and returns the final numbers; without a lost count each is 200."""
    line = (sys.executable, "-c", COUNTER, url, prefix, str(EACH), mode)
    workers = [await asyncio.create_subprocess_exec(*line, stdin=PIPE, stdout=PIPE) for _ in range(PROCESSES)]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    async with redis.asyncio.Redis.from_url(url) as client:
        return [int(await client.get(f"{prefix}{user}") or 0) for user in ("u", "v")]


async def test_lease_isolates_four_processes(newest_url: str, prefix: str) -> None:
    assert await count_in_processes(newest_url, prefix, "isolated") == [PROCESSES * EACH] * 2


async def test_lease_is_needed_by_four_processes(newest_url: str, prefix: str) -> None:
    assert max(await count_in_processes(newest_url, prefix, "alone")) < PROCESSES * EACH


# --- holders that are killed or paused


async def test_lease_of_a_killed_holder_expires(here: LeaseUser, server: LeaseOnServer, newest_url: str, prefix: str) -> None:
    async with HolderProcess.holding(newest_url, prefix, lease=1.0) as holder:
        waiting = here.wants(server.time_ms)
        await server.is_waited_for()
        holder.process.kill()
        await holder.process.wait()
        token, left, now = await server.token(), await server.client.pttl(server.key), await server.time_ms()
        asked = await server.scripts_run()
        assert token
        await waiting
        assert await server.time_ms() >= now + left
        # One script when the lease expires, a second one if that was a millisecond early; then one for the release.
        assert await server.scripts_run() - asked <= 3


async def test_lease_lost_by_a_paused_holder_is_not_taken_back(
    here: LeaseUser, server: LeaseOnServer, newest_url: str, prefix: str
) -> None:
    done = asyncio.Event()
    async with HolderProcess.holding(newest_url, prefix, lease=0.5) as holder:
        theirs = await server.token()
        waiting = here.wants(done.wait)
        holder.process.send_signal(signal.SIGSTOP)

        async def is_ours() -> bool:
            return await server.token() not in (b"", theirs)

        await eventually(is_ours)
        ours = await server.token()
        holder.process.send_signal(signal.SIGCONT)
        assert re.match("log: lease .*was lost", await holder.next_line())
        assert await server.token() == ours
        holder.end()
        assert await holder.next_line() == "over True"
        assert await server.token() == ours
    done.set()
    await waiting


# --- servers that lose scripts and data, and lost connections


async def test_lease_survives_script_flush(here: LeaseUser, there: LeaseUser, server: LeaseOnServer) -> None:
    async with there.leases.hold("u", "c"):
        waiting = here.wants()
        await server.is_waited_for()
        await server.client.script_flush()
    await waiting


async def test_lease_waiter_survives_a_restarted_server(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    binary, env = locate_or_skip(NEWEST)
    local = LocalServer(binary, env=env, tcp=free_port())
    local.start()
    try:
        async with (
            lease_user(local.url, prefix, lease=1.0) as here,
            lease_user(local.url, prefix, lease=1.0) as there,
            there.leases.hold("u", "c") as lease,
        ):
            waiting = here.wants()
            async with LeaseOnServer.of(local.url, prefix) as server:
                await server.is_waited_for()
            kill(local)
            local.start()
            # The restarted server has lost the lease, so the waiter gets it.
            await waiting
            async with here.leases.hold("u", "c"), LeaseOnServer.of(local.url, prefix) as server:
                ours = await server.token()

                async def knows() -> bool:
                    return "was lost" in caplog.text

                await eventually(knows)
                assert lease.is_lost
                assert await server.token() == ours
    finally:
        local.stop()


async def test_lease_waiter_survives_a_lost_connection(here: LeaseUser, there: LeaseUser, server: LeaseOnServer) -> None:
    for _ in range(3):
        async with there.leases.hold("u", "c"):
            waiting = here.wants()
            await server.is_waited_for()
            (lost,) = [client["id"] for client in await server.client.client_list(_type="pubsub")]
            await server.client.client_kill_filter(_id=lost)
            # The release often comes before the waiter has subscribed again.
        await waiting
    async with there.leases.hold("u", "c"):
        waiting = here.wants()
        await server.is_waited_for()
        await server.client.client_kill_filter(_id=lost)
        await eventually(server.has_listeners)


async def test_lease_waiter_replaces_a_silent_connection(
    newest_url: str, prefix: str, server: LeaseOnServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub, "SILENCE", 0.05)
    binary, env = locate_or_skip(NEWEST)
    with LocalServer(binary, env=env, tcp=True) as local:
        async with (
            lease_user(local.url, prefix) as here,
            lease_user(local.url, prefix) as there,
            LeaseOnServer.of(local.url, prefix) as own,
        ):
            async with there.leases.hold("u", "c"):
                waiting = here.wants()
                await own.is_waited_for()
                before = (await own.client.client_list(_type="pubsub"))[0]["id"]

                async def has_been_asked() -> bool:
                    (connection,) = await own.client.client_list(_type="pubsub")
                    assert connection["id"] == before, "a connection that replies must not be replaced"
                    return bool(connection["cmd"] == "unsubscribe")

                await eventually(has_been_asked)

                async def is_left() -> bool:
                    return "silent for 0.1 s" in caplog.text

                with paused(local):
                    await eventually(is_left)
                await eventually(own.has_listeners)
            await waiting


# --- permissions


@pytest.mark.parametrize("without", ["+publish", "+subscribe", "+unsubscribe", "&bot:session:*"])
async def test_lease_waiter_without_pubsub_permission_polls(
    without: str, newest_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        await client.execute_command(*RULE.split(), *(word for word in LEASES.split() if word != without))  # type: ignore[no-untyped-call] # redis-py has no types here
        url = as_user(newest_url, "bot", "password")
        try:
            async with lease_user(url, "bot:session:") as here, lease_user(url, "bot:session:") as there:
                for _ in range(3):
                    async with there.leases.hold("u", "c"):
                        waiting = [here.wants(), here.wants()]

                        async def has_asked() -> bool:
                            return await client.strlen("bot:session:{u}:c:lock") == 33

                        await eventually(has_asked)
                    await asyncio.gather(*waiting)
                logged = [record.message for record in caplog.records if "cannot hear" in record.message]
                assert 1 <= len(logged) <= 2, "each of the two stores logs it once"
                assert "was lost" not in caplog.text
                assert "cannot be released" not in caplog.text
                assert "+subscribe +unsubscribe +publish &bot:session:*" in logged[0]
        finally:
            await client.acl_deluser("bot")


async def test_lease_needs_only_the_documented_permissions(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.execute_command(*RULE.split(), *LEASES.split())  # type: ignore[no-untyped-call] # redis-py has no types here
        await client.script_flush()
        bots_url = as_user(url, "bot", "password")
        try:
            async with (
                lease_user(bots_url, "bot:session:", lease=0.3) as here,
                lease_user(bots_url, "bot:session:", lease=0.3) as there,
                LeaseOnServer.of(url, "bot:session:") as server,
            ):
                async with there.leases.hold("u", "c") as lease:
                    waiting = here.wants()
                    await server.is_waited_for()
                    began = await server.time_ms()

                    async def has_been_renewed() -> bool:
                        return await server.time_ms() > began + 400

                    await eventually(has_been_renewed)
                    assert not lease.is_lost
                await waiting
            assert caplog.text == ""
        finally:
            await client.acl_deluser("bot")
        assert await client.dbsize() == 0


@pytest.mark.parametrize("without", ["+get", "+set", "+pttl"])
async def test_lease_needs_each_documented_command(without: str, newest_url: str) -> None:
    async with redis.asyncio.Redis.from_url(newest_url) as client:
        await client.execute_command(*RULE.split(), *(word for word in LEASES.split() if word != without))  # type: ignore[no-untyped-call] # redis-py has no types here
        bots_url = as_user(newest_url, "bot", "password")
        try:
            async with lease_user(newest_url, "bot:session:") as there, SessionStore.from_url(bots_url) as store:
                leases = Leases(store)
                with refused():
                    async with there.leases.hold("u", "c"):
                        await leases.hold("u", "c").__aenter__()
                    await leases.hold("u", "c").__aenter__()
                await leases.aclose()
        finally:
            await client.acl_deluser("bot")


# --- more than one server


async def test_lease_works_on_a_cluster(prefix: str) -> None:
    with ClusterServers(*locate_or_skip(NEWEST), primaries=2, replicas=0) as cluster:
        for node in cluster.nodes:
            node.ask(*RULE.replace("bot:session:", prefix).split(), *LEASES.replace("bot:session:", prefix).split(), *CLUSTER)
        url = as_user(cluster.url, "bot", "password")
        async with lease_user(url, prefix) as here, lease_user(url, prefix) as there:
            for user in ("u", "v", "w", "x"):
                node = cluster.primary_of(key_slot(user.encode()))
                async with there.leases.hold(user, "c"):
                    waiting = here.wants(user=user)
                    key = here.store.key(user, "c") + ":lock"

                    async def is_waited_for(node: object = node, key: str = key) -> bool:
                        heard = [other.ask("PUBSUB", "NUMSUB", key)[1] for other in cluster.nodes]
                        return bool(sum(heard) == 1)

                    await eventually(is_waited_for)
                    assert node.ask("GET", key).endswith("+")
                await waiting
            # Moves the slot to another node while one task holds the lease and another one waits.
            source = cluster.primary_of(key_slot(b"u"))
            target = next(node for node in cluster.nodes if node is not source)
            async with there.leases.hold("u", "c") as lease:
                waiting = here.wants()
                key = here.store.key("u", "c") + ":lock"
                await eventually(lambda: is_waited_for(key=key))
                await cluster.begin_move(key_slot(b"u"), source, target)
                await cluster.move_keys(key_slot(b"u"), source, target)
                await cluster.end_move(key_slot(b"u"), source, target)
            await waiting
            assert not lease.is_lost
            assert target.ask("EXISTS", key) == 0


async def test_lease_works_behind_sentinel(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the sentinels report the failover: silence would be noticed after an hour.
    monkeypatch.setattr(pubsub, "SILENCE", 3600)
    with SentinelServers(*locate_or_skip(NEWEST)) as servers:
        async with lease_user(servers.url, prefix) as here, lease_user(servers.url, prefix) as there:
            key = here.store.key("u", "c") + ":lock"

            async def is_waited_for() -> bool:
                primary = await asyncio.to_thread(servers.primary)
                return bool(primary is not old and primary.ask("PUBSUB", "NUMSUB", key)[1] == 1)

            old = None
            async with there.leases.hold("u", "c"):
                waiting = here.wants()
                await eventually(is_waited_for)
                old = servers.primary()
                # The paused primary keeps its connections open.
                servers.pause(old)
                await eventually(is_waited_for)
                new = servers.primary()
                # The lease was replicated, so the new primary has it.
                assert new.ask("EXISTS", key) == 1
                assert not waiting.done()
            await waiting
            assert new.ask("EXISTS", key) == 0


def test_permissions_page_lists_those_of_leases() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations" / "permissions.md").read_text("utf-8")
    assert f"`{LEASES}`" in " ".join(text.split())
