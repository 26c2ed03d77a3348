"""Checks of a Redis Cluster: are all slots served, and will they be if a node fails?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..facts import Member
from ..findings import Finding, Severity

SLOTS = 16384


def check_cluster(
    info: Mapping[str, str], members: Sequence[Member], config: Mapping[str, str], *, of_cluster: bool
) -> Iterator[Finding]:
    """Checks the cluster as one of its nodes sees it. ``info`` is the reply to CLUSTER INFO.

    Args:
        info: Empty if the server is in no cluster.
        members: The nodes in the reply to CLUSTER NODES.
        config: The node's settings.
        of_cluster: Whether the URL names a cluster.
    """
    if not info:
        return
    if info.get("cluster_state") == "ok":
        yield Finding("cluster-state", Severity.OK, "ok")
    else:
        yield Finding(
            "cluster-state",
            Severity.CRITICAL,
            f"cluster_state is {info.get('cluster_state')}",
            "The cluster refuses commands (CLUSTERDOWN): sessions can be neither loaded nor saved.",
            "redis-cli --cluster check HOST:PORT shows which slots or nodes are missing; --cluster fix repairs slots.",
        )
    yield from _slots(info)
    yield from _coverage(config)
    if members:
        yield from _members(members)
        if not of_cluster:
            yield from _url(members)


def _slots(info: Mapping[str, str]) -> Iterator[Finding]:
    assigned, served = int(info.get("cluster_slots_assigned", 0)), int(info.get("cluster_slots_ok", 0))
    if assigned == served == SLOTS:
        yield Finding("cluster-slots", Severity.OK, f"all {SLOTS:,} slots are served")
        return
    yield Finding(
        "cluster-slots",
        Severity.CRITICAL,
        f"{assigned:,} of {SLOTS:,} slots are assigned, {served:,} are served",
        "Users whose slot is not served have no sessions.",
        "redis-cli --cluster check HOST:PORT, then --cluster fix; bring back the nodes that are missing.",
    )


def _coverage(config: Mapping[str, str]) -> Iterator[Finding]:
    wanted = config.get("cluster-require-full-coverage")
    if wanted == "yes":
        yield Finding(
            "cluster-require-full-coverage",
            Severity.INFO,
            "yes",
            "When one shard is lost, the bots stop for all users, not only for those of that shard.",
            "CONFIG SET cluster-require-full-coverage no (on each node), if the others should go on.",
        )
    elif wanted is not None:
        yield Finding("cluster-require-full-coverage", Severity.OK, wanted)


def _members(members: Sequence[Member]) -> Iterator[Finding]:
    failed = sorted(member.address for member in members if member.flags & {"fail", "fail?", "noaddr"})
    if failed:
        yield Finding(
            "cluster-nodes",
            Severity.WARNING,
            f"not reachable by this node: {', '.join(failed)}",
            "Fewer failures are left until users lose their sessions.",
            "Bring them back, or remove them from the cluster: redis-cli --cluster del-node HOST:PORT NODE-ID.",
        )
    else:
        yield Finding("cluster-nodes", Severity.OK, f"all {len(members)} nodes are reachable")
    if moving := sum(member.moving for member in members):
        yield Finding(
            "cluster-migrations",
            Severity.WARNING,
            f"{moving:,} slots are being moved to or from this node",
            "Commands on several keys of a user may be answered TRYAGAIN meanwhile.",
            "If no resharding is under way: redis-cli --cluster fix HOST:PORT ends one that was broken off.",
        )
    covered = {member.primary for member in members if not member.flags & {"fail", "fail?", "noaddr"}}
    alone = sorted(member.address for member in members if member.slots and member.id not in covered)
    if alone:
        yield Finding(
            "cluster-replicas",
            Severity.WARNING,
            f"primaries without a replica: {', '.join(alone)}",
            "When one of them dies, its users have no sessions until it is back, with what it has on disk.",
            "redis-cli --cluster add-node NEW:PORT HOST:PORT --cluster-slave --cluster-master-id NODE-ID.",
        )
    elif any(member.slots for member in members):
        yield Finding("cluster-replicas", Severity.OK, "every primary has a replica")


def _url(members: Sequence[Member]) -> Iterator[Finding]:
    own = sum(member.slots for member in members if "myself" in member.flags)
    if own == SLOTS:
        return
    yield Finding(
        "cluster-url",
        Severity.CRITICAL,
        f"this is one node of a cluster, with {own:,} of {SLOTS:,} slots; the URL names it alone",
        "A store with this URL is refused (MOVED) for all users of other nodes.",
        "Use a URL of the form redis+cluster://host:port,host:port/.",
    )
