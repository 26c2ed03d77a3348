"""A Redis Cluster, and a primary with replicas and sentinels: real processes that can be killed, paused and started again."""

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
#: What clients of the sentinels ask for.
SERVICE = "bots"
_CONNECTION: Mapping[str, Any] = {"protocol": 2, "socket_timeout": 5.0}
# A replica that is just loading what its primary has sent says so for an instant.
_PATIENT = Retry(ConstantBackoff(0.01), 500, (redis.BusyLoadingError,))
# Below the ports that systems give to outgoing connections: while a node is down, nothing else takes its port, and who connects
# to it again and again cannot meet himself. The cluster bus is at the port 10000 above; Redis 6.2 knows no other place for it.
_PORTS, _BUS = range(10_000, 22_000), 10_000
_turn: _Between = partial(asyncio.sleep, 0)  # lets the other tasks do something


class Node:
    """A server or sentinel on a port of 127.0.0.1, with files that outlive the process; ``id`` is the cluster's name for it."""

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
        """It is neither killed nor paused."""
        return self.running and not self.paused

    def client(self) -> redis.asyncio.Redis:
        """A client of this node alone; close it."""
        return redis.asyncio.Redis.from_url(self.url, retry=None, **_CONNECTION)

    def ask(self, *command: bytes | str | int) -> Any:
        """What the node replies, as text; over a connection of its own, so not for what is done often."""
        with redis.Redis.from_url(self.url, decode_responses=True, retry=_PATIENT, **_CONNECTION) as client:
            return client.execute_command(*command)


