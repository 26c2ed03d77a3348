"""What the doctor thinks of replicas, clusters and sentinels, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from redis_botsession.cli.doctor import Severity
from redis_botsession.cli.doctor.checks.cluster import check_cluster
from redis_botsession.cli.doctor.checks.replication import check_replication
from redis_botsession.cli.doctor.checks.sentinels import check_sentinels
from redis_botsession.cli.doctor.facts import Member, Watcher

from .test_doctor_checks import CRITICAL, INFO, MIB, OK, WARNING, severities

# --- replication


def replica(**more: Any) -> dict[str, Any]:
    return {"ip": "10.0.0.2", "port": 6379, "state": "online", "offset": 5 * MIB, "lag": 0, **more}


def primary(*replicas: Mapping[str, Any]) -> dict[str, Any]:
    each = {f"slave{n}": value for n, value in enumerate(replicas)}
    return {"role": "master", "connected_slaves": len(replicas), "master_repl_offset": 5 * MIB, **each}


@pytest.mark.parametrize(
    ("info", "config", "expected"),
    [
        ({"role": "slave", "master_link_status": "up"}, {}, {"role": CRITICAL, "primary-link": OK}),
        ({"role": "slave", "master_link_status": "down"}, {}, {"role": CRITICAL, "primary-link": WARNING}),
        ({}, {}, {}),
        (primary(), {"min-replicas-to-write": "0"}, {"role": OK}),
        (primary(replica()), {}, {"role": OK, "replica-lag": OK}),
        (
            primary(replica()),
            {"min-replicas-to-write": "0"},
            {"role": OK, "replica-lag": OK, "min-replicas-to-write": INFO},
        ),
        (primary(replica()), {"min-replicas-to-write": "1"}, {"role": OK, "replica-lag": OK, "min-replicas-to-write": OK}),
        (primary(replica(), replica(lag=10)), {}, {"role": OK, "replica-lag": OK}),
        (primary(replica(), replica(lag=11)), {}, {"role": OK, "replica-lag": WARNING}),
        (primary(replica(offset=4 * MIB)), {}, {"role": OK, "replica-lag": OK}),
        (primary(replica(offset=4 * MIB - 1)), {}, {"role": OK, "replica-lag": WARNING}),
        (primary(replica(state="wait_bgsave")), {}, {"role": OK, "replica-lag": WARNING}),
    ],
)
def test_doctor_replication(info: dict[str, Any], config: dict[str, str], expected: dict[str, Severity]) -> None:
    assert severities(check_replication(info, config, is_replica_wanted=False)) == expected


def test_doctor_replica_in_a_cluster_is_as_it_should_be() -> None:
    info = {"role": "slave", "master_link_status": "up"}
    assert set(severities(check_replication(info, {}, is_replica_wanted=True)).values()) == {OK}


# --- cluster

WELL = {"cluster_state": "ok", "cluster_slots_assigned": "16384", "cluster_slots_ok": "16384"}


def member(id_: str, *flags: str, primary: str = "", slots: int = 0, moving: int = 0) -> Member:
    return Member(id_, f"{id_}:6379", frozenset(flags), primary, slots, moving)


A, B = member("a", "myself", "master", slots=8192), member("b", "master", slots=8192)
A2, B2 = member("a2", "slave", primary="a"), member("b2", "slave", primary="b")


@pytest.mark.parametrize(
    ("members", "different"),
    [
        ([A, B, A2, B2], {}),
        ([A, B, A2], {"cluster-replicas": WARNING}),
        ([A, B, A2, member("b2", "slave", "fail", primary="b")], {"cluster-replicas": WARNING, "cluster-nodes": WARNING}),
        ([A, B, A2, B2, member("c", "master", "fail?")], {"cluster-nodes": WARNING}),
        ([member("a", "myself", "master", slots=8192, moving=1), B, A2, B2], {"cluster-migrations": WARNING}),
    ],
)
def test_doctor_members_of_a_cluster(members: list[Member], different: dict[str, Severity]) -> None:
    well = {"cluster-state": OK, "cluster-slots": OK, "cluster-nodes": OK, "cluster-replicas": OK}
    assert severities(check_cluster(WELL, members, {}, of_cluster=True)) == well | different


@pytest.mark.parametrize(
    ("info", "different"),
    [
        ({"cluster_state": "fail"}, {"cluster-state": CRITICAL}),
        ({"cluster_slots_assigned": "16383"}, {"cluster-slots": CRITICAL}),
        ({"cluster_slots_ok": "16383"}, {"cluster-slots": CRITICAL}),
    ],
)
def test_doctor_state_of_a_cluster(info: dict[str, str], different: dict[str, Severity]) -> None:
    assert (
        severities(check_cluster(WELL | info, [], {}, of_cluster=True))
        == {"cluster-state": OK, "cluster-slots": OK} | different
    )


def test_doctor_no_cluster() -> None:
    assert severities(check_cluster({}, [], {"cluster-require-full-coverage": "yes"}, of_cluster=False)) == {}


def test_doctor_full_coverage_is_told() -> None:
    name = "cluster-require-full-coverage"
    for value, severity in (("yes", INFO), ("no", OK)):
        assert severities(check_cluster(WELL, [], {name: value}, of_cluster=True))[name] is severity


def test_doctor_url_of_one_node_of_several() -> None:
    assert severities(check_cluster(WELL, [A, B, A2, B2], {}, of_cluster=False))["cluster-url"] is CRITICAL
    alone = member("a", "myself", "master", slots=16384)
    assert "cluster-url" not in severities(check_cluster(WELL, [alone, A2], {}, of_cluster=False))


# --- sentinels


@pytest.mark.parametrize(
    ("watchers", "expected"),
    [
        ([Watcher("s1", "p:1", "OK", has_quorum=True)], {"sentinel-quorum": OK}),
        ([Watcher("s1", "p:1", "NOQUORUM", has_quorum=False)], {"sentinel-quorum": CRITICAL}),
        ([Watcher("s1", "p:1", "unknown")], {"sentinel-quorum": INFO}),
        ([Watcher("s1", problem="refused")], {"sentinel-unreachable": WARNING}),
        (
            [Watcher("s1", "p:1", "OK", has_quorum=True), Watcher("s2", "p:2", problem="x")],
            {"sentinel-quorum": OK, "sentinel-unreachable": WARNING, "sentinel-primary": CRITICAL},
        ),
    ],
)
def test_check_sentinels(watchers: list[Watcher], expected: dict[str, Severity]) -> None:
    assert severities(check_sentinels(watchers, "bots")) == expected
