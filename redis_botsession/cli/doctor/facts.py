"""The facts about a server that the checks judge by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The encodings in which a small hash is one block of memory.
COMPACT = frozenset({"listpack", "ziplist", "listpackex"})


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of one session.

    Attributes:
        encoding: The encoding of the hash; "" if the server does not report it.
        fields: How many fields it has, the metadata included.
        largest: Bytes of its longest name or value.
    """

    encoding: str
    fields: int
    largest: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of the sessions.

    Attributes:
        shapes: One for each session that was looked at.
        is_complete: Whether all keys of the database have been gone through.
    """

    shapes: tuple[Shape, ...]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Rights:
    """The permissions of the doctor's own user.

    Attributes:
        user: Its name.
        how: How that was found out: "ACL DRYRUN" or "trying".
        denied: Commands of the store that it may not run on a key under the prefix.
        absent: Commands of the store that the server does not have.
        denied_extras: Commands for leases and durable writes that the user may not run.
        absent_extras: Commands for leases and durable writes that the server does not have.
        knows_extras: Whether all of those could be examined: SUBSCRIBE cannot without ACL DRYRUN.
        needs_no_password: Whether it is let in with any password; None: not known.
        other_keys: Whether it reaches keys under other prefixes; None: not known.
        dangerous: Commands it may run that no bot needs; None: not known.
    """

    user: str
    how: str
    denied: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    denied_extras: tuple[str, ...] = ()
    absent_extras: tuple[str, ...] = ()
    knows_extras: bool = False
    needs_no_password: bool | None = None
    other_keys: bool | None = None
    dangerous: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """The server's clock and this machine's at the same moment.

    Attributes:
        server: The server's, in seconds since 1970.
        local: This machine's, half a round trip after it has asked.
        round_trip: Seconds between question and answer.
    """

    server: float
    local: float
    round_trip: float


@dataclass(frozen=True, slots=True)
class Member:
    """A node in the reply to CLUSTER NODES.

    Attributes:
        id: Its id.
        address: Its host:port.
        flags: Like "master", "slave", "fail", "myself".
        primary: The id of the primary it is a replica of; "" for a primary.
        slots: How many slots it serves.
        moving: How many of them are being moved; only the node itself reports that.
    """

    id: str
    address: str
    flags: frozenset[str]
    primary: str
    slots: int
    moving: int


@dataclass(frozen=True, slots=True)
class Watcher:
    """The replies of one Sentinel.

    Attributes:
        address: Its host:port.
        primary: The host:port that it names; "" for none.
        quorum: What it answers to CKQUORUM.
        has_quorum: Whether there is a quorum; None: unknown.
        problem: Why it could not be asked; "" if it could.
    """

    address: str
    primary: str = ""
    quorum: str = ""
    has_quorum: bool | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All facts about one server.

    Attributes:
        address: Its host:port, or the path of its socket.
        prefix: What the keys begin with.
        info: The reply to INFO, as redis-py reads it; the reply to HELLO if INFO is refused.
        config: The settings that could be read.
        refused: The errors of commands that the server refused, by command.
        rights: What the user may do.
        sample: Some sessions; None: not looked at.
        clock: The server's clock; None: not known.
        round_trips: Seconds of some round trips.
        cluster_info: The reply to CLUSTER INFO; empty: no cluster.
        members: The nodes of the cluster.
        of_cluster: Whether the URL names a cluster, of which this is one node.
        is_replica_wanted: Whether a replica is expected here.
        is_private: Whether the connection is TLS, or does not leave the machine.
    """

    address: str
    prefix: str
    info: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    rights: Rights
    sample: Sample | None = None
    clock: Clock | None = None
    round_trips: tuple[float, ...] = ()
    cluster_info: Mapping[str, str] = field(default_factory=dict)
    members: tuple[Member, ...] = ()
    of_cluster: bool = False
    is_replica_wanted: bool = False
    is_private: bool = True
