"""The store without asyncio, for threads: handlers of Flask, Slack Bolt or pyTelegramBotAPI, and scripts::

    from redis_botsession.sync import SessionStore

    store = SessionStore.from_url("redis://localhost:6379/0")
    with store.session(user_id, channel_id) as session:
        session.data["step"] = "email"

Its methods are those of ``redis_botsession.SessionStore`` without ``await``, and run the same code.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast

import redis
import redis.sentinel

from ._codec.codec import DEFAULT_MAX_BYTES, Codec
from ._protocol.commands import Commands
from ._protocol.durability import DEFAULT_WAIT, durability_of
from ._session.live_session import LiveSession, LiveStore
from ._session.record import BotSession, Id, Loaded
from ._session.times import DEFAULT_TTL, TTL
from ._store.base import DEFAULT_ATTEMPTS, BotSessionStore
from ._store.command_store import CommandStore
from ._transport.options import DEFAULT_PREFIX, MAX_CONCURRENCY, Options, SyncStoreOptions
from ._transport.without_event_loop import BlockingExecutor, iterate, run, turn_at

__all__ = ["BotSessionHelper", "SessionStore"]

P = ParamSpec("P")
T = TypeVar("T")


class _BlockingStore(CommandStore):
    """A store whose coroutines run to their end without suspending, since its executor blocks the thread instead."""

    def _turn(self, turn: tuple[int, str]) -> AbstractAsyncContextManager[Any]:
        return turn_at(turn)

    async def _pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - the thread is what waits here; there is no event loop


def _blocking(
    method: Callable[Concatenate[BotSessionStore, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SessionStore, P], T]:
    """A method of the asynchronous store as one of the synchronous store, with its signature and its docstring."""

    @wraps(method)
    def call(self: SessionStore, *args: P.args, **options: P.kwargs) -> T:
        result: T = run(getattr(self._store, method.__name__)(*args, **options))
        return result

    return cast("Callable[Concatenate[SessionStore, P], T]", call)


class BotSessionHelper(LiveSession):
    """The live session without ``await``. It is for one thread at a time, as its ``data`` is."""

    __slots__ = ("_lock",)

    def __init__(self, store: LiveStore, loaded: Loaded) -> None:
        super().__init__(store, loaded)
        # For threads that share a live session in spite of that: the code below this class knows of no other threads.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, store: LiveStore, user_id: Id, channel_id: Id) -> Self:
        """Loads the session and renews its rolling TTL, in one round trip. If there is none, returns an empty one."""
        return run(cls._load(store, user_id, channel_id))

    def update(self, changes: Mapping[str, Any]) -> None:
        """Merges ``changes`` into ``data`` and saves; see ``redis_botsession.BotSessionHelper.update``."""
        with self._lock:
            run(self._update(changes))

    def save(self) -> None:
        """Writes what has changed since the load or the last save; see ``redis_botsession.BotSessionHelper.save``."""
        with self._lock:
            run(self._save())

    def delete(self) -> None:
        """Removes the session; see ``redis_botsession.BotSessionHelper.delete``."""
        with self._lock:
            run(self._delete())


class _Handling(AbstractContextManager[BotSessionHelper]):
    """What ``store.session`` returns: loads a session, and saves what has changed unless the block raised."""

    def __init__(self, store: LiveStore, user_id: Id, channel_id: Id) -> None:
        self._store = store
        self._ids = user_id, channel_id
        self._helper: BotSessionHelper | None = None

    def __enter__(self) -> BotSessionHelper:
        self._helper = BotSessionHelper.load(self._store, *self._ids)
        return self._helper

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None and self._helper is not None:
            self._helper.save()

    if not TYPE_CHECKING:  # a type checker shall still refuse "async with"

        async def __aenter__(self):
            raise TypeError(
                "store.session(...) of the synchronous store needs a plain 'with'; "
                "for 'async with' use redis_botsession.SessionStore"
            )

        async def __aexit__(self, *_):
            """Is never called, since ``__aenter__`` raises; the ``async with`` statement looks it up."""


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
        self._store = _BlockingStore(commands, executor)
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

    @property
    def unwrapped(self) -> BotSessionStore:
        """The store as coroutines that never suspend, for adapters that share their code with asyncio."""
        return self._store

    def key(self, user_id: Id, channel_id: Id) -> str:
        """The key of a session, as ``redis-cli`` takes it."""
        return self._store.key(user_id, channel_id)

    load = _blocking(BotSessionStore.load)
    write = _blocking(BotSessionStore.write)
    get = _blocking(BotSessionStore.get)
    set = _blocking(BotSessionStore.set)
    update = _blocking(BotSessionStore.update)
    update_and_get = _blocking(BotSessionStore.update_and_get)
    replace = _blocking(BotSessionStore.replace)
    discard = _blocking(BotSessionStore.discard)
    touch = _blocking(BotSessionStore.touch)
    delete = _blocking(BotSessionStore.delete)
    clear = _blocking(BotSessionStore.clear)
    channels = _blocking(BotSessionStore.channels)
    size = _blocking(BotSessionStore.size)
    ping = _blocking(BotSessionStore.ping)

    def modify(
        self, user_id: Id, channel_id: Id, fn: Callable[[BotSession], None], *, attempts: int = DEFAULT_ATTEMPTS
    ) -> BotSession:
        """Does what ``redis_botsession.SessionStore.modify`` does, with a plain function ``fn``.

        Threads of this process take turns at one session.
        """

        def checked(session: BotSession) -> Any:
            result: object = fn(session)  # type: ignore[func-returns-value] # a caller without type checks may return something
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("modify() of the synchronous SessionStore takes a plain function, not a coroutine function")
            return result

        return run(self._store.modify(user_id, channel_id, checked, attempts=attempts))

    def scan(self) -> Iterator[tuple[str, str]]:
        """Yields every (user_id, channel_id) once; see ``redis_botsession.BotSessionStore.scan``."""
        return iterate(self._store.scan())

    def session(self, user_id: Id, channel_id: Id) -> AbstractContextManager[BotSessionHelper]:
        """The live session for the length of a ``with``: loads it, and saves what has changed at the end.

        After an exception nothing is saved. Raises what ``get`` and ``BotSessionHelper.save`` raise.
        """
        return _Handling(self._store, user_id, channel_id)

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
