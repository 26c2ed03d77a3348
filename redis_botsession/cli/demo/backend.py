"""What the demo runs on: a redis-server of its own, any Redis, or fakeredis."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ...embedded import LocalServer, ServerFailed, ServerNotFound
from .loop import Loop
from .watch import WatchedStore

#: Seconds until a Redis that does not answer counts as not reachable.
PATIENCE = 5.0
#: Not a bot's own "bot:session:": the demo may be run on a Redis that has one.
PREFIX = "demo:session:"

_BAD_URL = (
    "that is not the URL of a Redis: it is redis://host:port/db, rediss://host:port/db or unix:///path/to/socket, "
    "before the host user:password@ with what is special in them percent-encoded"
)


class CannotStart(Exception):
    """Why the demo cannot be run here, and what to do; for the user to read."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the demo's data are.

    Attributes:
        client: The demo's own client.
        store: The store of the sessions.
        notes: What the user should know about it.
        lasting: Whether the data outlive the demo.
    """

    client: redis.asyncio.Redis
    store: WatchedStore
    notes: str
    lasting: bool


def open_backend(stack: ExitStack, loop: Loop, url: str | None, data: Path | None) -> Backend:
    """Starts or reaches what the demo runs on.

    Args:
        stack: Closes and stops it all at its end.
        loop: Runs what is asynchronous.
        url: A Redis; default: what REDIS_URL names, else a server of the demo's own.
        data: The directory for the data of that server; default: one in the user's XDG_STATE_HOME.

    Raises:
        CannotStart: there is nothing to run on.
    """
    url = url or os.environ.get("REDIS_URL")
    if url:
        notes = f"Redis at {_address(url)}" + ("; --data is not used" if data else "")
    else:
        try:
            url, notes = _start_server(stack, data or _default_data())
        except ServerNotFound as error:
            return _fake(str(error))
    backend = loop.run(_connect(url, notes))
    stack.callback(lambda: loop.run(_close(backend)))
    return backend


def _default_data() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    try:
        home = Path(state) if state else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise CannotStart("there is no home directory for the data; name a directory with --data") from error
    return home / "redis-botsession" / "demo"


def _start_server(stack: ExitStack, data: Path) -> tuple[str, str]:
    """Starts a server that ``stack`` stops; returns its URL, and notes for the user."""
    try:
        server = stack.enter_context(LocalServer(data=data))
    except ServerFailed as error:
        raise CannotStart(
            f"no server with --data {data}: {error}. For two demos on one Redis run botsession server in another terminal, "
            f"and both with --url redis://localhost:6379/0"
        ) from error
    except OSError as error:
        raise CannotStart(f"no server with --data {data}: {error}; name another directory") from error
    return server.url, f"redis-server (pid {server.pid}) at {server.url}\nData in {data}"


def _fake(reason: str) -> Backend:
    # Its scripts need lupa, which comes with the extra, not with fakeredis alone.
    if find_spec("fakeredis") is None or find_spec("lupa") is None:
        raise CannotStart(f'{reason}; nor is there fakeredis. Get both with: pip install "redis-botsession[demo]"')
    import fakeredis

    client = fakeredis.FakeAsyncRedis()
    notes = f"{reason}\nRunning on fakeredis instead: what you enter is gone when you leave."
    return Backend(client, WatchedStore(client, prefix=PREFIX), notes, lasting=False)


async def _connect(url: str, notes: str) -> Backend:
    address = _address(url)
    try:
        async with AsyncExitStack() as stack:
            client = redis.asyncio.Redis.from_url(
                url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, retry=Retry(NoBackoff(), 0)
            )
            stack.push_async_callback(client.aclose)
            store = WatchedStore.from_url(url, prefix=PREFIX, timeout=3)
            stack.push_async_callback(store.aclose)
            await client.ping()
            stack.pop_all()
            return Backend(client, store, notes, lasting=True)
    except (redis.RedisError, OSError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise CannotStart(f"cannot reach Redis at {address}: {reason}. Is it running, and is the URL right?") from error
    except (ValueError, TypeError):
        # Not "from error": the message may quote parts of a password.
        raise CannotStart(_BAD_URL) from None


async def _close(backend: Backend) -> None:
    await backend.store.aclose()
    await backend.client.aclose()


def _address(url: str) -> str:
    """``url`` without user, password and options, for messages.

    Raises:
        CannotStart: it is no URL, or one where the password would end up as something else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise CannotStart(_BAD_URL) from None
    if parts.scheme == "unix" and (not parts.netloc or parts.netloc.endswith("@")):
        return f"unix://{parts.path}"
    if parts.scheme not in ("redis", "rediss") or "@" in parts.path + parts.query or parts.fragment:
        raise CannotStart(_BAD_URL)
    host = parts.hostname or "localhost"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port or 6379}{parts.path.rstrip('/') or '/0'}"
