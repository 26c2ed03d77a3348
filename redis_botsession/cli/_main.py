"""The command line: ``botsession``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from .._codec.codec import DEFAULT_MAX_BYTES
from .._protocol.layout import Keys
from .._session.record import normal_id
from ..store import DEFAULT_PREFIX
from ..version import __version__


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
        # The names only: a value may be a URL with a password.
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
    _add_server(commands)
    _add_doctor(commands)
    _add_migrate(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """An argument parser whose exit status after a mistake in the arguments can be chosen."""

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


def _add_server(commands: argparse._SubParsersAction[_Parser]) -> None:
    server = commands.add_parser(
        "server",
        help="run a local Redis for development",
        description=(
            "Runs a Redis on 127.0.0.1 in the foreground, for development: the server of the extra 'embedded', or a "
            "redis-server or valkey-server on the PATH. It has no password. Ctrl-C ends it."
        ),
        epilog="Exit status: 0 ended by Ctrl-C or SIGTERM, 1 it did not start or has failed, 2 a mistake in the arguments.",
    )
    server.add_argument("--port", type=_port, default=6379, metavar="N", help="where it listens; default: %(default)s")
    server.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the data in this directory; default: they are gone when it ends"
    )
    server.set_defaults(run=_server, parser=server)


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
    # The exit status 2 means a critical finding here.
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
    doctor.add_argument(
        "--ignore",
        type=_checks,
        metavar="CHECK[,CHECK...]",
        default=(),
        help="leave out the findings of these checks, of the exit status too: for monitoring, and for what a provider fixes",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON, failures too")
    doctor.set_defaults(run=_doctor, parser=doctor)


def _add_migrate(commands: argparse._SubParsersAction[_Parser]) -> None:
    migrate = commands.add_parser(
        "migrate",
        help="bring sessions from another storage in Redis to this one",
        description=(
            "Brings sessions from another storage in Redis to this one, with the time that they have left. A session that is "
            "in the target already stays as it is, so this can be stopped, and run again, at any time. It deletes nothing "
            "unless told to, and prints no session data and no password. Stop the bot that writes to the source, or run this "
            "again after: writes of that bot meanwhile may be missed."
        ),
    )
    migrate.set_defaults(parser=migrate)
    kinds = migrate.add_subparsers(title="from", metavar="STORAGE", parser_class=_Parser, required=True)
    aiogram = _add_source(kinds, "aiogram", "aiogram's RedisStorage", prefix="fsm")
    _add_bot(aiogram, with_bot_id=False)
    for name, help_text in (
        ("business-connection-id", "the key builder has with_business_connection_id=True"),
        ("destiny", "the key builder has with_destiny=True, as for aiogram_dialog and scenes"),
    ):
        aiogram.add_argument(f"--with-{name}", action="store_true", help=help_text)
    telebot = _add_source(
        kinds, "telebot", "pyTelegramBotAPI's StateRedisStorage, of TeleBot and AsyncTeleBot", prefix="telebot"
    )
    _add_bot(telebot, with_bot_id=True)
    old = _add_source(kinds, "old-telebot", "pyTelegramBotAPI's StateRedisStorage until its 4.22", prefix="telebot_")
    old.add_argument("--bot-id", type=_positive, metavar="N", required=True, help="the bot, which the keys do not name")
    _add_source(kinds, "json", "JSON at {prefix}{userId}:{channelId}, as in the bot library's example", prefix=DEFAULT_PREFIX)


def _add_source(kinds: argparse._SubParsersAction[_Parser], kind: str, title: str, *, prefix: str) -> _Parser:
    source = kinds.add_parser(
        kind,
        help=title,
        description=f"Brings sessions from {title} to this store.",
        epilog=(
            "Exit status: 0 all well, 1 nothing was found, or some keys were not understood or failed (they are listed), "
            "2 a mistake in the "
            "arguments, 3 it could not go on (no connection, no permission, no memory), 130 stopped by Ctrl-C."
        ),
    )
    source.add_argument(
        "--url",
        help=(
            "the source: redis://, rediss://, unix:// or redis+sentinel://host:port,host:port/service; "
            "default: REDIS_URL in the environment, else redis://localhost:6379/0"
        ),
    )
    source.add_argument("--to", metavar="URL", help="the target, also redis+cluster://; default: the source")
    source.add_argument("--source-prefix", metavar="PREFIX", default=prefix, help="of the keys there; default: %(default)s")
    source.add_argument(
        "--prefix", type=_prefix, default=DEFAULT_PREFIX, help="what the new keys begin with: the store's; default: %(default)s"
    )
    source.add_argument(
        "--ttl",
        type=_seconds,
        metavar="SECONDS",
        help="for sessions without a TTL at the source; default: none, until a bot next uses them",
    )
    source.add_argument(
        "--max-bytes", type=_positive, metavar="N", default=DEFAULT_MAX_BYTES, help="of a session; default: %(default)s"
    )
    source.add_argument("--overwrite", action="store_true", help="replace sessions that are in the target already")
    source.add_argument("--dry-run", action="store_true", help="write and delete nothing; count what would be")
    source.add_argument(
        "--delete-source", action="store_true", help="delete at the source what has been written, if it has not changed since"
    )
    source.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="keep in this file how far it is, and go on from there if there is one; it is removed at the end",
    )
    source.add_argument("--json", action="store_true", help="print JSON, failures too")
    source.set_defaults(run=_migrate, parser=source, kind=kind)
    return source


def _add_bot(source: _Parser, *, with_bot_id: bool) -> None:
    source.add_argument("--separator", type=_text, default=":", help="between the parts of a key; default: %(default)s")
    source.add_argument(
        "--with-bot-id",
        action=argparse.BooleanOptionalAction,
        default=with_bot_id,
        help=f"keys begin with the bot's id, after the prefix; default: they {'do' if with_bot_id else 'do not'}",
    )
    source.add_argument(
        "--bot-id",
        type=_positive,
        metavar="N",
        help="the bot, if the keys do not name one; if they do, keys of other bots are left alone",
    )
    source.add_argument(
        "--threads",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keys may name the topic of a chat; --no-threads where a key can be read in several ways",
    )


def _checks(text: str) -> tuple[str, ...]:
    from .doctor.checks.check_ids import CANNOT_LOOK, CHECKS

    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in CHECKS and not name.startswith(CANNOT_LOOK)]:
        known = ", ".join([*CHECKS, f"{CANNOT_LOOK}..."])
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))}: the checks are {known}")
    return names


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it must not be empty")
    return text


def _positive(text: str) -> int:
    number = _count(text)
    if not number:
        raise argparse.ArgumentTypeError("it must be more than 0")
    return number


def _prefix(text: str) -> str:
    try:
        return Keys(text).prefix
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("it must be a whole number, 0 or more")
    return int(text)


def _port(text: str) -> int:
    number = _positive(text)
    if number > 65535:
        raise argparse.ArgumentTypeError("it must be from 1 to 65535")
    return number


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


def _server(options: argparse.Namespace) -> int:
    from .server import run

    return run(port=options.port, data=options.data)


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import run

    return run(
        url=options.url,
        prefix=options.prefix,
        sample=options.sample,
        timeout=options.timeout,
        as_json=options.json,
        ignore=options.ignore,
    )


def _migrate(options: argparse.Namespace) -> int:
    from .migrate import Options, run

    layout = {
        name: value
        for name, value in (
            ("prefix", options.source_prefix),
            ("separator", getattr(options, "separator", None)),
            ("with_bot_id", getattr(options, "with_bot_id", None)),
            ("with_business_connection_id", getattr(options, "with_business_connection_id", None)),
            ("with_destiny", getattr(options, "with_destiny", None)),
            ("bot_id", getattr(options, "bot_id", None)),
            ("with_threads", getattr(options, "threads", None)),
        )
        if value is not None
    }
    given = Options(
        url=options.url,
        to=options.to,
        prefix=options.prefix,
        ttl=options.ttl,
        max_bytes=options.max_bytes,
        overwrite=options.overwrite,
        delete_source=options.delete_source,
        dry_run=options.dry_run,
        resume=options.resume,
        as_json=options.json,
    )
    return run(options.kind, layout, given)
