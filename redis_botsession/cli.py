"""The command line: ``botsession``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from .keys import normal_id
from .version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The arguments; default: those of this process.

    Returns:
        The exit status.

    Raises:
        SystemExit: by argparse, after ``--help``, ``--version`` or a mistake in the arguments; by a signal.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] | None = options.run
    if run is None:
        parser.print_help()
        return 0
    try:
        return run(options)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="botsession", description="Sessions of chat bots in Redis.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_demo(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="talk to a bot and watch its session in Redis",
        description=(
            "A bot in this terminal, or in a pipe, that shows after each message what its session in Redis holds. "
            "It starts a redis-server of its own and keeps the data: start it again and it goes on where it was."
        ),
    )
    demo.add_argument("--url", help="run on this Redis instead; default: REDIS_URL in the environment, if it is set")
    demo.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where the server of its own keeps its data; default: ${XDG_STATE_HOME:-~/.local/state}/redis-botsession/demo",
    )
    demo.add_argument("--user", type=_id, metavar="ID", default="you", help="who talks to the bot; default: %(default)s")
    demo.add_argument("--channel", type=_id, metavar="ID", default="console", help="in which channel; default: %(default)s")
    demo.set_defaults(run=_demo)


def _id(text: str) -> str:
    try:
        return normal_id(text, "the id")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _demo(options: argparse.Namespace) -> int:
    if find_spec("rich") is None:
        sys.stderr.write('botsession demo: rich is not installed. Install it with: pip install "redis-botsession[demo]"\n')
        return 1
    from .demo.run import run

    return run(url=options.url, data=options.data, user=options.user, channel=options.channel)
