"""The synchronous twin of the store, for threads: Flask or Bolt handlers, telebot, scripts.

    from redis_botsession.sync import SessionStore

    store = SessionStore.from_url("redis://localhost:6379/0")
    with store.session(user_id, channel_id) as session:
        session.data["step"] = "email"

Its methods are those of ``redis_botsession.SessionStore`` and do the same; they run the same code.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self, Unpack

import redis
import redis.sentinel

from ._codec.codec import DEFAULT_MAX_BYTES, Codec
from ._protocol.commands import Commands
from ._protocol.durability import DEFAULT_WAIT, durability_of
from ._session.live import Backing, LiveSession
from ._session.record import KEEP, BotSession, Id, Keep
from ._session.times import DEFAULT_TTL, TTL
from ._transport.options import DEFAULT_PREFIX, MAX_CONCURRENCY, Options, SyncStoreOptions
from ._transport.threads import BlockingExecutor, iterate, run, turn_at
from .command_store import CommandStore

__all__ = ["BotSessionHelper", "SessionStore"]


class BlockingCommandStore(CommandStore):
    """A store whose coroutines never suspend, on an executor whose coroutines never do."""

    def _turn(self, turn: tuple[int, str]) -> AbstractAsyncContextManager[Any]:
        return turn_at(turn)

    async def _pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - the thread is what waits here; there is no event loop


class BotSessionHelper(LiveSession):
    """As ``redis_botsession.BotSessionHelper``, without awaiting. For one thread at a time, as its ``data`` is."""

    __slots__ = ("_lock",)

    def __init__(self, store: Backing, session: BotSession, stored: dict[bytes, bytes] | None = None) -> None:
        super().__init__(store, session, stored)
        # Threads that share a helper after all wait for each other here; what is below knows of none.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, store: Backing, user_id: Id, channel_id: Id) -> Self:
        return run(cls._load(store, user_id, channel_id))

    def update(self, changes: Mapping[str, Any]) -> None:
        """As ``BotSessionHelper.update`` of ``redis_botsession``."""
        with self._lock:
            run(self._update(changes))

    def save(self) -> None:
        """As ``BotSessionHelper.save`` of ``redis_botsession``."""
        with self._lock:
            run(self._save())

    def delete(self) -> None:
        """As ``BotSessionHelper.delete`` of ``redis_botsession``."""
        with self._lock:
            run(self._delete())


class SessionStore:
    """Sessions in Redis (6.2 or later) or Valkey, for threads.

    All threads of a process share one. After a fork it can be used, too: redis-py makes new connections then.

    Args:
        client: A ``redis.Redis`` (``Sentinel.master_for`` gives one, too), without ``decode_responses``. It stays yours:
            ``close`` does not close it.
        prefix: As for ``redis_botsession.SessionStore``; so are ``ttl``, ``codec``, ``max_bytes``, ``replicas``, ``fsync`` and
            ``wait_timeout``.
        max_connections: Connections of the client's pool that are used at once; more threads wait for their turn.

    Raises:
        TypeError: an asynchronous client, that of a cluster, or an argument of a wrong type.
        ValueError: a client with ``decode_responses=True``, a bad prefix, TTL or number.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl: TTL = DEFAULT_TTL,
        codec: Codec | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        replicas: int = 0,
        fsync: bool = False,
        wait_timeout: float = DEFAULT_WAIT,
        max_connections: int = MAX_CONCURRENCY,
    ) -> None:
        commands = Commands(prefix=prefix, ttl=ttl, codec=codec or Codec(), max_bytes=max_bytes)
        durability = durability_of(replicas, fsync, wait_timeout)
        executor = BlockingExecutor(client, durability, max_concurrency=max_connections)
        self._store = BlockingCommandStore(commands, executor)
        self._owned: Sequence[redis.Redis] = ()

    @classmethod
    def from_url(cls, url: str, **options: Unpack[SyncStoreOptions]) -> Self:
        """Makes a store with a client of its own, which ``close`` closes.

        Args:
            url: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``, as for ``redis_botsession.SessionStore``.
            **options: Those of the class, and those of redis-py's connections, like ``ssl_ca_certs`` or ``socket_timeout``
                (seconds; 5 unless given). Options in the URL win.

        Raises:
            TypeError: an option that does not exist, or is of a wrong type.
            ValueError: not a Redis URL, that of a cluster, a number that is out of range, a file that cannot be read, or
                ``decode_responses=True``.
        """
        all_options = Options.parse_for_threads(url, options)
        client, *others = _clients_of(all_options)
        store = cls(
            client,
            prefix=all_options.prefix,
            ttl=all_options.ttl,
            codec=all_options.codec,
            max_bytes=all_options.max_bytes,
            replicas=all_options.replicas,
            fsync=all_options.fsync,
            wait_timeout=all_options.wait_timeout,
            max_connections=all_options.max_connections,
        )
        store._owned = [client, *others]
        return store

    def __repr__(self) -> str:
        return f"<sync.{type(self).__name__} prefix={self._store.prefix!r}>"

    @property
    def codec(self) -> Codec:
        """Packs the values."""
        return self._store.codec

    def key(self, user_id: Id, channel_id: Id) -> str:
        """The key of a session, as ``redis-cli`` takes it."""
        return self._store.key(user_id, channel_id)

    def get(self, user_id: Id, channel_id: Id, *, touch: bool = False) -> BotSession | None:
        """As ``BotSessionStore.get``."""
        return run(self._store.get(user_id, channel_id, touch=touch))

    def set(self, user_id: Id, channel_id: Id, session: BotSession, *, expected_version: int | None = None) -> int:
        """As ``BotSessionStore.set``."""
        return run(self._store.set(user_id, channel_id, session, expected_version=expected_version))

    def update(
        self,
        user_id: Id,
        channel_id: Id,
        changes: Mapping[str, Any],
        *,
        remove: Iterable[str] = (),
        expected_version: int | None = None,
        create: bool = True,
        expires_at: datetime | Keep | None = KEEP,
        since_version: int | None = None,
    ) -> int:
        """As ``BotSessionStore.update``."""
        return run(
            self._store.update(
                user_id,
                channel_id,
                changes,
                remove=remove,
                expected_version=expected_version,
                create=create,
                expires_at=expires_at,
                since_version=since_version,
            )
        )

    def update_and_get(
        self, user_id: Id, channel_id: Id, changes: Mapping[str, Any], *, remove: Iterable[str] = (), create: bool = True
    ) -> BotSession | None:
        """As ``BotSessionStore.update_and_get``."""
        return run(self._store.update_and_get(user_id, channel_id, changes, remove=remove, create=create))

    def replace(
        self,
        user_id: Id,
        channel_id: Id,
        data: Mapping[str, Any],
        *,
        keep: Iterable[str] = (),
        create: bool = True,
        drop_empty: bool = False,
    ) -> int:
        """As ``BotSessionStore.replace``."""
        return run(self._store.replace(user_id, channel_id, data, keep=keep, create=create, drop_empty=drop_empty))

    def discard(self, user_id: Id, channel_id: Id, names: Iterable[str]) -> int:
        """As ``BotSessionStore.discard``."""
        return run(self._store.discard(user_id, channel_id, names))

    def modify(self, user_id: Id, channel_id: Id, fn: Callable[[BotSession], None], *, attempts: int = 100) -> BotSession:
        """As ``BotSessionStore.modify``; ``fn`` is a plain function. Threads of this process take turns at one session."""

        def checked(session: BotSession) -> None:
            result: object = fn(session)  # type: ignore[func-returns-value] # somebody may give a coroutine function
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("modify() of the synchronous SessionStore takes a plain function, not a coroutine function")

        return run(self._store.modify(user_id, channel_id, checked, attempts=attempts))

    def touch(self, user_id: Id, channel_id: Id, ttl: TTL = None) -> bool:
        """As ``BotSessionStore.touch``."""
        return run(self._store.touch(user_id, channel_id, ttl))

    def delete(self, user_id: Id, channel_id: Id, *, expected_version: int | None = None) -> bool:
        """As ``BotSessionStore.delete``."""
        return run(self._store.delete(user_id, channel_id, expected_version=expected_version))

    def clear(self, user_id: Id) -> int:
        """As ``BotSessionStore.clear``."""
        return run(self._store.clear(user_id))

    def channels(self, user_id: Id) -> list[str]:
        """As ``BotSessionStore.channels``."""
        return run(self._store.channels(user_id))

    def scan(self) -> Iterator[tuple[str, str]]:
        """As ``BotSessionStore.scan``."""
        return iterate(self._store.scan())

    def size(self) -> int:
        """As ``BotSessionStore.size``."""
        return run(self._store.size())

    @contextmanager
    def _session(self, user_id: Id, channel_id: Id) -> Iterator[BotSessionHelper]:
        helper = BotSessionHelper.load(self._store, user_id, channel_id)
        yield helper
        helper.save()

    def session(self, user_id: Id, channel_id: Id) -> AbstractContextManager[BotSessionHelper]:
        """The live session for the length of a ``with``: loads it, and saves what has changed at the end.

        After an exception nothing is saved. Raises what ``get`` and ``BotSessionHelper.save`` raise.
        """
        return self._session(user_id, channel_id)

    def close(self) -> None:
        """Waits for what is in flight, 5 seconds at most, and refuses what comes after."""
        # For another who closes, too, nothing is left: it would cut off what this one waits for.
        owned, self._owned = self._owned, ()
        try:
            run(self._store.aclose())
        finally:
            for client in owned:
                client.connection_pool.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _clients_of(options: Options) -> list[redis.Redis]:
    """The client of the store, then its clients of the sentinels, if there are any."""
    target = options.target
    pool = {**options.connection_options, "max_connections": options.max_connections}
    if target.kind == "server":
        return [redis.Redis(connection_pool=redis.ConnectionPool(connection_class=options.connection_class, **pool))]
    timeouts = {name: options.connection_options[name] for name in ("socket_timeout", "socket_connect_timeout")}
    manager: Any = redis.sentinel.Sentinel
    manager = manager(target.seeds, sentinel_kwargs={**timeouts, **options.sentinel_options})
    return [manager.master_for(target.service, ssl=target.is_tls, **pool), *manager.sentinels]
