"""A bot for Discord with discord.py: a dialog in a live session, and a counter that keeps every message.

Run it from a checkout::

    pip install ".[embedded]" discord.py
    botsession server &                   # or any Redis; set REDIS_URL if it is not on localhost
    DISCORD_TOKEN=... python examples/discord_bot.py

The bot needs the privileged intent "message content", see https://discord.com/developers/applications.
"""

from __future__ import annotations

import asyncio
import os

import discord

from redis_botsession import BotSession, SessionStore


def add_one(session: BotSession) -> None:
    session.data["count"] = session.data.get("count", 0) + 1


class Bot(discord.Client):
    """Answers each message.

    Args:
        store: Where the sessions are. It stays the caller's: closing the client does not close it.
    """

    def __init__(self, store: SessionStore) -> None:
        super().__init__(intents=discord.Intents(guilds=True, messages=True, message_content=True))
        self.store = store

    async def on_message(self, message: discord.Message) -> None:
        if not message.author.bot:
            # The answer is sent when the session is saved.
            await message.channel.send(await self.answer(message.author.id, message.channel.id, message.content))

    async def answer(self, user_id: int, channel_id: int, text: str) -> str:
        if text == "!count":
            session = await self.store.modify(user_id, channel_id, add_one)
            return f"count {session.data['count']}"
        async with self.store.session(user_id, channel_id) as live:
            if live.data.get("step") == "name":
                live.data.update(step="done", name=text)
                return f"Nice to meet you, {text}!"
            live.data["step"] = "name"
            return "What is your name?"


async def main() -> None:
    discord.utils.setup_logging()
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    async with SessionStore.from_url(url, prefix="discord_bot:") as store, Bot(store) as bot:
        await bot.start(os.environ["DISCORD_TOKEN"])


if __name__ == "__main__":
    asyncio.run(main())
