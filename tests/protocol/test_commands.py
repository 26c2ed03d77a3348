"""Commands against the headers of the scripts that they call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_botsession import BotSession, Codec, Write
from redis_botsession._protocol.commands import Command, Commands
from redis_botsession._protocol.scripts import SCRIPTS

COMMANDS: dict[str, Callable[[Commands], Command[Any]]] = {
    "write": lambda commands: commands.write("u", "c", Write(values={"a": 1, "b": 2}, remove=["x"])),
    "set": lambda commands: commands.set("u", "c", BotSession("u", "c", {"a": 1})),
    "touch": lambda commands: commands.touch("u", "c"),
    "delete": lambda commands: commands.delete("u", "c"),
    "clear": lambda commands: _second(commands),
    "acquire": lambda commands: commands.acquire("u", "c", b"token", 1000),
    "renew": lambda commands: commands.renew("u", "c", b"token", 1000),
    "release": lambda commands: commands.release("u", "c", b"token"),
}


def _second(commands: Commands) -> Command[Any]:
    """The command of the second round trip of ``clear``."""
    flow = commands.clear("u")
    next(flow)
    (command,) = flow.send([[b"c", b"d"]])
    return command


def test_commands_call_every_script() -> None:
    assert COMMANDS.keys() == SCRIPTS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_give_a_script_what_its_header_states(name: str) -> None:
    command = COMMANDS[name](Commands(prefix="p:", ttl=60, codec=Codec(), max_bytes=1 << 20))
    script = SCRIPTS[name]
    assert command.script is script
    _, sha, count, *words = command.args
    assert sha == script.sha
    assert isinstance(count, int)
    for names, given in ((script.keys, words[:count]), (script.args, words[count:])):
        if names and names[-1].endswith("..."):
            assert len(given) >= len(names)
        else:
            assert len(given) == len(names)


def test_script_bind_names_the_arguments() -> None:
    command = Commands(prefix="p:", ttl=60, codec=Codec(), max_bytes=1 << 20).write(
        "u", "c", Write(values={"a": 1}, remove=["x"])
    )
    bound = SCRIPTS["write"].bind(command.args[2:])
    assert bound["session"] == b"p:{u}:c"
    assert bound["ttl_ms"] == 60_000
    assert bound["named"] == 1
    assert bound["fields"] == (b"x", b"a", b"\x01")
