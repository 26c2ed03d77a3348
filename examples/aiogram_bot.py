"""A bot for Telegram with aiogram: a form of two questions, a cart, and one message of a user at a time.

Run it from a checkout::

    pip install ".[aiogram,embedded]"
    botsession server &                   # or any Redis; set REDIS_URL if it is not on localhost
    BOT_TOKEN=123:abc python examples/aiogram_bot.py

The token comes from https://t.me/BotFather. With polling, Telegram allows one process. With aiogram's webhooks several can
serve the bot, and this code stays as it is.
"""

from __future__ import annotations

import os

from aiogram import Bot, Dispatcher, F, Router
from aiogram.filters import Command, CommandObject
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.types import Message

from redis_botsession.adapters.aiogram import BotSessionStorage


class Form(StatesGroup):
    name = State()
    email = State()


async def start(message: Message, state: FSMContext) -> None:
    await state.set_state(Form.name)
    await message.answer("What is your name?")


async def cancel(message: Message, state: FSMContext) -> None:
    await state.clear()
    await message.answer("Forgotten.")


async def name(message: Message, state: FSMContext) -> None:
    await state.update_data(name=message.text)
    await state.set_state(Form.email)
    await message.answer("What is your email?")


async def email(message: Message, state: FSMContext) -> None:
    data = await state.update_data(email=message.text)
    await state.set_state(None)
    await message.answer(f"Saved: {data['name']}, {data['email']}")


async def add_to_cart(message: Message, state: FSMContext, command: CommandObject) -> None:
    """Adds to a list. This is safe because the dispatcher lets in one message of a user at a time, across all processes."""
    cart = [*(await state.get_data()).get("cart", []), command.args or "apple"]
    await state.update_data(cart=cart)
    await message.answer(f"In your cart: {', '.join(cart)}")


def make_dispatcher(url: str, prefix: str = "aiogram_bot:") -> Dispatcher:
    """Puts the bot together. The dispatcher closes the storage when it shuts down."""
    storage = BotSessionStorage.from_url(url, prefix=prefix)
    router = Router()
    router.message.register(start, Command("start"))
    router.message.register(cancel, Command("cancel"))
    router.message.register(add_to_cart, Command("cart"))
    router.message.register(name, Form.name, F.text)
    router.message.register(email, Form.email, F.text)
    dispatcher = Dispatcher(storage=storage, events_isolation=storage.create_isolation())
    dispatcher.include_router(router)
    return dispatcher


if __name__ == "__main__":
    dispatcher = make_dispatcher(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
    dispatcher.run_polling(Bot(os.environ["BOT_TOKEN"]))
