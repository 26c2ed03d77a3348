"""The persistence for python-telegram-bot against plain dicts: two processes, whatever they do, in whatever order."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from redis_botsession import MemorySessionStore
from redis_botsession.adapters._ids import Names
from redis_botsession.adapters.telegram import BotSessionPersistence

USER = 42
PROCESSES = st.integers(0, 1)
KEYS = st.sampled_from(("a", "b", ":c", 7, (1, 2), None))
VALUES = st.one_of(st.integers(0, 2), st.builds(lambda: [[0]]), st.just((1,)))
_NOTHING = object()


@dataclass
class Server:
    """What is stored: the data, and which session it is."""

    data: dict[Any, Any] | None = None
    born: int = 0

    def create(self) -> dict[Any, Any]:
        if self.data is None:
            self.data = {}
            self.born += 1
        return self.data


@dataclass
class Process:
    """What one process has: its dict, and what that and the server had in common last.

    Attributes:
        local: The dict.
        base: What both had in common.
        born: Which session that was; 0: none.
        writing: What is being written: changes, and the keys that go.
    """

    local: dict[Any, Any] = field(default_factory=dict)
    base: dict[Any, Any] = field(default_factory=dict)
    born: int = 0
    writing: tuple[dict[Any, Any], set[Any]] | None = None

    def refresh(self, server: Server) -> None:
        if self.born and (server.data is None or server.born != self.born):
            self.local.clear()
            self.base, self.writing = {}, None
        theirs = copy.deepcopy(server.data or {})
        for key in {*theirs, *self.base}:
            if self.local.get(key, _NOTHING) == self.base.get(key, _NOTHING):
                if key in theirs:
                    self.local[key] = theirs[key]
                else:
                    del self.local[key]
        self.base = copy.deepcopy(theirs)
        self.born = 0 if server.data is None else server.born

    def begin(self) -> None:
        changed = {key: copy.deepcopy(now) for key, now in self.local.items() if self.base.get(key, _NOTHING) != now}
        self.writing = changed, {key for key in self.base if key not in self.local}

    def end(self, server: Server) -> None:
        (changed, removed), self.writing = self.writing or ({}, set()), None
        if not changed and not removed:
            return
        is_gone = self.born and (server.data is None or server.born != self.born)
        for data in (self.base,) if is_gone else (self.base, server.create()):
            data.update(copy.deepcopy(changed))
            for key in removed:
                data.pop(key, None)
        self.born = self.born or server.born


class Machine(RuleBasedStateMachine):
    """Each does what PTB has it do: refresh before a message, hand over copies at intervals, drop."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemorySessionStore(ttl=None, cleanup_interval=None)
        self.real = [BotSessionPersistence(self.store, bot_id=777) for _ in range(2)]
        self.dicts: list[dict[Any, Any]] = [{}, {}]
        self.writing: list[Coroutine[Any, Any, None] | None] = [None, None]
        self.server = Server()
        self.model = [Process(), Process()]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    @rule(n=PROCESSES, changes=st.dictionaries(KEYS, VALUES, max_size=3), removed=st.sets(KEYS, max_size=2))
    def message(self, n: int, changes: dict[Any, Any], removed: set[Any]) -> None:
        self.run(self.real[n].refresh_user_data(USER, self.dicts[n]))
        self.model[n].refresh(self.server)
        assert self.dicts[n] == self.model[n].local, "what the handler sees"
        for data in (self.dicts[n], self.model[n].local):
            data.update(copy.deepcopy(changes))
            for key in removed:
                data.pop(key, None)

    @rule(n=PROCESSES, key=KEYS)
    def change_in_place(self, n: int, key: Any) -> None:
        for data in (self.dicts[n], self.model[n].local):
            if isinstance(data.get(key), list):
                data[key][0].append(len(data[key][0]))

    @rule(n=PROCESSES)
    def begin_writing(self, n: int) -> None:
        if self.writing[n] is None:
            self.writing[n] = self.real[n].update_user_data(USER, copy.deepcopy(self.dicts[n]))
            self.model[n].begin()

    @rule(n=PROCESSES)
    def end_writing(self, n: int) -> None:
        coroutine, self.writing[n] = self.writing[n], None
        if coroutine is not None:
            self.run(coroutine)
            self.model[n].end(self.server)
        self.check()

    @precondition(lambda self: None in self.writing)
    @rule(n=PROCESSES)
    def drop(self, n: int) -> None:
        if self.writing[n] is None:
            self.dicts[n] = {}
            self.run(self.real[n].drop_user_data(USER))
            self.server.data = None
            self.model[n] = Process()
        self.check()

    def check(self) -> None:
        session = self.run(self.store.get(USER, "777.user_data"))
        expected = self.server.data
        if session is None:
            assert expected is None
        else:
            assert Names(self.store.codec).unpack(session.data) == expected

    def teardown(self) -> None:
        try:
            for n in range(2):
                self.end_writing(n)
        finally:
            self.loop.close()


def test_persistence_model_two_processes_are_merged_as_plain_dicts_are() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=120, stateful_step_count=30, deadline=None))
