"""Finds the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .._targets import Host
from .asking import Server, text
from .facts import Member


@dataclass(frozen=True, slots=True)
class Place:
    """A node of a cluster: its address and its role.

    Attributes:
        host: Its address.
        is_replica: Whether it is a replica.
        is_serving: Whether it is the primary of some slots.
    """

    host: Host
    is_replica: bool
    is_serving: bool


def places_of(server: Server, asked: Host) -> list[Place] | Exception:
    """Returns all nodes of the cluster, including ``asked``; or the error reply of a server that refuses.

    Raises:
        redis.RedisError, OSError: it cannot be asked.
    """
    slots = server.try_("CLUSTER", "SLOTS")
    if isinstance(slots, Exception):
        return slots
    places: dict[str, Place] = {}
    for _, _, *nodes in slots:
        for number, (name, port, id_, *_) in enumerate(nodes):
            # CLUSTER SLOTS has the names that clients should use; an unknown one is None, "" or "?".
            host = Host(text(name or b"").strip("?") or asked.name, int(port))
            places[text(id_)] = Place(host, is_replica=number > 0, is_serving=number == 0)
    # CLUSTER SLOTS leaves out nodes without slots, and replicas that are not ready.
    for member in members_of(server.ask("CLUSTER", "NODES")):
        name, _, port = member.address.rpartition(":")
        if member.id not in places and not member.flags & {"noaddr", "handshake"}:
            host = Host(name.strip("[]") or asked.name, int(port))
            places[member.id] = Place(host, is_replica="slave" in member.flags, is_serving=member.slots > 0)
    return list(places.values()) or [Place(asked, is_replica=False, is_serving=False)]


def members_of(reply: Any) -> tuple[Member, ...]:
    """Parses the reply to CLUSTER NODES; empty for None."""
    return tuple(_member(words) for line in text(reply or b"").splitlines() if len(words := line.split()) >= 8)


def _member(words: list[str]) -> Member:
    id_, address, flags, primary, *rest = words
    ranges = [word for word in rest[4:] if not word.startswith("[")]
    return Member(
        id=id_,
        address=address.partition("@")[0],
        flags=frozenset(flags.split(",")),
        primary="" if primary == "-" else primary,
        slots=_count(ranges),
        # [slot->-id] is a slot that leaves the node, [slot-<-id] one that comes.
        moving=len(rest[4:]) - len(ranges),
    )


def _count(ranges: Iterable[str]) -> int:
    bounds = (word.split("-") for word in ranges)
    return sum(int(bound[-1]) - int(bound[0]) + 1 for bound in bounds)
