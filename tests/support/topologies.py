"""A Redis Cluster, and a primary with replicas and sentinels, of real processes to kill, pause and start again."""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import signal
import socket
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from redis_botsession.embedded import LocalServer
from redis_botsession.testing.harness import PATIENCE

_Between = Callable[[], Awaitable[object]]
SLOTS = 16384
#: The name under which the sentinels know the primary.
SERVICE = "bots"
_CONNECTION: Mapping[str, Any] = {"protocol": 2, "socket_timeout": 5.0}
# A replica replies LOADING for an instant while it loads its primary's data.
_PATIENT = Retry(ConstantBackoff(0.01), 500, (redis.BusyLoadingError,))
# Below the ports that systems give to outgoing connections: nothing else takes the port of a node that is down, and a client
# that reconnects to it cannot connect to itself. The cluster bus is 10000 ports above; Redis 6.2 has no option for that.
_PORTS, _BUS = range(10_000, 22_000), 10_000
_turn: _Between = partial(asyncio.sleep, 0)  # lets the other tasks do something


class Node:
    """A server or sentinel on a port of 127.0.0.1, with files that outlive the process.

    Attributes:
        id: Its id in the cluster; empty outside of one.
        running: Whether its process runs.
        paused: Whether its process is stopped by SIGSTOP.
    """

    def __init__(self, port: int, server: LocalServer) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.server = server
        self.running = False
        self.paused = False
        self.id = ""

    def __repr__(self) -> str:
        return f"<Node {self.port}>"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self.server.pid

    @property
    def live(self) -> bool:
        """Whether it is neither killed nor paused."""
        return self.running and not self.paused

    def client(self) -> redis.asyncio.Redis:
        """Returns a client of this node alone; the caller closes it."""
        return redis.asyncio.Redis.from_url(self.url, retry=None, **_CONNECTION)

    def ask(self, *command: bytes | str | int) -> Any:
        """Returns the node's reply to a command, as text. Opens a connection for each call."""
        with redis.Redis.from_url(self.url, decode_responses=True, retry=_PATIENT, **_CONNECTION) as client:
            return client.execute_command(*command)


class _Topology(ABC):
    """Common base of a cluster and of sentinels: their nodes, and how these are started and stopped."""

    def __init__(self, binary: str | Path, env: Mapping[str, str], options: Sequence[str]) -> None:
        self.nodes: list[Node] = []
        self.url = ""
        self._binary = Path(binary)
        self._env = env
        self._options = options
        self._all: list[Node] = []
        self._files = tempfile.TemporaryDirectory(prefix="botsession-", ignore_cleanup_errors=True)

    @abstractmethod
    def _create(self) -> None: ...

    @abstractmethod
    def _settled(self) -> bool: ...

    def start(self) -> None:
        """Starts all nodes and waits until they work together."""
        try:
            self._create()
            self.settle()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops all processes, the paused ones too, and removes their files."""
        for node in self._all:
            # Killed, because a primary that shuts down would wait for replicas that are gone.
            self.kill(node)
        self._files.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def settle(self) -> None:
        """Waits until all live nodes agree about each other and the replicas are up to date.

        In a coroutine: ``await asyncio.to_thread(servers.settle)``. Raises TimeoutError after ``PATIENCE`` seconds.
        """
        _wait(self._settled, "the nodes do not agree")

    def kill(self, node: Node) -> None:
        """Ends the node with SIGKILL and waits until its process is gone; its files stay. Does nothing if it does not run."""
        if node.running:
            node.running = node.paused = False
            with suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGKILL)
            node.server.stop()

    def restart(self, node: Node) -> None:
        """Starts a killed node with its port and its files, and waits until it replies.

        It may not have found the other nodes yet; ``settle`` waits for that.
        """
        node.server.start()
        node.running = True

    def pause(self, node: Node) -> None:
        """Stops the node's process (SIGSTOP) until ``resume``: its connections stay open, and no request is served."""
        os.kill(node.pid, signal.SIGSTOP)
        node.paused = True

    def resume(self, node: Node) -> None:
        """Ends ``pause``."""
        os.kill(node.pid, signal.SIGCONT)
        node.paused = False

    def _node(self, *options: str, config: Sequence[str] | None = None) -> Node:
        """Starts a new node. With ``config`` it gets a configuration file, which it updates and reads again at each start."""
        port = _free_port()
        folder = Path(self._files.name) / str(port)
        folder.mkdir()
        binary = self._binary
        if config is not None:
            (folder / "server.conf").write_text("\n".join([*config, ""]), "utf-8")
            # The configuration file must precede the options, and LocalServer cannot do that: a script adds it.
            binary = folder / "server"
            words = map(shlex.quote, [str(self._binary), str(folder / "server.conf")])
            binary.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n', "utf-8")
            binary.chmod(0o700)
        node = Node(port, LocalServer(binary, tcp=port, env=self._env, options=["--dir", str(folder), *options]))
        self._all.append(node)
        self.restart(node)
        return node


