"""Runs all checks on the facts about one server. The id of each check is listed in ``check_ids.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from ..facts import Facts
from ..findings import Finding
from .access import check_access, check_refused
from .cluster import check_cluster
from .encoding import check_encoding
from .memory import check_memory
from .network import check_clock, check_latency, check_tls
from .persistence import check_persistence
from .replication import check_replication
from .version import check_version, is_sentinel


def check_node(facts: Facts) -> Iterator[Finding]:
    """The findings of one server, in no particular order."""
    for finding in _findings(facts):
        yield replace(finding, nodes=(facts.address,))


def _findings(facts: Facts) -> Iterator[Finding]:
    info, config = facts.info, facts.config
    if is_sentinel(info):
        return check_version(info)
    return chain(
        check_version(info),
        check_memory(info),
        check_persistence(info, config),
        check_replication(info, config, is_replica_wanted=facts.is_replica_wanted),
        check_cluster(facts.cluster_info, facts.members, config, of_cluster=facts.of_cluster),
        check_encoding(facts.sample, config, facts.prefix),
        check_access(facts.rights, facts.prefix, of_cluster=facts.of_cluster),
        check_clock(facts.clock),
        check_latency(facts.round_trips),
        check_tls(is_private=facts.is_private),
        check_refused(facts.refused),
    )
