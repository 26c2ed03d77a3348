"""The doctor's checks at their thresholds, without a server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from redis_botsession.cli.doctor import Finding, Severity
from redis_botsession.cli.doctor.checks.access import acl_line, check_access, check_refused
from redis_botsession.cli.doctor.checks.encoding import check_encoding
from redis_botsession.cli.doctor.checks.memory import check_memory
from redis_botsession.cli.doctor.checks.network import check_clock, check_latency, check_tls
from redis_botsession.cli.doctor.checks.persistence import check_persistence
from redis_botsession.cli.doctor.checks.version import check_version, product_of
from redis_botsession.cli.doctor.facts import Clock, Rights, Sample, Shape
from redis_botsession.cli.doctor.findings import Report, merged
from redis_botsession.cli.doctor.formatting import percentile, size
from redis_botsession.cli.doctor.needed_permissions import DOCTOR_RULES, DURABILITY_COMMANDS, LEASE_COMMANDS, STORE_COMMANDS

OK, INFO, WARNING, CRITICAL = Severity
MIB = 1 << 20


def by_id(findings: Iterable[Finding]) -> dict[str, Finding]:
    """The findings by their ids, of which no two are the same; each that is not well says why, and what to do."""
    found = list(findings)
    for finding in found:
        assert finding.severity is OK or (finding.why and finding.advice), finding
    assert len({finding.id for finding in found}) == len(found)
    return {finding.id: finding for finding in found}


def severities(findings: Iterable[Finding]) -> dict[str, Severity]:
    return {name: finding.severity for name, finding in by_id(findings).items()}


# --- version


@pytest.mark.parametrize(
    ("info", "product", "severity"),
    [
        ({"redis_version": "6.0.16"}, ("Redis", "6.0.16"), CRITICAL),
        ({"redis_version": "6.2.0"}, ("Redis", "6.2.0"), OK),
        ({"redis_version": "10.0.1"}, ("Redis", "10.0.1"), OK),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, ("Valkey", "9.1.2"), OK),
        ({"server_name": "valkey", "valkey_version": "9.1.2"}, ("Valkey", "9.1.2"), OK),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.3"}, ("Dragonfly", "df-v1.3"), OK),
        ({"redis_version": "unstable"}, ("Redis", "unstable"), WARNING),
        ({}, ("Redis", "of unknown version"), WARNING),
    ],
)
def test_check_version(info: dict[str, str], product: tuple[str, str], severity: Severity) -> None:
    assert product_of(info) == product
    (finding,) = check_version(info)
    assert (finding.id, finding.severity) == ("version", severity)
    assert " ".join(product) in finding.found


def test_check_sentinel_keeps_no_sessions() -> None:
    for name in ("redis_mode", "server_mode"):
        assert severities(check_version({"redis_version": "8.2.3", name: "sentinel"})) == {"mode": CRITICAL}


# --- memory


def memory(policy: str = "noeviction", maxmemory: int = 0, used: int = MIB, evicted: int = 0, total: int = 0) -> dict[str, Any]:
    return {
        "maxmemory_policy": policy,
        "maxmemory": maxmemory,
        "used_memory": used,
        "evicted_keys": evicted,
        "total_system_memory": total,
    }


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (memory(maxmemory=100 * MIB), {"maxmemory-policy": OK, "memory-usage": OK, "evicted-keys": OK}),
        (memory(maxmemory=100, used=80), {"maxmemory-policy": OK, "memory-usage": OK, "evicted-keys": OK}),
        (memory(maxmemory=100, used=81), {"maxmemory-policy": OK, "memory-usage": WARNING, "evicted-keys": OK}),
        (memory(maxmemory=100, used=95), {"maxmemory-policy": OK, "memory-usage": WARNING, "evicted-keys": OK}),
        (memory(maxmemory=100, used=96), {"maxmemory-policy": OK, "memory-usage": CRITICAL, "evicted-keys": OK}),
        (memory("allkeys-lru", 100, 1), {"maxmemory-policy": CRITICAL, "memory-usage": OK, "evicted-keys": OK}),
        (memory("volatile-ttl", 100, 1, 1), {"maxmemory-policy": CRITICAL, "memory-usage": OK, "evicted-keys": CRITICAL}),
        (memory("volatile-lru"), {"maxmemory-policy": WARNING, "maxmemory": INFO, "evicted-keys": OK}),
        (memory(), {"maxmemory-policy": OK, "maxmemory": INFO, "evicted-keys": OK}),
        (memory(evicted=5), {"maxmemory-policy": OK, "maxmemory": INFO, "evicted-keys": INFO}),
        (memory(used=75, total=100), {"maxmemory-policy": OK, "maxmemory": INFO, "evicted-keys": OK}),
        (memory(used=76, total=100), {"maxmemory-policy": OK, "maxmemory": WARNING, "evicted-keys": OK}),
        ({}, {}),
    ],
)
def test_check_memory(info: dict[str, Any], expected: dict[str, Severity]) -> None:
    assert severities(check_memory(info)) == expected


def test_check_advice_is_what_to_type() -> None:
    finding = by_id(check_memory(memory("allkeys-lru", 100)))["maxmemory-policy"]
    assert "CONFIG SET maxmemory-policy noeviction" in finding.advice
    assert "redis.conf: maxmemory-policy noeviction" in finding.advice


# --- persistence


@pytest.mark.parametrize(
    ("info", "config", "expected"),
    [
        ({"aof_enabled": 0}, {"save": ""}, {"persistence": WARNING}),
        ({"aof_enabled": 0}, {"save": "3600 1"}, {"persistence": INFO}),
        ({"aof_enabled": 0}, {}, {}),
        ({"aof_enabled": 1}, {}, {"persistence": OK}),
        ({"aof_enabled": 1}, {"save": "", "appendfsync": "always"}, {"persistence": OK, "appendfsync": OK}),
        ({"aof_enabled": 1}, {"save": "", "appendfsync": "everysec"}, {"persistence": OK, "appendfsync": OK}),
        ({"aof_enabled": 1}, {"save": "3600 1", "appendfsync": "no"}, {"persistence": OK, "appendfsync": WARNING}),
        ({"aof_enabled": 1, "rdb_last_bgsave_status": "ok"}, {}, {"persistence": OK, "rdb-last-bgsave": OK}),
        ({"aof_enabled": 1, "rdb_last_bgsave_status": "err"}, {}, {"persistence": OK, "rdb-last-bgsave": CRITICAL}),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, {}, {"persistence": OK, "aof-last-write": CRITICAL}),
        ({"aof_enabled": 1, "aof_last_bgrewrite_status": "err"}, {}, {"persistence": OK, "aof-last-rewrite": CRITICAL}),
        ({"aof_enabled": 1, "loading": 1}, {}, {"persistence": OK, "loading": CRITICAL}),
        ({"aof_enabled": 1, "loading": 0}, {}, {"persistence": OK}),
        ({}, {"save": ""}, {}),
    ],
)
def test_check_persistence(info: dict[str, Any], config: dict[str, str], expected: dict[str, Severity]) -> None:
    assert severities(check_persistence(info, config)) == expected


def test_check_failed_snapshot_refuses_writes_only_where_it_is_told_to() -> None:
    info = {"aof_enabled": 0, "rdb_last_bgsave_status": "err"}
    assert "MISCONF" in by_id(check_persistence(info, {}))["rdb-last-bgsave"].why
    assert "MISCONF" not in by_id(check_persistence(info, {"stop-writes-on-bgsave-error": "no"}))["rdb-last-bgsave"].why


# --- encoding

CONFIG = {"hash-max-listpack-value": "64", "hash-max-listpack-entries": "128"}


def sampled(*shapes: tuple[int, Shape]) -> Sample:
    return Sample(tuple(shape for count, shape in shapes for _ in range(count)), is_complete=True)


SMALL = Shape("listpack", 10, 64)
LONG = Shape("hashtable", 10, 300)
HUGE = Shape("hashtable", 10, 70_000)
WIDE = Shape("hashtable", 200, 10)


@pytest.mark.parametrize(
    ("sample", "value", "entries"),
    [
        (sampled((100, SMALL)), OK, OK),
        (sampled((95, SMALL), (5, LONG)), OK, OK),
        (sampled((94, SMALL), (6, LONG)), INFO, OK),
        (sampled((51, SMALL), (49, LONG)), INFO, OK),
        (sampled((50, SMALL), (50, LONG)), WARNING, OK),
        (sampled((20, LONG)), WARNING, OK),
        (sampled((19, LONG)), INFO, OK),
        (sampled((100, HUGE)), INFO, OK),
        (sampled((100, WIDE)), OK, WARNING),
    ],
)
def test_check_encoding(sample: Sample, value: Severity, entries: Severity) -> None:
    found = severities(check_encoding(sample, CONFIG, "p:"))
    assert found == {"sessions": OK, "hash-max-listpack-value": value, "hash-max-listpack-entries": entries}


def test_check_encoding_says_what_is_there_and_which_setting_would_do() -> None:
    found = by_id(check_encoding(sampled((50, SMALL), (49, LONG), (1, HUGE)), CONFIG, "p:"))
    assert "50 of 100" in found["sessions"].found
    assert "p50 64, p95 300, max 70,000 bytes" in found["hash-max-listpack-value"].found
    assert "CONFIG SET hash-max-listpack-value 512" in found["hash-max-listpack-value"].advice
    huge = by_id(check_encoding(sampled((9, HUGE)), CONFIG, "p:"))["hash-max-listpack-value"]
    assert "CONFIG SET" not in huge.advice


def test_check_6_2_has_the_settings_by_another_name() -> None:
    config = {"hash-max-ziplist-value": "64", "hash-max-ziplist-entries": "512"}
    sample = sampled((30, Shape("hashtable", 10, 65)))
    finding = by_id(check_encoding(sample, config, "p:"))["hash-max-listpack-value"]
    assert "CONFIG SET hash-max-ziplist-value 128" in finding.advice
    assert severities(check_encoding(sample, CONFIG | config, "p:"))["hash-max-listpack-value"] is WARNING


def test_check_encoding_of_what_is_not_known() -> None:
    assert severities(check_encoding(None, CONFIG, "p:")) == {}
    assert severities(check_encoding(sampled((1, SMALL)), {}, "p:")) == {"sessions": OK}
    assert severities(check_encoding(sampled((1, Shape("", 5, 5))), {}, "p:")) == {"sessions": OK}
    assert severities(check_encoding(Sample((), is_complete=True), CONFIG, "p:")) == {"sessions": INFO}


def test_check_sessions_that_were_longer_once_are_explained() -> None:
    shapes = sampled((9, Shape("hashtable", 5, 5)))
    assert "until they are replaced with set" in by_id(check_encoding(shapes, CONFIG, "p:"))["hash-max-listpack-value"].found


# --- access

WELL_BEHAVED: dict[str, Any] = {"needs_no_password": False, "other_keys": False, "dangerous": ()}


@pytest.mark.parametrize(
    ("rights", "different"),
    [
        ({}, {}),
        ({"knows_extras": True}, {"permissions-leases": OK}),
        ({"denied_extras": ("GET", "PUBLISH")}, {"permissions-leases": INFO}),
        ({"denied_extras": ("WAIT",)}, {"permissions-durable-writes": INFO}),
        ({"denied": ("HSET",)}, {"permissions": CRITICAL}),
        ({"denied": ("SCAN",)}, {"permissions": INFO}),
        ({"other_keys": True}, {"least-privilege-keys": WARNING}),
        ({"dangerous": ("FLUSHALL",)}, {"least-privilege-commands": WARNING}),
    ],
)
def test_check_access(rights: dict[str, Any], different: dict[str, Severity]) -> None:
    well = {"user": OK, "permissions": OK, "least-privilege-keys": OK, "least-privilege-commands": OK}
    assert severities(check_access(Rights("bot", "trying", **WELL_BEHAVED | rights), "p:")) == well | different


def test_check_access_reports_a_user_without_password_once() -> None:
    rights = Rights("default", "trying", needs_no_password=True, other_keys=True, dangerous=("FLUSHALL",))
    assert severities(check_access(rights, "p:")) == {"user": WARNING, "permissions": OK}


def test_check_access_tells_leases_that_poll_from_leases_that_fail() -> None:
    deaf = Rights("bot", "ACL DRYRUN", **WELL_BEHAVED | {"denied_extras": ("SUBSCRIBE",)})
    assert "poll" in by_id(check_access(deaf, "p:"))["permissions-leases"].why
    without = Rights("bot", "ACL DRYRUN", **WELL_BEHAVED | {"denied_extras": ("GET", "SUBSCRIBE")})
    found = by_id(check_access(without, "p:"))["permissions-leases"]
    assert "fail" in found.why
    assert '+get +set +pttl +pexpire +publish +subscribe +unsubscribe "&p:*"' in found.advice


def test_commands_that_the_server_does_not_have() -> None:
    assert severities(check_access(Rights("bot", "trying", absent=("EVAL",)), "p:")) == {"user": OK, "commands": CRITICAL}


def test_permissions_page_names_the_same_commands() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations" / "permissions.md").read_text("utf-8")
    rule = re.search(r"ACL SETUSER bot on ([^`]+)```", page)
    assert rule
    named = re.findall(r"\+(\S+)", rule[1]) + re.findall(r"`\+(scan)`", page)
    assert {name.upper() for name in named} == set(STORE_COMMANDS)
    leases = re.search(r"leases[^|]*\| `([^`]+)`", page)
    assert leases
    assert [name.upper() for name in re.findall(r"\+(\S+)", leases[1])] == list(LEASE_COMMANDS)
    assert all(f"`+{name.lower()}`" in page for name in DURABILITY_COMMANDS)
    assert " ".join(DOCTOR_RULES) in " ".join(page.split())


def test_check_what_is_not_known_is_not_judged() -> None:
    assert severities(check_access(Rights("bot", "trying"), "p:")) == {"user": OK, "permissions": OK}


def test_check_acl_line() -> None:
    assert acl_line("shop:").startswith("ACL SETUSER bot on >PASSWORD resetkeys ~shop:* resetchannels &shop:* -@all +echo ")
    assert all(f"+{name.lower()}" in acl_line("shop:").split() for name in (*STORE_COMMANDS, *LEASE_COMMANDS, "WAIT"))
    assert "+waitaof" not in acl_line("shop:")
    assert "+waitaof" in acl_line("shop:", has_waitaof=True).split()
    assert ' "~my shop:*" resetchannels "&my shop:*" ' in acl_line("my shop:")


def test_check_on_a_cluster_the_advice_has_what_that_needs_besides() -> None:
    assert acl_line("p:", of_cluster=True) == acl_line("p:") + " +cluster|slots +asking"
    denied = {"denied": ("CLUSTER SLOTS", "ASKING"), "needs_no_password": True, "absent_extras": ("WAITAOF",)}
    rights = Rights("bot", "trying", **WELL_BEHAVED | denied)
    found = by_id(check_access(rights, "p:", of_cluster=True))
    assert found["permissions"].severity is CRITICAL
    assert "ACL SETUSER bot +cluster|slots +asking," in found["permissions"].advice
    assert "+wait +cluster|slots +asking)" in found["user"].advice


def test_check_what_was_refused_is_told_with_the_rule_that_it_takes() -> None:
    found = by_id(check_refused({"INFO": "NOPERM", "CONFIG GET": "unknown command"}))
    assert found["cannot-look-info"].severity is WARNING
    assert found["cannot-look-config-get"].severity is INFO
    assert "+config|get" in found["cannot-look-config-get"].advice


# --- network


@pytest.mark.parametrize(
    ("ahead", "round_trip", "severity"),
    [(1.0, 0.0, OK), (1.25, 0.0, WARNING), (-1.25, 0.0, WARNING), (1.25, 0.5, OK), (-1.5, 0.5, WARNING), (0.0, 4.0, OK)],
)
def test_check_clock(ahead: float, round_trip: float, severity: Severity) -> None:
    (finding,) = check_clock(Clock(1_700_000_000 + ahead, 1_700_000_000, round_trip))
    assert (finding.id, finding.severity) == ("clock-skew", severity)


def test_check_wrong_clock_is_shown_with_the_right_one() -> None:
    (finding,) = check_clock(Clock(90_000.0, 86_400.0, 0.0))
    assert "3,600.0 s ahead" in finding.found
    assert "1970-01-02 01:00:00.000000 UTC there, 1970-01-02 00:00:00.000000 UTC here" in finding.found
    (finding,) = check_clock(Clock(1e15, 86_400.0, 0.0))
    assert finding.severity is WARNING
    assert list(check_clock(None)) == []


@pytest.mark.parametrize(("ms", "severity"), [(5.0, OK), (5.1, WARNING)])
def test_check_latency(ms: float, severity: Severity) -> None:
    (finding,) = check_latency([ms / 1000] * 3 + [0.9])
    assert (finding.id, finding.severity) == ("latency", severity)
    assert "max 900.00 ms" in finding.found
    assert list(check_latency([])) == []


def test_check_tls() -> None:
    assert severities(check_tls(is_private=True)) == {"tls": OK}
    assert severities(check_tls(is_private=False)) == {"tls": INFO}


# --- numbers, and the report


def test_check_sizes() -> None:
    assert [size(n) for n in (0, 10_239, 10_240, 5 * MIB, 3 << 30, 3 << 40)] == [
        *("0 bytes", "10,239 bytes", "10.0 KiB", "5.0 MiB", "3.0 GiB", "3,072.0 GiB")
    ]


def test_check_percentiles() -> None:
    values = list(range(100, 0, -1))
    assert [percentile(values, p) for p in (0, 50, 95, 100)] == [1, 50, 95, 100]
    assert (percentile([7], 50), percentile([], 50)) == (7, 0)


def test_check_what_nodes_share_is_told_once_and_the_worst_comes_first() -> None:
    findings = [
        Finding("a", OK, "x", nodes=("n1",)),
        Finding("a", OK, "x", nodes=("n2",)),
        Finding("b", CRITICAL, "y", nodes=("n2",)),
    ]
    assert [(finding.id, finding.nodes) for finding in merged(findings)] == [("b", ("n2",)), ("a", ("n1", "n2"))]


@pytest.mark.parametrize(("severity", "status"), [(OK, 0), (INFO, 0), (WARNING, 1), (CRITICAL, 2)])
def test_check_exit_statuses(severity: Severity, status: int) -> None:
    report = Report("", "", (), (Finding("a", OK, ""), Finding("b", severity, "")))
    assert report.exit_status == status