class ClusterServers(_Topology):
    """A Redis Cluster; use it with ``with``.

    ``binary`` and ``env`` are from ``Server.locate``, ``options`` are more options of the servers. ``replicas`` is how
    many there are in all; the primaries get them in turn.
    ``nodes`` begins with the first primaries, ``urls`` are their URLs, ``url`` names all of them for ``SessionStore.from_url``.
    """

    def __init__(
        self, binary: str | Path, env: Mapping[str, str], *, primaries: int = 3, replicas: int = 3, options: Sequence[str] = ()
    ) -> None:
        super().__init__(binary, env, options)
        self._primaries = primaries
        self._replicas = replicas
        self.urls: list[str] = []

    def _create(self) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync", "no", *self._options)
        for _ in range(self._primaries + self._replicas):
            node = self._node(*options)
            node.id = node.ask("CLUSTER", "MYID")
            self.nodes.append(node)
        primaries, replicas = self.nodes[: self._primaries], self.nodes[self._primaries :]
        self.urls = [node.url for node in primaries]
        self.url = f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in primaries)}/"
        # Epochs can be set only before a node knows others. Equal epochs would be a conflict that takes time to settle.
        for epoch, node in enumerate(self.nodes, 1):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for place, node in enumerate(primaries):
            node.ask("CLUSTER", "ADDSLOTS", *range(*(SLOTS * n // len(primaries) for n in (place, place + 1))))
        for place, node in enumerate(self.nodes):
            # Every node meets every other one, because waiting for the gossip takes longer.
            for other in self.nodes[:place]:
                node.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.port + _BUS)
        for place, replica in enumerate(replicas):
            primary = primaries[place % len(primaries)]
            _wait(lambda: primary.id in _views(replica), f"{replica} does not learn of {primary}")  # noqa: B023 - called at once
            replica.ask("CLUSTER", "REPLICATE", primary.id)

    def _settled(self) -> bool:
        live = [node for node in self.nodes if node.live]
        first, *others = map(_views, live)
        return (
            {name: view.address for name, view in first.items()} == {node.id: f"127.0.0.1:{node.port}" for node in self.nodes}
            and all(views == first for views in others)
            and all("cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in live)
            and all(map(_linked, live))
        )

    def primaries(self) -> list[Node]:
        """Returns the live nodes that own slots now; of two that claim a slot, the one with the later epoch owns it."""
        owners = set(self._owners().values())
        return [node for node in self.nodes if node in owners]

    def primary_of(self, slot: int) -> Node:
        """Returns the live node that owns ``slot`` now; raises LookupError if there is none."""
        return self._owners()[slot]

    def replica_of(self, node: Node) -> Node:
        """Returns a live replica of ``node``; raises LookupError if there is none."""
        for other in self.nodes:
            if other.live and _views(other)[other.id].primary_id == node.id:
                return other
        raise LookupError(f"no replica of {node}")

    def _owners(self) -> dict[int, Node]:
        claims = [(_views(node)[node.id], node) for node in self.nodes if node.live]
        claims.sort(key=lambda claim: claim[0].epoch)
        return {slot: node for view, node in claims for slot in view.slots}

    async def move_slot(self, slot: int, source: Node, target: Node, *, between: _Between = _turn) -> None:
        """Moves ``slot`` with its keys; awaits ``between()`` after each key."""
        await self.begin_move(slot, source, target)
        await self.move_keys(slot, source, target, between=between)
        await self.end_move(slot, source, target)

    async def begin_move(self, slot: int, source: Node, target: Node) -> None:
        """Begins to move ``slot``: ``source`` redirects clients to ``target`` (ASK) for keys that it does not have."""
        await asyncio.to_thread(target.ask, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await asyncio.to_thread(source.ask, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    async def move_keys(
        self, slot: int, source: Node, target: Node, count: int = sys.maxsize, between: _Between = _turn
    ) -> int:
        """Moves at most ``count`` keys of ``slot`` one by one, and returns how many; awaits ``between()`` after each."""
        moved = 0
        async with source.client() as giver:
            while keys := await _send(giver, "CLUSTER", "GETKEYSINSLOT", slot, min(10, count - moved)):
                for key in keys:
                    # A key that has expired meanwhile is no error: the reply is NOKEY.
                    await _send(giver, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
                    moved += 1
                    await between()
        return moved

    async def end_move(self, slot: int, source: Node, target: Node) -> None:
        """Makes ``target`` the owner of ``slot`` on all primaries; ``source`` must have no key of it left."""
        # The new owner first: if the old owner came first and died then, the slot would have no owner.
        for node in [target, source, *(node for node in self.primaries() if node not in {source, target})]:
            await asyncio.to_thread(node.ask, "CLUSTER", "SETSLOT", slot, "NODE", target.id)


class SentinelServers(_Topology):
    """A primary with two replicas, and three sentinels that watch it as ``SERVICE``; use it with ``with``.

    ``binary`` and ``env`` are from ``Server.locate``, ``options`` are more options of the primary and its replicas.
    ``nodes`` begins with the first primary and has no sentinels, which are in ``sentinels``; ``url`` is for
    ``SessionStore.from_url``.
    """

    def __init__(self, binary: str | Path, env: Mapping[str, str], *, options: Sequence[str] = ()) -> None:
        super().__init__(binary, env, options)
        self.sentinels: list[Node] = []

    def _create(self) -> None:
        options = ("--repl-diskless-sync", "no", *self._options)
        for _ in range(3):
            config = [f"replicaof 127.0.0.1 {self.nodes[0].port}"] if self.nodes else []
            # Sentinels rewrite it after a failover, so that a restarted node keeps its role.
            self.nodes.append(self._node(*options, config=config))
        # Sentinels find replicas at their first look at the primary, and later ones only ten seconds afterwards.
        _wait(lambda: all(map(_linked, self.nodes)), "the replicas do not follow")
        times = [f"down-after-milliseconds {SERVICE} 500", f"failover-timeout {SERVICE} 2000", f"parallel-syncs {SERVICE} 1"]
        watch = [f"sentinel {line}" for line in (f"monitor {SERVICE} 127.0.0.1 {self.nodes[0].port} 2", *times)]
        self.sentinels += [self._node("--sentinel", config=watch) for _ in range(3)]
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{node.port}' for node in self.sentinels)}/{SERVICE}"

    def _settled(self) -> bool:
        primary = self.primary()
        followers = {str(node.port) for node in self.replicas()}
        for sentinel in (node for node in self.sentinels if node.live):
            view = _watched(sentinel)
            replicas = map(_pairs, sentinel.ask("SENTINEL", "REPLICAS", SERVICE))
            known = {replica["port"] for replica in replicas if replica["flags"] == "slave"}
            counts = (int(view["num-other-sentinels"]), int(view["num-slaves"]))
            if (view["flags"], view["port"]) != ("master", str(primary.port)) or not followers <= known or counts != (2, 2):
                return False
        return primary.live and _linked(primary) and all(_linked(node, primary) for node in self.replicas())

    def primary(self) -> Node:
        """Returns the primary that the live sentinel with the latest configuration names."""
        latest = max((node for node in self.sentinels if node.live), key=lambda node: int(_watched(node)["config-epoch"]))
        # Asked once, because the name may change from one moment to the next.
        port = _named(latest)
        return next(node for node in self.nodes if node.port == port)

    def replicas(self) -> list[Node]:
        """Returns the live nodes without the primary."""
        primary = self.primary()
        return [node for node in self.nodes if node.live and node is not primary]

    async def failover(self) -> Node:
        """Makes a sentinel promote a replica, and returns the new primary when all live sentinels name it."""
        old = self.primary()
        live = [sentinel for sentinel in self.sentinels if sentinel.live]
        # A sentinel refuses during another failover, and until it knows the new primary's replicas.
        await asyncio.to_thread(_wait, lambda: live[0].ask("SENTINEL", "FAILOVER", SERVICE), "the sentinel refuses")

        def switched() -> bool:
            ports = set(map(_named, live))
            return len(ports) == 1 and old.port not in ports

        await asyncio.to_thread(_wait, switched, "the sentinels do not agree on a new primary")
        return self.primary()


@dataclass(frozen=True)
class _View:
    """A node of the cluster, as another node describes it."""

    address: str
    primary_id: str
    slots: frozenset[int]
    epoch: int = field(compare=False)


def _views(node: Node) -> dict[str, _View]:
    """Returns how ``node`` describes each node of the cluster, by id."""
    views = {}
    for line in node.ask("CLUSTER", "NODES").splitlines():
        name, address, _, primary_id, _, _, epoch, _, *ranges = line.split()
        # "[93->-id]" is a slot that is being moved.
        bounds = [text.split("-") for text in ranges if not text.startswith("[")]
        slots = frozenset(slot for bound in bounds for slot in range(int(bound[0]), int(bound[-1]) + 1))
        views[name] = _View(address.partition("@")[0], primary_id, slots, int(epoch))
    return views


def _linked(node: Node, primary: Node | None = None) -> bool:
    """Returns whether ``node`` is an up-to-date replica of ``primary``; of any primary, or one itself, without ``primary``."""
    info = node.ask("INFO", "replication")
    if info["role"] == "master":
        return primary is None
    return info["master_link_status"] == "up" and (primary is None or info["master_port"] == primary.port)


async def _send(client: redis.asyncio.Redis, *command: bytes | str | int) -> Any:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py has no types here


def _watched(sentinel: Node) -> dict[str, str]:
    return _pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE))


def _named(sentinel: Node) -> int:
    """Returns the port of the primary that the sentinel names to clients."""
    return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])


def _pairs(reply: list[str]) -> dict[str, str]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _wait(condition: Callable[[], object], complaint: str) -> None:
    """Waits until ``condition`` holds; an error reply counts as not yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        error = None
        try:
            if condition():
                return
        except redis.RedisError as refusal:
            error = refusal
        if time.monotonic() > deadline:
            raise TimeoutError(complaint) from error
        time.sleep(0.02)


def _free_port() -> int:
    """Returns a port that is free together with its port for the cluster bus."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with suppress(OSError), socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + _BUS))
            return port
    raise OSError("no port is free")
