"""Runs commands on the primary that Redis Sentinel names, and on the next one after a failover."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from .connection import RECONNECT_DELAYS
from .executor import PubSubConnection
from .one_server import ServerExecutor, connected
from .options import HostPort, Options

logger = logging.getLogger(__name__)

#: Seconds between two questions to a sentinel for the primary, beside its messages.
POLL_SECONDS: Final = 1.0
#: Seconds that connecting to a sentinel, or its reply, may take.
SENTINEL_TIMEOUT: Final = 1.0


class SentinelExecutor(ServerExecutor):
    """Runs commands on the primary of a service.

    Sentinels publish a failover as it happens (``+switch-master``). Connections to the old primary are dropped at once: it may
    not know of the failover yet, and writes that it still accepts would be lost.

    Args:
        options: Those of the store.
    """

    retire_on = (BusyLoadingError, MasterDownError, ReadOnlyError)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._service = options.target.service
        theirs = {
            **options.sentinel_options,
            "socket_timeout": SENTINEL_TIMEOUT,
            "socket_connect_timeout": SENTINEL_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
            # redis-py 6.2 cannot read this reply of RESP3.
            "protocol": 2,
        }
        self._sentinels = [Redis(host=host, port=port, **theirs) for host, port in options.target.seeds]
        self._primary: HostPort | None = None
        self._config_epoch = -1
        self._watching: list[asyncio.Task[None]] = []
        self._is_closed = False

    @property
    def address(self) -> str:
        """The server's name in messages."""
        return f"the primary of {self._service}"

    async def listen(self) -> PubSubConnection:
        connection = await super().listen()
        self._listening.add(connection)
        # A failover may have happened while the connection was opened.
        self._listen_only_to((self._primary,))
        return connection

    async def aclose(self) -> None:
        # In another event loop this raises before anything is closed.
        self._guard.close()
        try:
            await super().aclose()
        finally:
            self._is_closed = True
            watching = self._watching
            while watching:
                for task in watching:
                    task.cancel()
                # Repeated: before Python 3.12, asyncio.wait_for, which redis-py uses, can lose a cancellation
                # (https://github.com/python/cpython/issues/86296).
                watching = list((await asyncio.wait(watching, timeout=POLL_SECONDS))[1])
            for sentinel in self._sentinels:
                await sentinel.aclose()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        # All sentinels are watched: any of them may lead a failover and report it first.
        self._watching = [loop.create_task(self._watch(sentinel)) for sentinel in self._sentinels]

    async def _connect(self) -> Any:
        host, port = await self._discover()
        connection = await connected(self._options, host=host, port=port)
        try:
            await self._check_role(connection, f"{host}:{port}")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _check_role(self, connection: Any, address: str) -> None:
        await connection.send_command("ROLE")
        with suppress(NoPermissionError):
            role, *_ = await connection.read_response(disable_decoding=True)
            if role != b"master":
                raise RedisConnectionError(
                    f"{address} is no primary, though sentinels name it as the primary of {self._service}"
                )

    async def _discover(self) -> HostPort:
        """Asks all sentinels for the primary, until most of them agree.

        Raises:
            redis.exceptions.ConnectionError: no sentinel knows a primary that is up.
            redis.exceptions.RedisError: all sentinels refuse the question.
        """
        asking = [asyncio.ensure_future(sentinel.sentinel_master(self._service)) for sentinel in self._sentinels]
        views: Counter[HostPort] = Counter()
        epochs: dict[HostPort, int] = {}
        troubles: list[Exception] = []
        try:
            for answer in asyncio.as_completed(asking):
                try:
                    view = _View.of(await answer)
                except (RedisError, OSError) as error:
                    troubles.append(error)
                    continue
                if view is None:
                    continue
                views[view.primary] += 1
                epochs[view.primary] = max(view.config_epoch, epochs.get(view.primary, -1))
                if views[view.primary] > len(asking) // 2:
                    # Even if its epoch is lower than the known one: the sentinels may have been replaced by new ones.
                    self._adopt(view.primary, epochs[view.primary])
                    return view.primary
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if not views:
            if troubles and all(isinstance(error, (NoPermissionError, AuthenticationError)) for error in troubles):
                raise troubles[0]
            reasons = "; ".join(str(error) or type(error).__name__ for error in troubles)
            raise RedisConnectionError(f"no sentinel names {self.address}: {reasons or 'it is down'}")
        # The latest epoch wins; among equal epochs the known primary, or else always the same one.
        primary = max(epochs, key=lambda address: (epochs[address], address == self._primary, address))
        if epochs[primary] > self._config_epoch or self._primary is None:
            self._adopt(primary, epochs[primary])
        return self._primary or primary

    async def _watch(self, sentinel: Redis) -> None:
        failures = 0
        while not self._is_closed:
            try:
                async with sentinel.pubsub() as pubsub:
                    await pubsub.subscribe("+switch-master")
                    while not self._is_closed:
                        view = _View.of(await sentinel.sentinel_master(self._service))
                        # A sentinel that missed the last failover still reports the primary before it.
                        if view is not None and (self._primary is None or view.config_epoch > self._config_epoch):
                            self._adopt(view.primary, view.config_epoch)
                        failures = 0
                        await pubsub.get_message(ignore_subscribe_messages=True, timeout=POLL_SECONDS)
            except Exception as error:  # noqa: BLE001 - after any error the watch goes on, or the next failover would be missed
                logger.debug("a sentinel of %s does not answer: %s", self._service, error)
            failures += 1
            await asyncio.sleep(RECONNECT_DELAYS.compute(failures))

    def _adopt(self, primary: HostPort, config_epoch: int) -> None:
        self._config_epoch = config_epoch
        before, self._primary = self._primary, primary
        if before == primary or self._connections is None:
            return
        self._listen_only_to((primary,))
        if before is not None:
            logger.warning("the primary of %s is now %s:%d, no longer %s:%d", self._service, *primary, *before)
        for connection in self._connections.all:
            connection.leave(RedisConnectionError(f"{self.address} is now {primary[0]}:{primary[1]}"), at_once=True)


@dataclass(frozen=True, slots=True)
class _View:
    """The primary in the reply of a sentinel. Each failover has a greater ``config_epoch``."""

    primary: HostPort
    config_epoch: int

    @classmethod
    def of(cls, state: Any) -> _View | None:
        """Reads a reply; returns None if that sentinel regards the primary as down."""
        # During a failover, its leader reports the old primary with the epoch of the new one.
        if state["is_sdown"] or state["is_odown"] or "failover_in_progress" in state["flags"]:
            return None
        return cls((state["ip"], state["port"]), state["config-epoch"])