class _Topology(ABC):
    """What a cluster and sentinels have in common."""

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
        """Starts all and waits until they work together."""
        try:
            self._create()
            self.settle()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops all processes, the paused ones too, and removes their files."""
        for node in self._all:
            # Not gently: with a replica that is gone, a primary would first wait for it.
            self.kill(node)
        self._files.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def settle(self) -> None:
        """Waits until all that run (and are not paused) agree about each other and have nothing left to do.

        In a coroutine: ``await asyncio.to_thread(servers.settle)``. It raises TimeoutError after ``PATIENCE`` seconds.
        """
        _wait(self._settled, "the nodes do not agree")

    def kill(self, node: Node) -> None:
        """Kills the node with SIGKILL and waits until it is gone; its files stay. Does nothing if it does not run."""
        if node.running:
            node.running = node.paused = False
            with suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGKILL)
            node.server.stop()

    def restart(self, node: Node) -> None:
        """Starts a killed node with its port and its files, and waits until it answers; see ``settle``."""
        node.server.start()
        node.running = True

    def pause(self, node: Node) -> None:
        """Stops the node until ``resume``; its connections stay open."""
        os.kill(node.pid, signal.SIGSTOP)
        node.paused = True

    def resume(self, node: Node) -> None:
        """Ends ``pause``."""
        os.kill(node.pid, signal.SIGCONT)
        node.paused = False

    def _node(self, *options: str, config: Sequence[str] | None = None) -> Node:
        """A new node, started. It writes what it learns into its ``config`` if there is one, and starts from that again."""
        port = _free_port()
        folder = Path(self._files.name) / str(port)
        folder.mkdir()
        binary = self._binary
        if config is not None:
            (folder / "server.conf").write_text("\n".join([*config, ""]), "utf-8")
            # A config file must come before the options, where LocalServer has no place for it.
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

    ``binary`` and ``env`` are what ``Server.locate`` gives, ``options`` more of the servers' options. ``replicas`` is how
    many there are in all; they are dealt to the primaries in turn.
    ``nodes`` has the first primaries first, ``urls`` where these listen, ``url`` the same for ``SessionStore.from_url``.
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
        # Epochs can be set only before a node knows others; equal ones would be a conflict to settle first.
        for epoch, node in enumerate(self.nodes, 1):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for place, node in enumerate(primaries):
            node.ask("CLUSTER", "ADDSLOTS", *range(*(SLOTS * n // len(primaries) for n in (place, place + 1))))
        for place, node in enumerate(self.nodes):
            # Each to each: so they need not wait for the gossip.
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
        """The nodes that own slots now, as the live ones say themselves; the latest word counts."""
        owners = set(self._owners().values())
        return [node for node in self.nodes if node in owners]

    def primary_of(self, slot: int) -> Node:
        """The live node that owns ``slot`` now; raises LookupError if there is none."""
        return self._owners()[slot]

    def replica_of(self, node: Node) -> Node:
        """A live replica of ``node``; raises LookupError if there is none."""
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
        """From now on ``source`` sends clients to ``target`` for the keys that it does not have."""
        await asyncio.to_thread(target.ask, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await asyncio.to_thread(source.ask, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    async def move_keys(
        self, slot: int, source: Node, target: Node, count: int = sys.maxsize, between: _Between = _turn
    ) -> int:
        """Moves keys of ``slot`` one by one, ``count`` at most, and gives how many; awaits ``between()`` after each."""
        moved = 0
        async with source.client() as giver:
            while keys := await _send(giver, "CLUSTER", "GETKEYSINSLOT", slot, min(10, count - moved)):
                for key in keys:
                    # One that has expired meanwhile is no error: NOKEY.
                    await _send(giver, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
                    moved += 1
                    await between()
        return moved

    async def end_move(self, slot: int, source: Node, target: Node) -> None:
        """Makes ``target`` the owner of ``slot``, of which ``source`` must have no key left, and tells all other primaries."""
        # The new owner first: if the old one were first and died, no node would own the slot.
        for node in [target, source, *(node for node in self.primaries() if node not in {source, target})]:
            await asyncio.to_thread(node.ask, "CLUSTER", "SETSLOT", slot, "NODE", target.id)


class SentinelServers(_Topology):
    """A primary with two replicas, and three sentinels that watch it as ``SERVICE``; use it with ``with``.

    ``binary`` and ``env`` are what ``Server.locate`` gives, ``options`` more options of the primary and its replicas.
    ``nodes`` has the first primary first, and no sentinels; ``sentinels`` are these; ``url`` is for ``SessionStore.from_url``.
    """

    def __init__(self, binary: str | Path, env: Mapping[str, str], *, options: Sequence[str] = ()) -> None:
        super().__init__(binary, env, options)
        self.sentinels: list[Node] = []

    def _create(self) -> None:
        options = ("--repl-diskless-sync", "no", *self._options)
        for _ in range(3):
            config = [f"replicaof 127.0.0.1 {self.nodes[0].port}"] if self.nodes else []
            # Sentinels write into it who follows whom: so a node that starts again is what it was.
            self.nodes.append(self._node(*options, config=config))
        # What is there when they first look they see at once, all else ten seconds later.
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
        """The primary that the sentinels name now: what the live one says that has seen the latest failover."""
        latest = max((node for node in self.sentinels if node.live), key=lambda node: int(_watched(node)["config-epoch"]))
        # Asked once: it may name another one the next moment.
        port = _named(latest)
        return next(node for node in self.nodes if node.port == port)

    def replicas(self) -> list[Node]:
        """The live nodes but the primary."""
        primary = self.primary()
        return [node for node in self.nodes if node.live and node is not primary]

    async def failover(self) -> Node:
        """Makes a sentinel promote a replica, waits until all live sentinels name the same new primary, and gives that."""
        old = self.primary()
        live = [sentinel for sentinel in self.sentinels if sentinel.live]
        # It refuses while another failover is going on, and while it does not know of the last one's replicas.
        await asyncio.to_thread(_wait, lambda: live[0].ask("SENTINEL", "FAILOVER", SERVICE), "the sentinel refuses")

        def switched() -> bool:
            ports = set(map(_named, live))
            return len(ports) == 1 and old.port not in ports

        await asyncio.to_thread(_wait, switched, "the sentinels do not agree on a new primary")
        return self.primary()


@dataclass(frozen=True)
class _View:
    """What a cluster node says of one."""

    address: str
    primary_id: str
    slots: frozenset[int]
    epoch: int = field(compare=False)


def _views(node: Node) -> dict[str, _View]:
    """What ``node`` says of each, by id."""
    views = {}
    for line in node.ask("CLUSTER", "NODES").splitlines():
        name, address, _, primary_id, _, _, epoch, _, *ranges = line.split()
        # "[93->-id]" is a slot on its way.
        bounds = [text.split("-") for text in ranges if not text.startswith("[")]
        slots = frozenset(slot for bound in bounds for slot in range(int(bound[0]), int(bound[-1]) + 1))
        views[name] = _View(address.partition("@")[0], primary_id, slots, int(epoch))
    return views


def _linked(node: Node, primary: Node | None = None) -> bool:
    """Whether it is a primary, or a replica (of ``primary``, where that is given) that is up to date."""
    info = node.ask("INFO", "replication")
    if info["role"] == "master":
        return primary is None
    return info["master_link_status"] == "up" and (primary is None or info["master_port"] == primary.port)


async def _send(client: redis.asyncio.Redis, *command: bytes | str | int) -> Any:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py has no types here


def _watched(sentinel: Node) -> dict[str, str]:
    return _pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE))


def _named(sentinel: Node) -> int:
    """The port of the primary that the sentinel names to clients."""
    return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])


def _pairs(reply: list[str]) -> dict[str, str]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _wait(condition: Callable[[], object], complaint: str) -> None:
    """Waits until ``condition`` holds; an error of a node means not yet."""
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
    """One that is free, and whose port for the cluster bus is."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with suppress(OSError), socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + _BUS))
            return port
    raise OSError("no port is free")
