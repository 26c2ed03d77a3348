"""The session loader and auto-save around a handler."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ._session.live import BotSessionHelper
from ._session.record import Id
from ._session.store import BotSessionStore
from .errors import SessionGone

T = TypeVar("T")

logger = logging.getLogger(__name__)


def author_and_channel(ctx: Any) -> tuple[Id, Id]:
    """The ids of ``ctx.message.author.id`` and ``ctx.channel.id``.

    Raises:
        TypeError: ``ctx`` has another shape.
    """
    try:
        return ctx.message.author.id, ctx.channel.id
    except AttributeError as error:
        raise TypeError(
            f"{type(ctx).__name__} has no message.author.id and channel.id ({error}); "
            "tell where the ids are with SessionMiddleware(store, key=lambda ctx: (user_id, channel_id))"
        ) from error


class SessionMiddleware:
    """Gives each handler its session, and saves what the handler has changed.

    ``await middleware(ctx, call_next)`` loads the session (and renews its TTL) into ``ctx.session``, awaits ``call_next()``,
    and saves the changes: one round trip for a session that did not change, two for one that did.

    After an exception nothing is saved. A session that somebody deleted while the handler ran stays deleted: that is logged.

    Args:
        store: Where the sessions are.
        key: From ``ctx`` to (user_id, channel_id), or None for an update that has no session: ``ctx.session`` is None then.
        save_on_error: Also save what the handler had changed before it raised.
    """

    def __init__(
        self,
        store: BotSessionStore,
        *,
        key: Callable[[Any], tuple[Id, Id] | None] = author_and_channel,
        save_on_error: bool = False,
    ) -> None:
        if not isinstance(store, BotSessionStore):
            raise TypeError(f"SessionMiddleware needs a BotSessionStore, not {type(store).__name__}")
        self._store = store
        self._key = key
        self._save_on_error = save_on_error

    async def __call__(self, ctx: Any, call_next: Callable[[], Awaitable[T]]) -> T:
        """Runs the rest of the pipeline; returns what it returns.

        Raises:
            What ``call_next`` raises; what ``store.get`` and ``BotSessionHelper.save`` raise, but for ``SessionGone``.
        """
        ids = self._key(ctx)
        if ids is None:
            ctx.session = None
            return await call_next()
        session = ctx.session = await BotSessionHelper.load(self._store, *ids)
        try:
            result = await call_next()
        except Exception:
            if self._save_on_error:
                await self._save(session)
            raise
        await self._save(session)
        return result

    async def _save(self, session: BotSessionHelper) -> None:
        try:
            await session.save()
        except SessionGone as error:
            logger.warning("changes dropped: session %s was deleted or has expired while its handler ran", error.key)
