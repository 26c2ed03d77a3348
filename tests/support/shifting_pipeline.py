"""A pipeline with a planted bug: after a cancellation, callers get replies that belong to other calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from redis_botsession._transport.reply_matching import Call, Pipeline, Promise


class ShiftingPipeline(Pipeline):
    """Gives the slot of a cancelled caller to the next caller, so that all later replies go to wrong callers.

    This is the bug of CVE-2023-28858, which showed users the chats of others. Fences do not detect it, because they count the
    slots, and no slot is missing.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.callers: deque[Promise] = deque()
        self.is_taking = False

    def submit(self, call: Call) -> None:
        self.callers.append(call.promise)
        call.promise = _Slot(self, call.promise)
        super().submit(call)

    def take(self) -> bytes:
        self.is_taking = True
        try:
            return super().take()
        finally:
            self.is_taking = False

    def pending(self) -> list[Promise]:
        return [caller for caller in self.callers if not caller.done()]

    def answer(self, give: Callable[[Promise], None]) -> None:
        """Passes the oldest caller that still waits to ``give``."""
        while self.callers:
            caller = self.callers.popleft()
            if not caller.done():
                give(caller)
                return


class _Slot:
    """A promise that gives its result to the oldest waiting caller instead of its own."""

    def __init__(self, pipeline: ShiftingPipeline, caller: Promise) -> None:
        self._pipeline = pipeline
        self._caller = caller

    def done(self) -> bool:
        # Only while requests are taken: a call that is cancelled before it was sent must not be sent.
        return self._pipeline.is_taking and self._caller.done()

    def set_result(self, result: Any, /) -> None:
        self._pipeline.answer(lambda caller: caller.set_result(result))

    def set_exception(self, exception: BaseException, /) -> None:
        self._pipeline.answer(lambda caller: caller.set_exception(exception))
