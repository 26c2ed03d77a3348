"""Runs each fault on each server under load, and checks the promises. A table at the end of the run shows the results."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redis_botsession import SessionStore
from redis_botsession.embedded import LocalServer, ServerFailed
from redis_botsession.testing.harness import eventually

from ..support.proxy_steered import SteeredProxy
from ..support.redis_servers import CI, SERVERS, Server
from .faults import FAULTS, SNAPSHOTS, Environment, Fault, ServerFactory
from .history import Kind
from .matrix import Matrix
from .workload import SEED, Workload

#: Number of stores of a workload, and number of connections of each.
STORES = 2
CONNECTIONS = 2


class Servers:
    """Starts one server of each version, for all faults that do not end the server's process."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[Server, tuple[ServerFactory, LocalServer]] = {}

    def get(self, server: Server) -> tuple[ServerFactory, LocalServer]:
        """Returns a factory for servers of this version, and a running one.

        Skips the test if the server is not available; fails it in CI.
        """
        if server not in self._running:
            try:
                binary, env = server.locate()
                make = partial(LocalServer, binary, env=env)
                self._running[server] = make, self._stack.enter_context(make(tcp=True))
            except (OSError, subprocess.CalledProcessError, ServerFailed) as error:
                reason = f"{server.id} is not available: {error} {getattr(error, 'stderr', '')}"
                if CI:
                    pytest.fail(reason)
                pytest.skip(reason)
        return self._running[server]


@pytest.fixture(scope="module")
def running() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.id)
async def test_faults_break_no_promise(
    server: Server, fault: Fault, running: Servers, matrix: Matrix, prefix: str, tmp_path: Path
) -> None:
    seed = f"{SEED}/{fault.name}/{server.id}"
    stray: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
    with matrix.cell(fault.name, fault.promise, server.id) as cell:
        async with environment_for(fault, *running.get(server), tmp_path) as environment:
            try:
                await work(fault, environment, prefix, seed)
            finally:
                cell.counts += environment.workload.history.counts()
            await assert_quiet(environment)
            async with SessionStore.from_url(environment.server.url, prefix=prefix) as fresh:
                violations = await environment.workload.check(fresh)
        workload = environment.workload
        allowed = {"read": fault.reads, "write": fault.writes}
        surprises = {what: times for what, times in workload.errors.items() if what[1] not in allowed[what[0]]}
        assert not violations, "\n".join(map(str, violations[:20]))
        assert not surprises, f"errors that this fault must not cause: {surprises}; seed {seed}"
        assert not workload.hanging, f"calls hang: {workload.hanging}; seed {seed}"
        assert not stray, f"errors that reached only the event loop: {stray}; seed {seed}"
        assert {write.target.kind for write in workload.history.writes if write.is_acknowledged} == set(Kind)
        assert workload.history.counts()["reads"]


@asynccontextmanager
async def environment_for(fault: Fault, make: ServerFactory, shared: LocalServer, data: Path) -> AsyncIterator[Environment]:
    """Yields the environment of a fault: with the shared server, or with one that is started and stopped here."""
    if fault.data is None:
        yield Environment(make, shared, data)
        return
    environment = Environment(make, make(tcp=True, data=data, options=SNAPSHOTS if fault.data == "rdb" else []), data)
    try:
        await asyncio.to_thread(environment.server.start)
        yield environment
    finally:
        await asyncio.to_thread(environment.server.stop)


async def work(fault: Fault, environment: Environment, prefix: str, seed: str) -> None:
    """Runs a workload on new stores while the fault happens, and closes the stores."""
    async with AsyncExitStack() as stack:
        url = environment.server.url
        if fault.has_proxy:
            environment.proxy = await stack.enter_async_context(SteeredProxy(url, seed))
            url = environment.proxy.url
        stores = [
            SessionStore.from_url(url, prefix=prefix, max_connections=CONNECTIONS, **fault.options) for _ in range(STORES)
        ]
        for store in stores:
            await stack.enter_async_context(store)
        environment.workload = Workload(seed, stores, cancels=fault.cancels)
        environment.make_store = lambda: SessionStore.from_url(environment.server.url, prefix=prefix)
        await environment.workload.run(partial(fault.happen, environment))


async def assert_quiet(environment: Environment) -> None:
    """Waits until the server has closed all connections of the workload, and so has run every command sent on them."""
    async with environment.admin() as admin:

        async def has_no_other_client() -> bool:
            return len(await admin.client_list()) == 1

        await eventually(has_no_other_client)
