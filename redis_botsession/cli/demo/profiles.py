"""The demo's database of confirmed profiles, which outlive the session of a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "demo:profile:"


@dataclass(frozen=True, slots=True)
class Profile:
    """What onboarding asks a user for."""

    name: str
    email: str


class Profiles(Protocol):
    """A database of users."""

    async def save_user(self, user_id: str, profile: Profile) -> None:
        """Keeps the profile in place of an older one."""
        ...

    async def load_user(self, user_id: str) -> Profile | None:
        """The profile; None if there is none."""
        ...


class RedisProfiles:
    """Profiles in Redis: a plain hash for each user, at ``demo:profile:<user>``, that never expires.

    Args:
        client: A client that does not decode replies; it stays the caller's.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def save_user(self, user_id: str, profile: Profile) -> None:
        fields: list[str | bytes] = ["name", _bytes(profile.name), "email", _bytes(profile.email)]
        await self._client.hset(_bytes(PREFIX + user_id), items=fields)

    async def load_user(self, user_id: str) -> Profile | None:
        fields: list[Any] = await self._client.hmget(_bytes(PREFIX + user_id), "name", "email")
        if None in fields:
            return None
        return Profile(*map(_text, fields))


def _bytes(text: str) -> bytes:
    # A command line may hold bytes that are not UTF-8, which Python gives as lone surrogates.
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
