"""The slot map of a Redis Cluster: parses the reply to CLUSTER SLOTS. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .options import HostPort

#: Hash slots of every cluster.
SLOTS: Final = 16384

#: First slot, last slot, the primary, its replicas.
SlotRange = tuple[int, int, HostPort, tuple[HostPort, ...]]


def parse_slots(reply: Any, asked: str, remap: Callable[[HostPort], HostPort] = lambda address: address) -> list[SlotRange]:
    """Parses the reply to CLUSTER SLOTS (https://redis.io/docs/latest/commands/cluster-slots/).

    Args:
        reply: Not decoded.
        asked: The host that was asked, which a node without a name of its own means.
        remap: Translates the host and port in the reply to those by which the node is reached.
    """
    ranges = []
    for first, last, *nodes in reply:
        primary, *replicas = (remap(_address(node, asked)) for node in nodes)
        ranges.append((int(first), int(last), primary, tuple(replicas)))
    return ranges


def _address(node: Any, asked: str) -> HostPort:
    host, port = node[0], node[1]
    return (host.decode() if host and host != b"?" else asked), int(port)
