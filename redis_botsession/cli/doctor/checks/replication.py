"""Checks of the replication: role, link to the primary, lag of the replicas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..findings import Finding, Severity
from ..formatting import setting, size
from .version import role_of

#: Seconds since a replica has last said how far it is; it says so each second.
SLOW = 10
#: Bytes that a replica may be behind.
BEHIND = 1 << 20


def check_replication(info: Mapping[str, Any], config: Mapping[str, str], *, is_replica_wanted: bool) -> Iterator[Finding]:
    """Checks the role, the link to the primary, and the replicas."""
    role = role_of(info)
    if role == "replica":
        yield from _replica(info, is_replica_wanted)
    elif role == "primary":
        yield from _primary(info, config)


def _replica(info: Mapping[str, Any], is_wanted: bool) -> Iterator[Finding]:
    primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
    if is_wanted:
        yield Finding("role", Severity.OK, f"replica of {primary}")
    else:
        yield Finding(
            "role",
            Severity.CRITICAL,
            f"this is a replica of {primary}",
            "A replica refuses writes (READONLY): sessions can be loaded here, but not saved, nor their TTL renewed.",
            "Use the URL of the primary, or one that finds it: redis+sentinel://host:port,host:port/service.",
        )
    link = info.get("master_link_status")
    if link is None:
        return
    if link == "up":
        yield Finding("primary-link", Severity.OK, "the link to the primary is up")
    else:
        since = info.get("master_link_down_since_seconds")
        yield Finding(
            "primary-link",
            Severity.WARNING,
            f"the link to the primary {primary} is {link}" + (f", for {since} s" if since is not None else ""),
            "What is saved on the primary does not come here: it is lost if this replica takes over.",
            "Look at the logs of both, the network, and masteruser and masterauth of this replica.",
        )


def _primary(info: Mapping[str, Any], config: Mapping[str, str]) -> Iterator[Finding]:
    count = int(info.get("connected_slaves") or 0)
    replicas_there = f"with {count} replica{'' if count == 1 else 's'}" if count else "without replicas"
    yield Finding("role", Severity.OK, f"primary, {replicas_there}")
    if not count:
        return
    replicas = [value for name, value in info.items() if _is_replica(name) and isinstance(value, Mapping)]
    offset = int(info.get("master_repl_offset") or 0)
    late = [problem for replica in replicas if (problem := _problem(replica, offset))]
    if late:
        yield Finding(
            "replica-lag",
            Severity.WARNING,
            "; ".join(late),
            "What a replica does not have yet is lost if it takes over.",
            "Look at the network and the load of the replica; a slow one may need a larger client-output-buffer-limit.",
        )
    elif replicas:
        yield Finding("replica-lag", Severity.OK, "all replicas are up to date, but for a moment")
    wanted = config.get("min-replicas-to-write", config.get("min-slaves-to-write"))
    if wanted == "0":
        yield Finding(
            "min-replicas-to-write",
            Severity.INFO,
            "0: the primary takes writes without any replica",
            "A primary that is cut off while a replica takes over keeps taking writes of sessions, which are lost afterwards.",
            f"{setting('min-replicas-to-write 1')}; or let the store wait for replicas (its option replicas=), if sessions "
            "must outlive a failover.",
        )
    elif wanted is not None:
        yield Finding("min-replicas-to-write", Severity.OK, wanted)


def _is_replica(name: str) -> bool:
    return name.startswith("slave") and name[5:].isdigit()


def _problem(replica: Mapping[str, Any], offset: int) -> str:
    name = f"replica {replica.get('ip', '?')}:{replica.get('port', '?')}"
    state = replica.get("state")
    if state != "online":
        return f"{name} is in state {state}"
    lag, behind = int(replica.get("lag") or 0), offset - int(replica.get("offset") or 0)
    if lag > SLOW:
        return f"{name} has said nothing for {lag} s"
    return f"{name} is {size(behind)} behind" if behind > BEHIND else ""
