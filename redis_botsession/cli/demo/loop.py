"""An event loop for a program that waits for its user between two coroutines, and is ended by signals."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Loop:
    """Runs coroutines one after the other; Ctrl-C, SIGTERM and SIGHUP (of a closed window) are a ``KeyboardInterrupt``.

    So what is on the stack is cleaned up, whichever it was. Once ``has_begun``, it is raised by ``run`` and ``wait`` only:
    an exception in the midst of other code can end in a destructor, where Python drops it. Use it with ``with``, in the main
    thread.

    Attributes:
        signal: The number of the last of these signals.
        has_begun: Whether signals have to wait for the next ``run`` or ``wait``.
    """

    def __init__(self) -> None:
        self.signal: int = signal.SIGINT
        self.has_begun = False
        self._is_waiting = False
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
        self._task = task = loop.create_task(work)
        if self._interrupted:
            task.cancel()
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

    def wait(self, for_user: Callable[[], T]) -> T:
        """Waits for the user; gives what ``for_user`` gives.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        self._is_waiting = True
        try:
            if self._interrupted:
                raise self._end()
            return for_user()
        finally:
            self._is_waiting = False

    def ignore_signals(self) -> None:
        """Lets nothing interrupt what comes now."""
        self._interrupted = False
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)

    def _end(self) -> KeyboardInterrupt:
        # A closed window may send SIGHUP twice; the second must not interrupt the cleaning up.
        self.ignore_signals()
        return KeyboardInterrupt()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._interrupted = True
        if self._task is not None:
            # Raised here, it would tear apart whatever the loop is doing.
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        elif self._is_waiting or not self.has_begun:
            raise self._end()
