"""Runs work in a fresh process, so that no contender is slowed down by what another one left in memory."""

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
    """Runs ``work`` with the standard output redirected to the standard error; called in a new process.

    A library may print, and the standard output is for the results of the run.
    """
    os.dup2(2, 1)
    work(*args)


def in_child(work: Callable[..., None], *args: object) -> Iterator[Any]:
    """Runs ``work(connection, *args)`` in a new process; yields the objects that it sends.

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
    """Runs ``work(connection, *args)`` in a new process during a ``with`` block.

    Args:
        work: Sends a message when it is ready; when it receives one, it sends a result and returns.
        args: More arguments for ``work``.

    Attributes:
        result: The result, after the block.
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
