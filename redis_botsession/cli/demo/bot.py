"""A tiny chat bot: commands with aliases, middleware, help. It does no I/O: replies go where the caller wants them."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..._session.live_session import BotSessionHelper

Next = Callable[[], Awaitable[None]]
Handler = Callable[["Context"], Awaitable[None]]
Middleware = Callable[["Context", Next], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote a message."""

    id: str


@dataclass(frozen=True, slots=True)
class Channel:
    """Where a message was written."""

    id: str


@dataclass(frozen=True, slots=True)
class Message:
    """One line from a user: a command with its arguments if it begins with a slash, else plain text."""

    author: Author
    text: str

    @property
    def command(self) -> str | None:
        """The name of the command, without the slash and in lower case; None for plain text."""
        if not self.text.startswith("/"):
            return None
        return next(iter(self._words), "").lower()

    @property
    def args(self) -> str:
        """What follows the name of the command; empty for plain text."""
        return self._words[1].strip() if self._words[1:] else ""

    @property
    def _words(self) -> list[str]:
        return self.text[1:].split(maxsplit=1) if self.text.startswith("/") else []


@dataclass(slots=True)
class Context:
    """What a handler is given.

    Attributes:
        message: What the user wrote.
        channel: Where.
        send: Delivers one reply.
        session: The live session of this user in this channel; ``SessionMiddleware`` sets it.
    """

    message: Message
    channel: Channel
    send: Callable[[str], Awaitable[None]]
    session: BotSessionHelper = field(init=False)

    async def reply(self, text: str) -> None:
        """Answers the user."""
        await self.send(text)


@dataclass(frozen=True, slots=True)
class Command:
    """A command as /help shows it, and what runs it."""

    name: str
    aliases: Sequence[str]
    description: str
    help: str
    handle: Handler

    @property
    def title(self) -> str:
        """The name and the aliases, like ``/confirm (/yes, /ok)``."""
        return f"/{self.name}" + (f" ({', '.join(f'/{alias}' for alias in self.aliases)})" if self.aliases else "")


class Bot:
    """Passes a message through the middleware, in the order it was added, and on to the handler of its command."""

    def __init__(self) -> None:
        self._middleware: list[Middleware] = []
        self._commands: dict[str, Command] = {}
        self.command("help", description="List all commands", help="Use /help, or /help and a name for one command")(self._help)

    def add_middleware(self, middleware: Middleware) -> None:
        """Adds ``await middleware(ctx, call_next)``; one that does not await ``call_next()`` ends the pipeline there."""
        self._middleware.append(middleware)

    def command(
        self,
        name: str,
        *,
        aliases: Sequence[str] = (),
        description: str,
        help: str,  # noqa: A002 - the word bots use
    ) -> Callable[[Handler], Handler]:
        """Registers the decorated handler.

        Args:
            name: What the user types after the slash; lower case.
            aliases: Other names for the same.
            description: One line for the list of commands.
            help: How to use it.

        Raises:
            ValueError: a name or an alias is taken.
        """

        def register(handle: Handler) -> Handler:
            command = Command(name, aliases, description, help, handle)
            for word in (name, *aliases):
                if word in self._commands:
                    raise ValueError(f"/{word} is a name of /{self._commands[word].name} already; take another")
                self._commands[word] = command
            return handle

        return register

    async def handle(self, ctx: Context) -> None:
        """Handles one message. Raises what the middleware and the handler raise."""
        call_next: Next = partial(self._dispatch, ctx)
        for middleware in reversed(self._middleware):
            call_next = partial(middleware, ctx, call_next)
        await call_next()

    async def _dispatch(self, ctx: Context) -> None:
        name = ctx.message.command
        if name is None:
            await ctx.reply("I only know commands. /help lists them.")
        elif name in self._commands:
            await self._commands[name].handle(ctx)
        else:
            await ctx.reply(self._unknown(name))

    def _unknown(self, name: str) -> str:
        meant = difflib.get_close_matches(name, self._commands, n=1)
        hint = f" Did you mean /{meant[0]}?" if meant else ""
        return f"I do not know /{name}.{hint} /help lists all commands."

    async def _help(self, ctx: Context) -> None:
        name = ctx.message.args.lower().removeprefix("/")
        if not name:
            # An alias is another name for the same command; the dict keeps the order they were registered in.
            commands = list({id(command): command for command in self._commands.values()}.values())
            width = max(len(command.title) for command in commands)
            await ctx.reply("\n".join(f"{command.title:{width}}  {command.description}" for command in commands))
        elif name in self._commands:
            command = self._commands[name]
            await ctx.reply(f"{command.title}: {command.description}.\n{command.help}.")
        else:
            await ctx.reply(self._unknown(name))
