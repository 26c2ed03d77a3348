"""Runs the demo bot in a terminal or a pipe."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

import redis

from ...errors import SessionError
from .backend import Backend, CannotStart, open_backend
from .bot import Author, Channel, Context, Message
from .console import Step, Terminal
from .flows import make_bot
from .loop import Loop
from .profiles import RedisProfiles
from .watch import Stored, compare, look

#: What a shell adds to the number of the signal that has ended a program.
SIGNALLED = 128


class Chat:
    """The bot, and one user who talks to it in one channel."""

    def __init__(self, backend: Backend, user: str, channel: str) -> None:
        self._backend = backend
        self._user = user
        self._channel = channel
        self._shown: Stored | None = None
        self._bot = make_bot(backend.store, RedisProfiles(backend.client))
        self._bot.command("quit", aliases=["exit"], description="Leave the demo", help="Use /quit, or Ctrl-D")(self._quit)
        #: Whether the user wants to leave.
        self.is_over = False
        #: Whether a message could not be handled.
        self.has_failed = False

    async def say(self, text: str) -> Step:
        """Gives the bot a message, and looks what that has done to the session."""
        replies: list[str] = []

        async def send(reply: str) -> None:
            replies.append(reply)

        store = self._backend.store
        store.calls.clear()
        try:
            await self._bot.handle(Context(Message(Author(self._user), text.strip()), Channel(self._channel), send))
            calls = tuple(store.calls)
            now = await look(store, self._backend.client, self._user, self._channel)
        except SessionError:
            # Raised by look: the bot itself has already reported its own errors.
            self.has_failed = True
            return Step(replies)
        except (redis.RedisError, OSError) as error:
            self.has_failed = True
            return Step(replies, problem=str(error) or type(error).__name__)
        rows = compare(self._shown or now, now)
        self._shown = now
        return Step(replies, rows, now, calls)

    async def _quit(self, ctx: Context) -> None:
        self.is_over = True
        await ctx.reply("Goodbye. Your session is kept." if self._backend.lasting and ctx.session.version else "Goodbye.")


def run(*, url: str | None, data: Path | None, user: str, channel: str) -> int:
    """Runs the demo until the user leaves or the input ends.

    Args:
        url: A Redis to run on; default: what REDIS_URL names, else a server of the demo's own.
        data: The directory for the data of that server; default: one in the user's XDG_STATE_HOME.
        user: The id of the user who talks.
        channel: The id of the channel.

    Returns:
        The exit status: 0; 1 if there is nothing to run on, or a message in a pipe could not be handled; 128 and the number
        of the signal that has ended it, so 130 after Ctrl-C.
    """
    # The demo prints its own messages about connections, so log records need no handler.
    logging.getLogger("redis_botsession").addHandler(logging.NullHandler())
    terminal = Terminal()
    loop = Loop()
    try:
        with loop, ExitStack() as stack:
            backend = open_backend(stack, loop, url, data)
            # The first thing that happens at the end: nothing interrupts the rest.
            stack.callback(loop.ignore_signals)
            terminal.note(backend.notes)
            return _talk(loop, terminal, Chat(backend, user, channel))
    except CannotStart as error:
        terminal.fail(str(error))
        return 1
    except KeyboardInterrupt:
        terminal.end()
        return SIGNALLED + loop.signal


def _talk(loop: Loop, terminal: Terminal, chat: Chat) -> int:
    loop.has_begun = True
    if terminal.interactive:
        terminal.note("/help lists the commands; /quit, Ctrl-D or Ctrl-C leaves.")
    terminal.show(loop.run(chat.say("/start")))
    while not chat.is_over:
        line = loop.wait(terminal.read)
        if line is None:
            break
        if line.strip():
            terminal.show(loop.run(chat.say(line)))
    return 1 if chat.has_failed and not terminal.interactive else 0
