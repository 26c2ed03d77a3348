"""Gathers the facts about one server. It writes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import redis

from ..._protocol.layout import Keys
from .acl_probe import gather_rights
from .asking import ANSWERS, Server, pairs, text
from .checks.version import is_sentinel
from .cluster_nodes import members_of
from .facts import Clock, Facts, Rights
from .sampling import gather_sample

ROUND_TRIPS: Final = 30
#: Of so many answers to TIME, the fastest counts.
_TIMES: Final = 5
_SETTINGS: Final = (
    *("save", "appendfsync", "stop-writes-on-bgsave-error", "min-replicas-to-write"),
    *("hash-max-listpack-value", "hash-max-listpack-entries", "hash-max-ziplist-value", "hash-max-ziplist-entries"),
    "cluster-require-full-coverage",
)


def gather(
    client: redis.Redis,
    *,
    address: str,
    prefix: str,
    sample: int = 100,
    user: str = "default",
    has_password: bool = True,
    of_cluster: bool = False,
    is_replica_wanted: bool = False,
    is_private: bool = True,
) -> Facts:
    """Asks a server for all facts that the checks judge by.

    Args:
        client: A client of this one server, without ``decode_responses``.
        address: What to call it.
        prefix: What the keys of the store begin with.
        sample: At most how many sessions to look at; 0: none.
        user: The user in the client's URL, if the server does not report one.
        has_password: Whether the client sends a password.
        of_cluster: Whether the URL names a cluster, of which this is one node.
        is_replica_wanted: Whether a replica is expected here.
        is_private: Whether the connection is TLS, or does not leave the machine.

    Raises:
        redis.RedisError, OSError: it cannot be asked: not reached, wrong password, the connection lost.
        ValueError: a bad prefix.
    """
    keys = Keys(prefix)
    server = Server(client)
    _connect(client)
    info = _info(server)
    if is_sentinel(info):
        return Facts(address=address, prefix=prefix, info=info, rights=Rights(user, "trying"))
    rights = gather_rights(server, prefix, user=user, has_password=has_password, of_cluster=of_cluster)
    facts = Facts(address=address, prefix=prefix, info=info, rights=rights, of_cluster=of_cluster, is_private=is_private)
    in_cluster = str(info.get("cluster_enabled")) == "1"
    return replace(
        facts,
        config=_config(server),
        sample=gather_sample(server, keys, sample) if sample else None,
        clock=_clock(server),
        round_trips=_round_trips(server),
        cluster_info=_lines(server.ask("CLUSTER", "INFO", name="CLUSTER INFO")) if in_cluster else {},
        members=members_of(server.ask("CLUSTER", "NODES", name="CLUSTER NODES")) if in_cluster else (),
        is_replica_wanted=is_replica_wanted,
        refused=server.refused,
    )


def _connect(client: redis.Redis) -> None:
    """Raises if the server refuses the connection itself: a wrong password, a missing database."""
    pool: Any = client.connection_pool
    pool.release(pool.get_connection())
    # The first command shows whether the server wants a password. Any other reply means that it can be asked.
    with suppress(*ANSWERS):
        client.ping()


def _info(server: Server) -> Mapping[str, Any]:
    info = server.ask("INFO", name="INFO")
    if isinstance(info, Mapping):
        return info
    # HELLO is allowed to every user.
    hello = {text(name): value for name, value in pairs(server.ask("HELLO")).items()}
    if not hello:
        return {}
    name, version, role = (text(hello.get(key, b"")) for key in ("server", "version", "role"))
    mode = text(hello.get("mode", b""))
    return {
        "server_name": name,
        f"{name}_version": version,
        "role": {"replica": "slave"}.get(role, role),
        "redis_mode": mode,
        "cluster_enabled": int(mode == "cluster"),
    }


def _config(server: Server) -> dict[str, str]:
    settings: dict[str, str] = {}
    for name in _SETTINGS:
        reply = server.ask("CONFIG", "GET", name, name="CONFIG GET")
        if reply is None:
            break
        settings |= {text(key): text(value) for key, value in pairs(reply).items()}
    return settings


def _clock(server: Server) -> Clock | None:
    readings = []
    for _ in range(_TIMES):
        asked = time.time()
        began = time.perf_counter()
        reply = server.ask("TIME")
        took = time.perf_counter() - began
        if reply is None:
            return None
        seconds, micros = reply
        readings.append(Clock(int(seconds) + int(micros) / 1e6, asked + took / 2, took))
    return min(readings, key=lambda reading: reading.round_trip)


def _round_trips(server: Server) -> tuple[float, ...]:
    took = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        if server.ask("ECHO", "") is None:
            return ()
        took.append(time.perf_counter() - began)
    return tuple(took)


def _lines(reply: Any) -> dict[str, str]:
    """Parses the "name:value" lines of CLUSTER INFO."""
    lines = (line.strip().partition(":") for line in text(reply or b"").splitlines())
    return {name: value for name, colon, value in lines if colon}
