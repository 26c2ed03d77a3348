"""What the doctor finds on real servers, clusters and sentinels."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from redis_botsession import SessionStore
from redis_botsession.cli.doctor import CannotLook, Report, Severity, examine
from redis_botsession.cli.doctor.checks.access import acl_line
from redis_botsession.cli.doctor.needed_permissions import DOCTOR_RULES, STORE_COMMANDS
from redis_botsession.embedded import LocalServer
from redis_botsession.leases import Leases

from ...support.redis_servers import SERVERS, Server, locate_or_skip
from ...support.topologies import SERVICE, ClusterServers, SentinelServers
from .test_doctor import NEWEST, Captured, as_user, doctor, eventually, fill, findings_of, port_with_bus, server, severities

# --- on every server


def test_doctor_says_what_it_looked_at(url: str, prefix: str, request: pytest.FixtureRequest) -> None:
    product, _, version = request.node.callspec.params["url"].id.partition("-")
    report = examine(url, prefix=prefix)
    (node,) = report.nodes
    assert (node.address, node.role, node.user) == (urlsplit(url).netloc, "primary", "default")
    assert node.product.lower() == product
    assert node.version.startswith(version)
    assert report.target == url
    assert severities(report) == {
        "version": "ok",
        "maxmemory-policy": "ok",
        "maxmemory": "info",
        "evicted-keys": "ok",
        "persistence": "warning",
        "rdb-last-bgsave": "ok",
        "aof-last-write": "ok",
        "aof-last-rewrite": "ok",
        "role": "ok",
        "sessions": "info",
        "user": "warning",
        "permissions": "ok",
        "clock-skew": "ok",
        "latency": "ok",
        "tls": "ok",
    } | {"latency": findings_of(report)["latency"].severity.label} | (
        # SUBSCRIBE can be examined with ACL DRYRUN only, which 6.2 does not have.
        {} if version == "6.2" else {"permissions-leases": "ok"}
    )


def test_doctor_writes_nothing(url: str, prefix: str) -> None:
    fill(url, prefix, "short", "long" * 100)
    with redis.Redis.from_url(url) as client:
        client.acl_setuser("bot", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-acl", "-config"])
        client.config_resetstat()
        before: Any = client.info()
        try:
            examine(url, prefix=prefix)
            examine(as_user(url, "bot"), prefix=prefix)
        finally:
            client.acl_deluser("bot")
        after: Any = client.info()
        ran = {name.removeprefix("cmdstat_").lower() for name in client.info("commandstats")}
        assert client.dbsize() == 4
    for name in ("rdb_changes_since_last_save", "master_repl_offset", "evicted_keys", "expired_keys"):
        assert after[name] == before[name]
    assert not ran & {"keys", "flushall", "config|set", "shutdown", "monitor", "debug"}


def test_doctor_sizes_of_sessions(url: str, prefix: str, capsys: Captured) -> None:
    fill(url, prefix, *["x" * 200] * 15, *["short"] * 10)
    fill(url, "another:", *["x" * 9000] * 10)
    found = findings_of(examine(url, prefix=prefix))
    assert "10 of 25 sessions" in found["sessions"].found
    setting = found["hash-max-listpack-value"]
    assert setting.severity is Severity.WARNING
    assert "is 64;" in setting.found
    assert "15 of 25" in setting.why
    command = setting.advice.partition(";")[0]
    with redis.Redis.from_url(url) as client:
        try:
            assert client.execute_command(*command.split())
            after = findings_of(examine(url, prefix=prefix))["hash-max-listpack-value"]
        finally:
            for name in client.config_get("hash-max-*-value"):
                client.config_set(name, 64)
    assert after.severity is Severity.OK
    assert "3 of 3 sessions" not in found["sessions"].found
    assert "of 3 sessions" in findings_of(examine(url, prefix=prefix, sample=3))["sessions"].found
    assert "sessions" not in findings_of(examine(url, prefix=prefix, sample=0))
    assert doctor("--url", url, "--prefix", prefix) == 1
    assert "xxx" not in capsys.readouterr().out


def advised_rule(url: str, prefix: str) -> list[str]:
    """The rule for bots in what the doctor says to a user without a password."""
    found = re.search(r"\((ACL SETUSER bot [^)]*)\)", findings_of(examine(url, prefix=prefix))["user"].advice)
    assert found
    return found[1].replace("PASSWORD", "secret").split()


async def use_lease(url: str, prefix: str) -> None:
    async with SessionStore.from_url(url, prefix=prefix) as store:
        leases = Leases(store)
        async with leases.hold("u", "c") as lease:
            assert not lease.is_lost
        await leases.aclose()


def test_doctor_user_that_it_advises_is_enough_and_not_too_much(url: str, prefix: str) -> None:
    with redis.Redis.from_url(url) as client:
        try:
            client.execute_command(*advised_rule(url, prefix))
            fill(as_user(url, "bot"), prefix, "short")
            asyncio.run(use_lease(as_user(url, "bot"), prefix))
            as_bot = examine(as_user(url, "bot"), prefix=prefix)
            client.execute_command("ACL", "SETUSER", "bot", *DOCTOR_RULES)
            as_doctor = examine(as_user(url, "bot"), prefix=prefix)
            elsewhere = examine(as_user(url, "bot"), prefix="elsewhere:")
        finally:
            client.acl_deluser("bot")
    assert as_bot.nodes[0].user == as_doctor.nodes[0].user == "bot"
    for report in (as_bot, as_doctor):
        assert severities(report).items() >= {"user": "ok", "permissions": "ok", "least-privilege-keys": "ok"}.items()
        assert severities(report)["version"] == "ok"
    assert severities(as_doctor).get("least-privilege-commands", "ok") == "ok"
    # Commands that the bot may not run are reported, without a traceback.
    refused = {name for name in severities(as_bot) if name.startswith("cannot-look")}
    assert refused == {"cannot-look-info", "cannot-look-config-get", "cannot-look-object-encoding"}
    assert not any(name.startswith("cannot-look") for name in severities(as_doctor))
    # Nor may it do anything under another prefix.
    denied = findings_of(elsewhere)["permissions"]
    assert denied.severity is Severity.CRITICAL
    assert "HSET" in denied.found


def as_limited(url: str, prefix: str, commands: list[str], **options: Any) -> Report:
    """What is found by a user who may run these commands on keys under the prefix."""
    with redis.Redis.from_url(url) as client:
        client.acl_setuser("limited", enabled=True, passwords=["+secret"], keys=[f"{prefix}*"], commands=commands)
        try:
            return examine(as_user(url, "limited"), prefix=prefix, **options)
        finally:
            client.acl_deluser("limited")


@pytest.mark.parametrize("may_ask", [False, True])
@pytest.mark.parametrize("denied", STORE_COMMANDS)
def test_doctor_each_missing_permission_is_named(denied: str, may_ask: bool, newest_url: str, prefix: str) -> None:
    commands = ["+@all", f"-{denied.lower()}", *([] if may_ask else ["-acl"])]
    finding = findings_of(as_limited(newest_url, prefix, commands, sample=0))["permissions"]
    assert finding.severity is (Severity.INFO if denied == "SCAN" else Severity.CRITICAL)
    assert f"may not run {denied} on" in finding.found
    assert f"+{denied.lower()}" in finding.advice


def test_doctor_missing_permissions_where_there_is_no_dry_run(url: str, prefix: str) -> None:
    commands = ["+@all", "-zadd", "-eval", "-flushall", "-acl"]
    found = findings_of(as_limited(url, prefix, commands))
    assert "may not run EVAL, ZADD on" in found["permissions"].found
    assert found["least-privilege-keys"].severity is Severity.OK


def test_doctor_what_a_user_may_do_beyond_its_needs(url: str, prefix: str) -> None:
    commands = ["+@all", "-@dangerous", "+keys", "+acl", "+info"]
    found = findings_of(as_limited(url, prefix, commands))
    assert found["least-privilege-commands"].found == "the user 'limited' may run KEYS"
    assert found["user"].severity is Severity.OK


# --- options of a server


def test_doctor_server_as_it_should_be(prefix: str, capsys: Captured) -> None:
    with server("--appendonly", "yes", "--maxmemory", "1gb") as url:
        with redis.Redis.from_url(url) as client:
            client.execute_command(*acl_line(prefix, has_waitaof=True).replace("PASSWORD", "secret").split(), *DOCTOR_RULES)
        fill(url, prefix, "short")
        assert doctor("--url", as_user(url, "bot"), "--prefix", prefix) == 0
    said = capsys.readouterr()
    assert said.err == ""
    headline, *rest = said.out.splitlines()
    assert headline.startswith("Redis 8.2.3 at 127.0.0.1:")
    assert headline.endswith(", primary, as user bot")
    assert rest[-1].startswith("0 critical, 0 warning, 0 info, ")
    assert all(line.startswith("ok ") for line in rest[1:-2])


def test_doctor_server_that_evicts(prefix: str, capsys: Captured) -> None:
    with server("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru") as url:
        with redis.Redis.from_url(url) as client:
            for n in range(100):
                client.set(f"big:{n}", b"x" * 50_000)
        assert doctor("--url", url, "--prefix", prefix) == 2
    said = capsys.readouterr().out
    for name in ("maxmemory-policy", "evicted-keys", "memory-usage"):
        assert f"CRITICAL  {name}\n" in said
    assert "CONFIG SET maxmemory-policy noeviction" in said
    assert said.index("CRITICAL") < said.index("WARNING") < said.index("\nok ")


def test_doctor_replica(newest_url: str, prefix: str) -> None:
    with redis.Redis.from_url(newest_url) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            report = examine(newest_url, prefix=prefix)
        finally:
            client.replicaof("NO", "ONE")
    assert report.nodes[0].role == "replica"
    assert severities(report).items() >= {"role": "critical", "primary-link": "warning", "permissions": "ok"}.items()


def test_doctor_socket(prefix: str) -> None:
    with server(tcp=False) as url:
        report = examine(url, prefix=prefix)
    assert report.nodes[0].address == urlsplit(url).path
    assert severities(report)["tls"] == "ok"


def test_doctor_renamed_command(prefix: str) -> None:
    with server("--rename-command", "CONFIG", "", "--rename-command", "EVAL", "") as url:
        found = findings_of(examine(url, prefix=prefix))
    assert found["commands"].severity is Severity.CRITICAL
    assert "EVAL" in found["commands"].found.split()
    assert found["cannot-look-config-get"].severity is Severity.INFO


# --- clusters and sentinels


@pytest.mark.parametrize("version", SERVERS, ids=lambda version: version.id)
def test_doctor_one_node_with_all_slots(version: Server, prefix: str) -> None:
    binary, env = locate_or_skip(version)
    with LocalServer(binary, env=env, tcp=port_with_bus(), options=["--cluster-enabled", "yes"]) as local:
        with redis.Redis.from_url(local.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
            rule = acl_line(prefix, of_cluster=True).replace("PASSWORD", "secret")
            client.execute_command(*rule.split(), "+cluster|nodes", "+acl|whoami")
            as_bot = as_user(local.url, "bot").replace("redis:", "redis+cluster:").removesuffix("0")
            enough = findings_of(examine(as_bot, prefix=prefix))["permissions"]
            client.execute_command("ACL", "SETUSER", "bot", "-asking")
            too_little = findings_of(examine(as_bot, prefix=prefix))["permissions"]
        assert enough.severity is Severity.OK
        assert "may not run ASKING on" in too_little.found
        assert "+asking" in too_little.advice
        report = examine(local.url, prefix=prefix)
    found = severities(report)
    assert found.items() >= {"cluster-state": "ok", "cluster-slots": "ok", "cluster-nodes": "ok", "permissions": "ok"}.items()
    assert found["cluster-replicas"] == "warning"
    assert "cluster-url" not in found
    assert not any(name.startswith("cannot-look") for name in found)


def test_doctor_node_without_slots(prefix: str) -> None:
    with server("--cluster-enabled", "yes", tcp=port_with_bus()) as url:
        plain = examine(url, prefix=prefix)
        as_cluster = examine(url.replace("redis:", "redis+cluster:").removesuffix("0"), prefix=prefix)
    for report in (plain, as_cluster):
        assert len(report.nodes) == 1
        assert severities(report).items() >= {"cluster-state": "critical", "cluster-slots": "critical"}.items()
    assert severities(plain)["cluster-url"] == "critical"
    assert "cluster-url" not in severities(as_cluster)


def test_doctor_all_nodes_of_a_cluster(prefix: str, capsys: Captured) -> None:
    binary, env = locate_or_skip(NEWEST)
    with ClusterServers(binary, env, primaries=3, replicas=1) as cluster:
        first, second, third, replica = cluster.nodes
        report = examine(cluster.url, prefix=prefix)
        assert {node.address: node.role for node in report.nodes} == {
            f"127.0.0.1:{first.port}": "primary",
            f"127.0.0.1:{second.port}": "primary",
            f"127.0.0.1:{third.port}": "primary",
            f"127.0.0.1:{replica.port}": "replica",
        }
        found = findings_of(report)
        assert {finding.severity for finding in report.findings} <= {Severity.OK, Severity.INFO, Severity.WARNING}
        # A finding that all of them share is reported once.
        assert len(found["persistence"].nodes) == 4
        assert found["cluster-replicas"].severity is Severity.WARNING
        assert f"127.0.0.1:{third.port}" in found["cluster-replicas"].found
        assert f"127.0.0.1:{first.port}" not in found["cluster-replicas"].found

        assert severities(examine(first.url, prefix=prefix))["cluster-url"] == "critical"

        first.ask("CLUSTER", "SETSLOT", 0, "MIGRATING", second.id)
        assert severities(examine(cluster.url, prefix=prefix))["cluster-migrations"] == "warning"
        first.ask("CLUSTER", "SETSLOT", 0, "STABLE")

        cluster.kill(third)
        assert doctor("--url", cluster.url, "--prefix", prefix) == 2
        said = capsys.readouterr().out
        assert f"CRITICAL  node-unreachable (127.0.0.1:{third.port})" in said


def test_doctor_sentinels(prefix: str) -> None:
    binary, env = locate_or_skip(NEWEST)
    with SentinelServers(binary, env) as servers:
        report = examine(servers.url, prefix=prefix)
        (node,) = report.nodes
        assert (node.address, node.role) == (f"127.0.0.1:{servers.nodes[0].port}", "primary")
        quorums = [finding for finding in report.findings if finding.id == "sentinel-quorum"]
        assert [finding.severity for finding in quorums] == [Severity.OK] * 3
        found = findings_of(report)
        assert "2 replicas" in found["role"].found
        assert severities(report).items() >= {"replica-lag": "ok", "min-replicas-to-write": "info"}.items()

        # The one that the URL does not name by its service is not a server that keeps sessions.
        assert severities(examine(servers.sentinels[0].url, prefix=prefix)) == {"mode": "critical"}

        with pytest.raises(CannotLook, match="no Sentinel names a primary of nobody"):
            examine(servers.url.replace(f"/{SERVICE}", "/nobody"), prefix=prefix)

        servers.kill(servers.sentinels[0])
        servers.kill(servers.sentinels[1])
        assert severities(examine(servers.url, prefix=prefix))["sentinel-unreachable"] == "warning"
