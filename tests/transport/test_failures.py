"""Hints in the errors of connections that cannot be made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_botsession import SessionStore, sync
from redis_botsession._transport.connection_errors import hinted

from ..support.processes import free_port


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_refused_on_localhost_hints_at_a_server_to_start(host: str) -> None:
    url = f"redis://{host}:{free_port()}"
    async with SessionStore.from_url(url, timeout=0.2) as store:
        with pytest.raises(redis.ConnectionError, match="start one with `botsession server`"):
            await store.get("u", "c")
    with sync.SessionStore.from_url(url) as threads, pytest.raises(redis.ConnectionError, match="botsession server"):
        threads.get("u", "c")


@pytest.mark.parametrize("host", ["10.1.2.3", "db.example"])
def test_refused_elsewhere_has_no_hint(host: str) -> None:
    error = redis.ConnectionError("refused")
    error.__context__ = ConnectionRefusedError(111, "refused")
    assert str(hinted(error, {"host": host}, is_tls=False)) == "refused"


def test_hinted_keeps_wrong_passwords_as_they_are() -> None:
    error = redis.AuthenticationError("Connection closed by server.")
    assert str(hinted(error, {}, is_tls=False)) == "Connection closed by server."


@asynccontextmanager
async def listening(*, takes: int | None) -> AsyncIterator[int]:
    """A port where each connection is closed after at most so many bytes, or is left without an answer."""
    ends = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(takes or 1)
        if takes is None:
            await ends.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ends.set()
        server.close()


@pytest.mark.parametrize("takes", [1, 65536], ids=["reset", "closed"])
async def test_closed_at_once_hints_at_tls(takes: int) -> None:
    async with listening(takes=takes) as port, SessionStore.from_url(f"redis://127.0.0.1:{port}", timeout=0.5) as store:
        with pytest.raises(redis.ConnectionError, match=r"expect TLS \(rediss://\)\?"):
            await store.get("u", "c")


@pytest.mark.parametrize("options", [{"timeout": 0.3}, {"timeout": 1.0, "socket_connect_timeout": 0.2}])
async def test_silent_with_tls_hints_at_no_tls(options: dict[str, Any]) -> None:
    async with listening(takes=None) as port, SessionStore.from_url(f"rediss://127.0.0.1:{port}", **options) as store:
        with pytest.raises(redis.TimeoutError, match=r"expect no TLS \(redis://\)\?"):
            await store.get("u", "c")


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_from_url_names_a_missing_file(name: str, scheme: str, tmp_path: Path) -> None:
    missing: Any = {name: str(tmp_path / "nope.pem")}
    with pytest.raises(ValueError, match=rf"{name}: cannot read '.*nope.pem': No such file"):
        SessionStore.from_url(f"{scheme}://localhost/", **missing)
    with pytest.raises(ValueError, match=rf"{name}: cannot read '.*nope.pem': No such file"):
        sync.SessionStore.from_url(f"rediss://localhost/?{name}={missing[name]}")
