"""The command line: ``botsession``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from .keys import Keys, normal_id
from .store import DEFAULT_PREFIX
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
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        # Without their values: one may be a URL with a password.
        names = ", ".join(word.partition("=")[0] if word.startswith("-") else "a value" for word in unknown)
        options.parser.error(f"unrecognized arguments: {names}")
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
    parser.set_defaults(run=None, parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _add_demo(commands)
    _add_doctor(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """One whose exit status after a mistake in the arguments can be chosen."""

    mistake = 2

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.mistake, f"{self.prog}: error: {message}\n")


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
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
    demo.set_defaults(run=_demo, parser=demo)


def _add_doctor(commands: argparse._SubParsersAction[_Parser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="examine a Redis server: is it fit to keep sessions?",
        description=(
            "Examines a Redis server as an operator of this store would, and says of each finding why it matters and what "
            "to do. It writes nothing to the server, and prints no session data and no password. Give it the URL that the "
            "bots have: it also looks at what their user may do."
        ),
        epilog=(
            "Exit status, as monitoring systems like Nagios take it: 0 all well (or for information only), 1 warnings, "
            "2 something critical, 3 it could not find out (no connection, wrong password, a mistake in the arguments)."
        ),
    )
    # 2 would be a critical finding.
    doctor.mistake = 3
    doctor.add_argument(
        "--url",
        help=(
            "what to examine: redis://, rediss://, unix://, redis+cluster://host:port,host:port/ or "
            "redis+sentinel://host:port,host:port/service; default: REDIS_URL in the environment, else redis://localhost:6379/0"
        ),
    )
    doctor.add_argument(
        "--prefix", type=_prefix, default=DEFAULT_PREFIX, help="what the store's keys begin with; default: %(default)s"
    )
    doctor.add_argument(
        "--sample",
        type=_count,
        metavar="N",
        default=100,
        help="look at the sizes of at most N sessions, 0 for none; default: %(default)s",
    )
    doctor.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        default=5.0,
        help="how long to wait for a connection, and for each answer; default: %(default)s",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON, failures too")
    doctor.set_defaults(run=_doctor, parser=doctor)


def _prefix(text: str) -> str:
    try:
        return Keys(text).prefix
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("it must be a whole number, 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("it must be a number of seconds, more than 0")
    return seconds


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


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import run

    return run(url=options.url, prefix=options.prefix, sample=options.sample, timeout=options.timeout, as_json=options.json)
