"""The demo bot. ``flows`` holds the handlers to copy from; ``botsession demo`` runs them in a terminal."""

from .bot import Author, Bot, Channel, Context, Message
from .flows import make_bot
from .profiles import Profile, Profiles, RedisProfiles

__all__ = ["Author", "Bot", "Channel", "Context", "Message", "Profile", "Profiles", "RedisProfiles", "make_bot"]
