"""rediss:// against a real TLS server, which may want to see a certificate of the client."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import redis
import trustme
import uvloop

from redis_botsession import SessionStore
from redis_botsession.embedded import LocalServer, ServerFailed
from redis_botsession.testing.harness import eventually, load

from ..support.processes import free_port
from ..support.redis_servers import CI, WHEELS
from ..support.topologies import SLOTS

#: What a server says of a certificate that it does not take, or does not get. It closes the connection, too: the client may see
#: that first, when it has written something.
ALERTS = r"(?i)alert.(certificate.required|unknown.ca)"
#: Seconds within which a refusal that is told at once has been told, on the slowest machine.
AT_ONCE = 3.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: ca.pem; cert.pem and key.pem of a server; bot.pem and bot.key of a client; stranger.* from another CA."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, another = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for cert, key, issued in (
        ("cert.pem", "key.pem", authority.issue_cert("127.0.0.1")),
        ("bot.pem", "bot.key", authority.issue_cert(common_name="bot")),
        ("stranger.pem", "stranger.key", another.issue_cert(common_name="bot")),
    ):
        issued.private_key_pem.write_to_path(str(folder / key))
        issued.cert_chain_pems[0].write_to_path(str(folder / cert))
    return folder


@contextmanager
def tls_server(certificates: Path, *more: str) -> Iterator[str]:
    """A server with TLS and these options, and where it listens for that."""
    # The one server among those of the tests that is built with TLS.
    server = next(server for server in WHEELS if server.id == "redis-7.4")
    port = free_port()
    options = [
        *("--tls-port", str(port), "--tls-ca-cert-file", str(certificates / "ca.pem")),
        *("--tls-cert-file", str(certificates / "cert.pem"), "--tls-key-file", str(certificates / "key.pem")),
    ]
    try:
        binary, env = server.locate()
        local = LocalServer(binary, env=env, tcp=True, options=[*options, *more])
        local.start()
    except (OSError, subprocess.CalledProcessError, ServerFailed) as error:
        if CI:
            pytest.fail(f"no server with TLS: {error}")
        pytest.skip(f"no server with TLS: {error}")
    try:
        yield f"rediss://127.0.0.1:{port}/0"
    finally:
        local.stop()


@pytest.fixture
def tls_url(certificates: Path) -> Iterator[str]:
    """A server that takes any client."""
    with tls_server(certificates, "--tls-auth-clients", "no") as url:
        yield url


@pytest.fixture
def strict_url(certificates: Path) -> Iterator[str]:
    """A server that wants a certificate of its own CA from each client."""
    with tls_server(certificates, "--tls-auth-clients", "yes") as url:
        yield url


def as_client(certificates: Path, name: str | None = "bot") -> dict[str, Any]:
    """The options for a client: the CA to trust, and a certificate, if it has one."""
    own = {} if name is None else {"ssl_certfile": f"{certificates / name}.pem", "ssl_keyfile": f"{certificates / name}.key"}
    return {"ssl_ca_certs": str(certificates / "ca.pem"), **own}


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_tls_store_works(loop: Callable[[], asyncio.AbstractEventLoop], tls_url: str, certificates: Path) -> None:
    async def use() -> None:
        async with SessionStore.from_url(tls_url, ssl_ca_certs=str(certificates / "ca.pem")) as store:
            await asyncio.gather(*(store.update(user, "c", {"n": user, "raw": b"x" * 200_000}) for user in range(20)))
            sessions = await asyncio.gather(*(store.get(user, "c", touch=True) for user in range(20)))
            assert [session and session.data["n"] for session in sessions] == list(range(20))

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(use())


async def test_tls_refuses_an_unknown_certificate(tls_url: str) -> None:
    async with SessionStore.from_url(tls_url) as store:
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await store.update("u", "c", {"n": 1})


async def test_tls_server_hints_at_its_scheme(tls_url: str) -> None:
    async with SessionStore.from_url(tls_url.replace("rediss", "redis"), timeout=0.5) as store:
        with pytest.raises(redis.ConnectionError, match=r"expect TLS \(rediss://\)\?"):
            await store.get("u", "c")


async def test_tls_client_shows_its_certificate(strict_url: str, certificates: Path) -> None:
    options = as_client(certificates)
    async with SessionStore.from_url(strict_url, **options) as store:
        await store.update("u", "c", {"n": 1})
    # What the URL says wins.
    others = as_client(certificates, "stranger")
    async with SessionStore.from_url(f"{strict_url}?{urlencode(options)}", **others) as store:
        assert (await load(store)).data == {"n": 1}
    async with redis.asyncio.Redis.from_url(strict_url, **options) as client:
        assert (await load(SessionStore(client))).data == {"n": 1}


@pytest.mark.parametrize("name", [None, "stranger"])
async def test_tls_client_without_certificate_gets_nothing(name: str | None, strict_url: str, certificates: Path) -> None:
    async with SessionStore.from_url(strict_url, timeout=0.5, **as_client(certificates, name)) as store:
        with pytest.raises(redis.ConnectionError):
            await store.update("u", "c", {"n": 1})
    async with SessionStore.from_url(strict_url, **as_client(certificates)) as store:
        assert await store.get("u", "c") is None


@pytest.mark.parametrize("name", [None, "stranger"])
async def test_tls_client_without_certificate_fails_at_once(name: str | None, strict_url: str, certificates: Path) -> None:
    async with SessionStore.from_url(strict_url, timeout=3600, **as_client(certificates, name)) as store:
        with pytest.raises(redis.ConnectionError, match=ALERTS):
            async with asyncio.timeout(AT_ONCE):
                await store.update("u", "c", {"n": 1})


async def test_tls_cluster_works(certificates: Path) -> None:
    options = as_client(certificates)
    bus = ("--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", str(free_port()))
    with tls_server(certificates, "--tls-auth-clients", "yes", *bus) as url:
        with redis.Redis.from_url(url, decode_responses=True, **options) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)

            async def is_up() -> bool:
                return "cluster_state:ok" in client.execute_command("CLUSTER", "INFO")

            await eventually(is_up)
        cluster_url = f"rediss+cluster://{urlsplit(url).netloc}/"
        for store_url, arguments in ((cluster_url, options), (f"{cluster_url}?{urlencode(options)}", {})):
            async with SessionStore.from_url(store_url, **arguments) as store:
                await asyncio.gather(*(store.update(user, "c", {"n": user}) for user in range(20)))
                assert await store.size() == 20
        async with SessionStore.from_url(cluster_url, timeout=0.5, **as_client(certificates, None)) as store:
            with pytest.raises(redis.ConnectionError):
                await store.get("u", "c")
