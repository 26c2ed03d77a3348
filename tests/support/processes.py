"""Kills and pauses a server's process, and finds a free port."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from redis_botsession.embedded import LocalServer


def free_port() -> int:
    """Returns a port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def paused(server: LocalServer) -> Iterator[None]:
    """Stops the server's process (SIGSTOP) within the block: its connections stay open, and no request is served."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def kill(server: LocalServer) -> None:
    """Ends the server with SIGKILL and waits until it is gone."""
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
