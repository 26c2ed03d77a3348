"""Runs commands on a Redis Cluster: each on the primary of its slot, wherever that moves.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self, TypeVar

from redis.asyncio import RedisCluster
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .._protocol.commands import Command
from .connection_errors import is_final
from .executor import Executor, PubSubConnection
from .one_server import PipelinedExecutor, ServerConnections, connected
from .options import HostPort, Options, StoreOptions, Target
from .redispy import cluster_settings
from .reply_matching import Call, copy_of
from .slot_map import SLOTS, SlotRange, parse_slots

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds before a call that no node serves is sent again.
REROUTE_DELAYS: Final = ExponentialWithJitterBackoff(base=0.01, cap=0.25)
#: Least seconds between two requests for the slot map.
LOOK_INTERVAL: Final = 0.1
#: Seconds without a reply after which the next node is asked for the slot map as well.
NEXT_NODE_AFTER: Final = 0.3
#: How often a call follows MOVED without a pause.
FAST_DETOURS: Final = 4


class _Node:
    """A primary and the connections to it."""

    def __init__(self, owner: ClusterExecutor, options: Options, address: HostPort) -> None:
        host, port = address
        self.address = address
        connect = partial(connected, options, host=host, port=port)
        self.connections = ServerConnections(options, connect, f"{host}:{port}", dispatcher=owner)

    @property
    def is_stuck(self) -> bool:
        return any(connection.is_stuck for connection in self.connections.all)

    async def aclose(self, *, wait: bool = True) -> None:
        await asyncio.gather(*(connection.aclose(wait=wait) for connection in self.connections.all))


class ClusterExecutor(PipelinedExecutor):
    """Runs commands on the primaries of a Redis Cluster, over pipelined connections to each.

    A call that a node does not serve (``MOVED``, ``ASK``, ``TRYAGAIN``, ``CLUSTERDOWN``, a node that cannot be reached) was not
    run there: it is sent to another node, until its deadline.

    Args:
        options: Those of the store; its URL names some nodes.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self._seeds = seeds = options.target.seeds
        self._remap = options.address_remap or (lambda address: address)
        self._loop: asyncio.AbstractEventLoop
        self._slots: list[_Node | None] = [None] * SLOTS
        self._nodes: dict[HostPort, _Node] = {}
        self._known: set[HostPort] = set(seeds)
        self._waiting: dict[Call, tuple[asyncio.TimerHandle, Exception]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._is_look_due = False
        # Why there is no slot map, and whether waiting for one is useless.
        self._trouble: Exception | None = None
        self._is_hopeless = False
        self._is_closed = False

    @classmethod
    def from_client(cls, client: RedisCluster, given: StoreOptions) -> Self:
        """Makes an executor with connections of its own to the cluster of a client.

        The client's own are not used: its redirection sends ``ASKING`` and the command over two connections of its pool.

        Args:
            client: Its nodes, credentials, TLS and timeouts are taken over.
            given: Options of the store; the client's own win.

        Raises:
            ValueError: a client with ``decode_responses=True``.
        """
        options, seeds, remap = cluster_settings(client)
        return cls(Options.of(Target("cluster", options, seeds), {**given, "address_remap": remap}))

    async def primaries(self) -> Sequence[Executor]:
        """Returns one executor for each primary.

        Raises:
            redis.exceptions.RedisError: some slots have no primary, or no node replies with the slot map.
        """
        self._enter()
        # If no node replies, the known map is used.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.timeout):
                await self._look_once()
                while None in self._slots and not self._is_hopeless:
                    await asyncio.sleep(LOOK_INTERVAL)
                    await self._look_once()
        if None in self._slots:
            raise copy_of(self._trouble or self._unserved(self._slots.index(None)))
        return [_OnNode(self, node.address) for node in dict.fromkeys(self._slots) if node is not None]

    async def listen(self) -> PubSubConnection:
        """Connects to any node: a cluster forwards published messages to all nodes."""
        self._enter()
        trouble: Exception = RedisConnectionError("this cluster has no nodes")
        for host, port in random.sample(list(self._known), len(self._known)):
            try:
                connection: PubSubConnection = await connected(self._options, host=host, port=port)
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                trouble = error
            else:
                self._listening.add(connection)
                self._listen_only_to(self._known)
                return connection
        raise trouble

    async def aclose(self) -> None:
        self._guard.close()
        try:
            while pending := [*self._pending(), *self._closing]:
                await asyncio.wait(pending)
        finally:
            self._is_closed = True
            closed = RedisConnectionError("closed by aclose()")
            for call, (timer, _) in self._waiting.items():
                timer.cancel()
                _tell(call, closed)
            self._waiting.clear()
            nodes, self._nodes = self._nodes, {}
            ends = [*self._closing, *([self._looking] if self._looking else [])]
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, *(node.aclose(wait=False) for node in nodes.values()), return_exceptions=True)

    # --- calls

    def _call(self, command: Command[Any]) -> asyncio.Future[Any]:
        if asyncio._get_running_loop() is not self._guard.loop:
            self._enter()
        node = self._slots[command.slot]
        if node is not None:
            return node.connections.of(command).call(command)
        return self._submit(Call(command, self._loop.create_future(), self._deadline()))

    def on_node(self, command: Command[Any], address: HostPort) -> asyncio.Future[Any]:
        """Sends a command to one node."""
        self._enter()
        call = Call(command, self._loop.create_future(), self._deadline())
        call.server = address
        return self._submit(call)

    def _deadline(self) -> float:
        return self._loop.time() + self._options.timeout

    def _submit(self, call: Call) -> asyncio.Future[Any]:
        promise: asyncio.Future[Any] = call.promise  # type: ignore[assignment] # made above
        self._route(call)
        return promise

    def _route(self, call: Call) -> None:
        slot = call.command.slot
        node = self._slots[slot] if call.server is None else self._nodes.get(call.server)
        if node is not None:
            node.connections.of(call.command).submit(call)
            return
        if call.server is not None:
            _tell(call, RedisConnectionError("{}:{} is no primary of this cluster any more; scan again".format(*call.server)))
            return
        self._look()
        self._hold(call, self._trouble or self._unserved(slot))

    def stray(self, call: Call, error: Exception) -> None:
        """Reroutes a call that a node does not serve, or that was not sent to it before it was left."""
        if self._is_closed:
            _tell(call, error)
            return
        call.is_asking = False
        call.detours += 1
        node = self._node_named(error) if isinstance(error, AskError) else None
        if isinstance(error, MovedError):
            self._slots[call.command.slot] = node
            self._look()
            if node is not None and call.detours <= FAST_DETOURS:
                node.connections.of(call.command).submit(call)
                return
        elif node is not None:
            # ASK is followed at once. It cannot loop: each circle of redirections has a MOVED or TRYAGAIN, which pause.
            call.is_asking = True
            node.connections.of(call.command).submit(call)
            return
        elif not isinstance(error, TryAgainError):
            self._look()
        self._hold(call, error)

    def troubled(self, error: Exception) -> None:
        """Requests the slot map: a node without connection may lose its slots."""
        if not self._is_closed:
            self._look()

    def _hold(self, call: Call, error: Exception) -> None:
        """Routes a call again after a pause."""
        left = call.deadline - self._loop.time()
        if left <= 0 or self._is_hopeless:
            _tell(call, error)
            return
        pause = min(REROUTE_DELAYS.compute(min(call.detours, 16)), left)
        self._waiting[call] = self._loop.call_later(pause, self._retry, call), error

    def _retry(self, call: Call) -> None:
        _, error = self._waiting.pop(call)
        if call.promise.done():
            return
        if self._loop.time() >= call.deadline:
            _tell(call, error)
        else:
            call.detours += 1
            self._route(call)

    def _pending(self) -> list[asyncio.Future[Any]]:
        held: list[Any] = [call.promise for call in self._waiting if not call.promise.done()]
        return held + [promise for node in self._nodes.values() for each in node.connections.all for promise in each.pending()]

    # --- the slot map

    def _enter(self) -> None:
        if self._guard.enter():
            self._loop = asyncio.get_running_loop()

    def _node(self, address: HostPort) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = _Node(self, self._options, address)
        return node

    def _node_named(self, error: AskError) -> _Node | None:
        """Returns the node that a redirection names; None if the name is ambiguous."""
        if error.host and error.host != "?":
            return self._node(self._remap(error.node_addr))
        # A node that does not know how clients reach it names the port only, and means the host that was asked.
        known = [address for address in self._known if address[1] == error.port]
        return self._node(known[0]) if len(known) == 1 else None

    def _look(self) -> None:
        """Starts requesting the slot map, unless that is under way."""
        self._is_look_due = True
        if self._looking is None:
            self._looking = self._loop.create_task(self._keep_looking())
            self._looking.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None

    async def _keep_looking(self) -> None:
        """Requests the slot map until no request is due and no call waits for a node that does not answer."""
        while self._is_look_due or any(node.is_stuck for node in self._nodes.values()):
            self._is_look_due = False
            await self._look_once()
            await asyncio.sleep(LOOK_INTERVAL)

    async def _look_once(self) -> None:
        """Asks one node after the other for the slot map; the next one also if the last one is slow."""
        known = list(self._known)
        random.shuffle(known)
        # Nodes that answer go first.
        known.sort(key=lambda address: address in self._nodes and self._nodes[address].is_stuck)
        left = [*known, *(seed for seed in self._seeds if seed not in self._known)]
        asking: set[asyncio.Task[list[SlotRange]]] = set()
        troubles: list[Exception] = []
        try:
            while left or asking:
                if left:
                    asking.add(self._loop.create_task(self._ask(left.pop(0))))
                patience = NEXT_NODE_AFTER if left else None
                done, asking = await asyncio.wait(asking, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (error := task.exception()) is not None:
                        troubles.append(_explained(error))
                    elif ranges := task.result():
                        self._trouble, self._is_hopeless = None, False
                        self._redraw(ranges)
                        return
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        self._trouble = next(filter(_is_hopeless, troubles), troubles[-1]) if troubles else None
        self._is_hopeless = bool(troubles) and all(map(_is_hopeless, troubles))
        if self._is_hopeless:
            self._fail()

    async def _ask(self, address: HostPort) -> list[SlotRange]:
        host, port = address
        async with asyncio.timeout(self._options.timeout):
            connection = await connected(self._options, host=host, port=port)
            try:
                await connection.send_command("CLUSTER", "SLOTS")
                return parse_slots(await connection.read_response(disable_decoding=True), host, self._remap)
            finally:
                await connection.disconnect(nowait=True)

    def _redraw(self, ranges: Sequence[SlotRange]) -> None:
        slots: list[_Node | None] = [None] * SLOTS
        for first, last, primary, _ in ranges:
            slots[first : last + 1] = [self._node(primary)] * (last + 1 - first)
        self._slots = slots
        self._known = {address for _, _, primary, replicas in ranges for address in (primary, *replicas)}
        self._listen_only_to(self._known)
        primaries = {primary for _, _, primary, _ in ranges}
        for address in [address for address in self._nodes if address not in primaries]:
            node = self._nodes.pop(address)
            for connection in node.connections.all:
                connection.leave(RedisConnectionError(f"{address[0]}:{address[1]} serves no slots any more"), at_once=False)
            closing = self._loop.create_task(node.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        for call, (timer, error) in list(self._waiting.items()):
            if not isinstance(error, TryAgainError):
                timer.cancel()
                del self._waiting[call]
                self._route(call)

    def _unserved(self, slot: int) -> Exception:
        if any(self._slots):
            return ClusterDownError(f"no node serves slot {slot}")
        seeds = ", ".join(f"{host}:{port}" for host, port in self._seeds)
        return RedisTimeoutError(f"no node of the cluster at {seeds} has replied with its slot map yet")

    def _fail(self) -> None:
        """Ends the calls that wait for a slot map, since no node will give one."""
        assert self._trouble is not None  # noqa: S101 - for mypy: the caller has set it
        for call, (timer, _) in list(self._waiting.items()):
            if self._slots[call.command.slot] is None:
                timer.cancel()
                del self._waiting[call]
                _tell(call, self._trouble)


class _OnNode:
    """Runs commands on one node of a cluster."""

    def __init__(self, owner: ClusterExecutor, address: HostPort) -> None:
        self._owner = owner
        self._address = address

    async def run(self, command: Command[T]) -> T:
        return command.parse(await self._owner.on_node(command, self._address))

    async def run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        return [await self.run(command) for command in commands]

    async def primaries(self) -> Sequence[Executor]:
        return [self]

    async def listen(self) -> PubSubConnection:
        return await self._owner.listen()

    async def aclose(self) -> None:
        """Does nothing: the connections belong to the cluster's executor."""


def _tell(call: Call, error: Exception) -> None:
    if not call.promise.done():
        call.promise.set_exception(copy_of(error))


def _explained(error: BaseException) -> Exception:
    # A builtin TimeoutError has no message.
    return (
        error if isinstance(error, Exception) and str(error) else RedisTimeoutError("no node replied with its slot map in time")
    )


def _is_hopeless(error: Exception) -> bool:
    """Returns whether a node will never give its slot map: a wrong password, no permission, no cluster, a strange reply."""
    return is_final(error) or not isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError))
