"""Runs work in a fresh process, so that no contender pays for what another has left behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

#: The event loops to choose from.
LOOPS: Final = ("asyncio", "uvloop")


def run(main: Coroutine[Any, Any, T], loop: str) -> T:
    """Runs a coroutine on an event loop of that name."""
    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    return asyncio.run(main)


def to_stderr(work: Callable[..., None], *args: object) -> None:
    """For a process of its own: runs the work with the standard output going where the errors go.

    A library may log there, and the standard output of a run is for its results.
    """
    os.dup2(2, 1)
    work(*args)


def in_child(work: Callable[..., None], *args: object) -> Iterator[Any]:
    """Runs ``work(connection, *args)`` in a process of its own; yields what it sends.

    Raises:
        RuntimeError: the process failed; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=to_stderr, args=(work, theirs, *args))
    process.start()
    theirs.close()
    with ours:
        while True:
            try:
                yield ours.recv()
            except EOFError:
                break
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{work.__name__} ended with status {process.exitcode}")


class Background:
    """Runs ``work(connection)`` beside what happens within ``with``, until it is told to stop.

    Args:
        work: Sends once when it is ready; ends when it receives something, and then sends a result.
        args: More arguments for it.

    Attributes:
        result: What it sent last.
    """

    def __init__(self, work: Callable[..., None], *args: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection: Connection
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=to_stderr, args=(work, theirs, *args))
        self._process.start()
        theirs.close()
        self.result: Any = None

    def __enter__(self) -> Self:
        self._connection.recv()
        return self

    def __exit__(self, *_: object) -> None:
        with self._connection:
            self._connection.send("stop")
            self.result = self._connection.recv()
        self._process.join()
