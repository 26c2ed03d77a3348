"""The middleware that loads a session before a handler and saves it afterwards."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ._session.live_session import BotSessionHelper
from ._session.record import Id
from ._store.base import BotSessionStore
from .errors import SessionGone

T = TypeVar("T")

logger = logging.getLogger(__name__)


def author_and_channel(ctx: Any) -> tuple[Id, Id]:
    """Returns ``ctx.message.author.id`` and ``ctx.channel.id``, the default ``key`` of ``SessionMiddleware``.

    Raises:
        TypeError: ``ctx`` has another shape.
    """
    try:
        return ctx.message.author.id, ctx.channel.id
    except AttributeError as error:
        raise TypeError(
            f"{type(ctx).__name__} has no message.author.id and channel.id ({error}); "
            "say where the ids are: SessionMiddleware(store, key=lambda ctx: (user_id, channel_id))"
        ) from error


class SessionMiddleware:
    """Loads a session for each handler, and saves what the handler has changed.

    ``await middleware(ctx, call_next)`` loads the session (and renews its TTL) into ``ctx.session``, awaits ``call_next()``,
    and saves the changes: one round trip for a session that did not change, two for one that did.

    If the handler raises, nothing is saved. A session that was deleted while the handler ran stays deleted; its changes are
    dropped, and that is logged.

    Args:
        store: The store of the sessions.
        key: Returns (user_id, channel_id) for ``ctx``, or None for an update without a session: ``ctx.session`` is None then.
        save_on_error: Also save what the handler had changed before it raised.

    Raises:
        TypeError: ``store`` is no store.
    """

    def __init__(
        self,
        store: BotSessionStore,
        *,
        key: Callable[[Any], tuple[Id, Id] | None] = author_and_channel,
        save_on_error: bool = False,
    ) -> None:
        if not isinstance(store, BotSessionStore):
            kind = f"{type(store).__module__}.{type(store).__name__}"
            raise TypeError(f"SessionMiddleware needs a BotSessionStore, like redis_botsession.SessionStore, not {kind}")
        self._store = store
        self._key = key
        self._save_on_error = save_on_error

    async def __call__(self, ctx: Any, call_next: Callable[[], Awaitable[T]]) -> T:
        """Loads the session, awaits ``call_next()`` and saves; returns what ``call_next`` returns.

        Raises:
            What ``call_next`` raises; what ``store.load`` and ``BotSessionHelper.save`` raise, except ``SessionGone``.
            TypeError: ``key`` returned something else than two ids or None.
        """
        ids = self._key(ctx)
        if ids is None:
            ctx.session = None
            return await call_next()
        if not isinstance(ids, tuple) or len(ids) != 2:
            raise TypeError(f"key of SessionMiddleware must return (user_id, channel_id) or None, not {type(ids).__name__}")
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
