"""The layout of the data in Redis: keys, and the names of a session's metadata fields.

    session   {prefix}{{esc(user)}}:esc(channel)
    index     {prefix}{{esc(user)}}
    lease     {prefix}{{esc(user)}}:esc(channel):lock

``esc`` percent-encodes every UTF-8 byte outside ``[A-Za-z0-9._-]``, so a key splits in one way only, and the braces are
the hash tag that puts all keys of a user into one slot of a cluster
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags).

The metadata fields are written by the scripts ``write.lua`` and ``set.lua``, and read by these, ``touch.lua`` and
``delete.lua``; the scripts hold the names as literals. ``replies.py`` reads the fields of a loaded session, and
``memory.py`` keeps the same fields for the memory store.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .._codec.walk import SURROGATES
from .._session.record import Id, normal_id

#: The names of the metadata fields of a session's hash. None is valid UTF-8, so no top-level key has such a name.
VERSION: Final = b"\xffv"
CREATED_AT: Final = b"\xffc"
BORN: Final = b"\xffb"
EXPIRES_AT: Final = b"\xffe"
OWNER: Final = b"\xffo"
SIZE: Final = b"\xffs"

_FORBIDDEN_IN_PREFIX = re.compile(r"[{}*?\[\]\\]")
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")
_AFTER_PREFIX = re.compile(rb"\{([A-Za-z0-9._%-]+)\}:([A-Za-z0-9._%-]+)")


def _escape(text: str) -> bytes:
    if _PLAIN.fullmatch(text):
        return text.encode("ascii")
    # quote() leaves "~" as it is, which is outside of the alphabet of ``esc``.
    return quote_from_bytes(text.encode("utf-8", SURROGATES), safe="").replace("~", "%7E").encode("ascii")


def _unescape(escaped: bytes) -> str:
    return unquote_to_bytes(escaped).decode("utf-8", SURROGATES)


def member(channel_id: str) -> bytes:
    """The member of a user's index for ``channel_id``."""
    return channel_id.encode("utf-8", SURROGATES)


def channel_of(index_member: bytes) -> str:
    """The channel of a member of a user's index."""
    return index_member.decode("utf-8", SURROGATES)


def owner_tag(session_key: bytes) -> bytes:
    """8 bytes of a digest of the key, stored in the session's hash and compared at every load."""
    return blake2b(session_key, digest_size=8).digest()


def slot_of(user_id: str) -> int:
    """The hash slot (0 to 16383) of a Redis Cluster for all keys of a user.

    CRC16 of the hash tag, as in the specification of Redis Cluster.
    """
    return crc_hqx(_escape(user_id), 0) % 16384


@dataclass(slots=True)
class Location:
    """Where a session is: its keys, slot and owner tag.

    Attributes:
        user: The user's id.
        channel: The channel's id.
        session: Key of the session's hash.
        index: Key of the user's index.
        member: The channel in that index.
        owner: The owner tag.
        slot: The hash slot of both keys.
        name: The session key as text, for messages.
    """

    user: str
    channel: str
    session: bytes
    index: bytes
    member: bytes
    owner: bytes
    slot: int
    name: str


class Keys:
    """The keys under one prefix.

    Raises:
        TypeError: ``prefix`` is not a ``str``.
        ValueError: ``prefix`` holds a brace or a glob character.
    """

    def __init__(self, prefix: str) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be str, not {type(prefix).__name__}")
        if bad := _FORBIDDEN_IN_PREFIX.search(prefix):
            raise ValueError(
                f"prefix {prefix!r} must not contain {bad.group()!r}: braces and glob characters would let it meet other keys"
            )
        self.prefix = prefix
        self._prefix = prefix.encode("utf-8", SURROGATES)
        #: MATCH pattern of all session keys under the prefix.
        self.pattern = self._prefix + b"{*}:*"

    def locate(self, user_id: Id, channel_id: Id) -> Location:
        """The location of a session.

        Raises:
            TypeError, ValueError: not ids.
        """
        user = normal_id(user_id, "user_id")
        channel = normal_id(channel_id, "channel_id")
        key = self.session(user, channel)
        name = key.decode("utf-8", "backslashreplace")
        return Location(user, channel, key, self.index(user), member(channel), owner_tag(key), slot_of(user), name)

    def index(self, user_id: str) -> bytes:
        """The key of the sorted set of ``user_id``'s channels."""
        return b"%b{%b}" % (self._prefix, _escape(user_id))

    def session(self, user_id: str, channel_id: str) -> bytes:
        """The key of the hash of one session."""
        return b"%b{%b}:%b" % (self._prefix, _escape(user_id), _escape(channel_id))

    def lease(self, user_id: str, channel_id: str) -> bytes:
        """The key of a session's lease. It is never the key of a session: a colon in a channel id is encoded."""
        return self.session(user_id, channel_id) + b":lock"

    def ids(self, key: bytes) -> tuple[str, str] | None:
        """The (user_id, channel_id) of a session key; None for any other key."""
        if not key.startswith(self._prefix):
            return None
        parts = _AFTER_PREFIX.fullmatch(key, len(self._prefix))
        if parts is None:
            return None
        try:
            ids = _unescape(parts[1]), _unescape(parts[2])
        except UnicodeDecodeError:
            return None
        return ids if self.session(*ids) == key else None
