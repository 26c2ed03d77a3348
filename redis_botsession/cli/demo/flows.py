"""The conversations of the demo: a greeting, onboarding in three steps, a cart. Copy what you need into your bot.

A message goes from top to bottom through what ``make_bot`` adds: the session is loaded, middleware and handler read and
change ``ctx.session``, and what they have changed is saved on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ..._session.live_session import BotSessionHelper
from ..._store.base import BotSessionStore
from ...errors import SessionError, SessionGone
from ...middleware import SessionMiddleware
from .bot import Bot, Context, Next
from .profiles import Profile, Profiles

#: How long a cart is kept after the last change to it.
CART_LIFETIME = timedelta(minutes=30)

#: The keys of the session that onboarding uses.
ONBOARDING_KEYS = ("step", "name", "email")


def make_bot(store: BotSessionStore, profiles: Profiles) -> Bot:
    """The whole bot: its pipeline and its commands."""
    bot = Bot()
    bot.add_middleware(explain_session_errors)
    bot.add_middleware(SessionMiddleware(store))
    add_start(bot, profiles)
    add_onboarding(bot, profiles)
    add_cart(bot)
    return bot


async def explain_session_errors(ctx: Context, call_next: Next) -> None:
    """Tells the user what went wrong with the session. It comes before the loader, so it sees loading and saving fail, too."""
    try:
        await call_next()
    except SessionGone:
        await ctx.reply("Your session has just ended: it was deleted, or has expired. /start begins a new one.")
    except SessionError as error:
        await ctx.reply(f"That did not work: {error}.")


def add_start(bot: Bot, profiles: Profiles) -> None:
    """The greeting: for a new user, one we know, and one who comes back in the middle of something."""

    @bot.command("start", description="Say hello", help="Use /start to see where we are")
    async def start(ctx: Context) -> None:
        data = ctx.session.data
        profile = await profiles.load_user(ctx.session.user_id)
        if "step" in data:
            greeting = f"Welcome back. {question(data)}"
        elif profile:
            greeting = f"Welcome back, {profile.name}. /profile shows what I know of you, /help lists all commands."
        else:
            greeting = "Welcome! /onboard sets up your profile, /cart add apple fills a cart, /help lists all commands."
        await ctx.reply(greeting)
        if "cart" in data:
            await ctx.reply(cart_text(data["cart"]))

    @bot.command("profile", description="Show your saved profile", help="Use /profile after /onboard and /confirm")
    async def show_profile(ctx: Context) -> None:
        profile = await profiles.load_user(ctx.session.user_id)
        if profile:
            await ctx.reply(f"Your profile:\n  Name:  {profile.name}\n  Email: {profile.email}")
        else:
            await ctx.reply("You have no profile yet. Use /onboard to set it up.")


def question(data: Mapping[str, Any]) -> str:
    """What onboarding asks at the step it is at."""
    match data["step"]:
        case "name":
            return "Step 1/3: What is your name?"
        case "email":
            return "Step 2/3: What is your email?"
        case _:
            return (
                f"Step 3/3: Please confirm:\n  Name:  {data['name']}\n  Email: {data['email']}\n"
                "Type /confirm to save or /cancel to discard."
            )


def add_onboarding(bot: Bot, profiles: Profiles) -> None:
    """Asks for a name, then for an email, then for a confirmation; other commands work in between."""

    @bot.command(
        "onboard", aliases=["setup"], description="Set up your profile", help="Use /onboard to begin, or to begin again"
    )
    async def onboard(ctx: Context) -> None:
        forget_answers(ctx.session)
        # No deadline of a cart while we talk; see set_deadline. The update saves all three changes at once.
        ctx.session.expires_at = None
        await ctx.session.update({"step": "name"})
        await ctx.reply(question(ctx.session.data))

    bot.add_middleware(take_answer)

    @bot.command("confirm", aliases=["yes", "ok"], description="Save what you have entered", help="Use /confirm at step 3/3")
    async def confirm(ctx: Context) -> None:
        data = ctx.session.data
        if "step" not in data:
            await ctx.reply("No pending confirmation. Use /onboard to start.")
            return
        if data["step"] != "confirm":
            await ctx.reply(f"Not yet. {question(data)}")
            return
        profile = Profile(data["name"], data["email"])
        # First saved, then forgotten: a bot that is stopped in between asks once more, and loses nothing.
        await profiles.save_user(ctx.session.user_id, profile)
        await end_onboarding(ctx.session)
        await ctx.reply(f"Your profile has been saved: {profile.name}, {profile.email}. Welcome aboard!")

    @bot.command("cancel", description="Discard what you have entered", help="Use /cancel to stop the onboarding")
    async def cancel(ctx: Context) -> None:
        if "step" not in ctx.session.data:
            await ctx.reply("There is nothing to cancel.")
            return
        await end_onboarding(ctx.session)
        await ctx.reply("Cancelled; nothing of it was saved. Use /onboard to begin again.")


async def take_answer(ctx: Context, call_next: Next) -> None:
    """Takes plain text for the answer to what onboarding has asked; commands go on to their handlers."""
    step = ctx.session.data.get("step")
    if step is None or ctx.message.command is not None:
        await call_next()
        return
    answer = ctx.message.text
    match step:
        case "name":
            # The answer and the next step in one write: a bot that is stopped here has both or neither of them.
            await ctx.session.update({"name": answer, "step": "email"})
            await ctx.reply(f"Nice to meet you, {answer}! {question(ctx.session.data)}")
        case "email" if not looks_like_email(answer):
            await ctx.reply(f"That does not look like an email address. {question(ctx.session.data)}")
        case "email":
            await ctx.session.update({"email": answer, "step": "confirm"})
            await ctx.reply(question(ctx.session.data))
        case _:
            await ctx.reply("Type /confirm to save your profile or /cancel to discard it.")


def looks_like_email(text: str) -> bool:
    """Whether it is worth sending an email to; only that would prove the address."""
    name, _, domain = text.rpartition("@")
    return bool(name and domain) and " " not in text


def forget_answers(session: BotSessionHelper) -> None:
    """Removes what onboarding has put into the session."""
    for key in ONBOARDING_KEYS:
        session.data.pop(key, None)


async def end_onboarding(session: BotSessionHelper) -> None:
    """Removes onboarding from the session; a cart stays."""
    forget_answers(session)
    set_deadline(session)
    await delete_if_empty(session)


async def delete_if_empty(session: BotSessionHelper) -> None:
    """A session is deleted when the last flow in it is done. What is left in it is saved when the handler returns."""
    if not session.data:
        await session.delete()


def add_cart(bot: Bot) -> None:
    """A cart that is forgotten when it is abandoned."""

    @bot.command(
        "cart",
        description="Show, fill or empty your cart",
        help="Use /cart to see it, /cart add apple to put an apple into it, /cart clear to empty it",
    )
    async def cart(ctx: Context) -> None:
        action, _, item = ctx.message.args.partition(" ")
        item = item.strip()
        match action.lower():
            case "":
                await ctx.reply(cart_text(ctx.session.data.get("cart", {})))
            case "add" if item:
                await add_to_cart(ctx, item)
            case "clear" if not item:
                ctx.session.data.pop("cart", None)
                set_deadline(ctx.session)
                await delete_if_empty(ctx.session)
                await ctx.reply("Your cart is empty.")
            case _:
                await ctx.reply("Use /cart, /cart add apple, or /cart clear.")


async def add_to_cart(ctx: Context, item: str) -> None:
    """Puts one more of ``item`` into the cart."""
    # A nested change in place: seen and saved like any other. Where two handlers may change one key at the same time
    # and both must count, use store.modify.
    items = ctx.session.data.setdefault("cart", {})
    items[item] = items.get(item, 0) + 1
    set_deadline(ctx.session)
    await ctx.session.save()
    kept = "until your onboarding is done" if "step" in ctx.session.data else "for 30 minutes"
    await ctx.reply(f"{cart_text(items)} I keep it {kept}.")


def cart_text(items: Mapping[str, int]) -> str:
    """The cart in words."""
    if not items:
        return "Your cart is empty. Use /cart add apple to put something in."
    return f"Your cart: {', '.join(f'{count} x {item}' for item, count in items.items())}."


def set_deadline(session: BotSessionHelper) -> None:
    """Lets a session that is only a cart expire on its own; the caller, or the auto-save, saves that.

    ``expires_at`` is of the session as a whole. So an onboarding in the same session keeps the cart alive, rather than being
    lost with it half an hour later; the cart's time begins when the onboarding is over.
    """
    only_cart = "cart" in session.data and "step" not in session.data
    session.expires_at = datetime.now(UTC) + CART_LIFETIME if only_cart else None
