"""An event loop for a program that waits for its user between two coroutines, and is ended by signals."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Loop:
    """Runs coroutines one after the other; Ctrl-C, SIGTERM and SIGHUP (of a closed window) are a ``KeyboardInterrupt``.

    So what is on the stack is cleaned up, whichever of them it was. Use it with ``with``, in the main thread.

    Attributes:
        signal: The number of the last of these signals.
    """

    def __init__(self) -> None:
        self.signal: int = signal.SIGINT
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._before = {number: signal.getsignal(number) for number in _ENDING}

    def __enter__(self) -> Self:
        for number, handler in self._before.items():
            # What is ignored (nohup does that) stays ignored.
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._runner.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs ``work`` to its end; gives its result.

        Raises:
            KeyboardInterrupt: a signal came, and ``work`` was cancelled.
        """
        loop = self._runner.get_loop()
        self._interrupted = False
        self._task = task = loop.create_task(work)
        try:
            result = loop.run_until_complete(task)
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
        else:
            # asyncio.wait_for of Python 3.11 may swallow a cancellation: https://github.com/python/cpython/issues/86296
            if not self._interrupted:
                return result
        finally:
            self._task = None
        raise self._end()

    def ignore_signals(self) -> None:
        """Lets nothing interrupt what comes now."""
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)

    def _end(self) -> KeyboardInterrupt:
        # A closed window may send SIGHUP twice; the second must not interrupt the cleaning up.
        self.ignore_signals()
        return KeyboardInterrupt()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self._task is None:
            raise self._end()
        # Raised here, it would tear apart whatever the loop is doing.
        self._interrupted = True
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)
