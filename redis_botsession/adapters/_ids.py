"""Ids and dict keys of a framework as ids and top-level keys of a store, and back; for all adapters.

The mapping is injective: two different ids or keys of the framework never become the same in the store.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .._codec.codec import Codec
from .._codec.walk import SURROGATES

#: The top-level key of a session that holds the state of a framework's state machine, beside the user's data.
STATE: Final = ":state"

_RESERVED: Final = frozenset({STATE})
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")


def channel_of(*parts: str | int, **tagged: str | int | None) -> str:
    """The channel id for a state that a framework keeps apart by several ids.

    ``channel_of(777, -42, t=5, d=None)`` is ``"777.-42.t5"``: the parts with dots between them, then those tagged ones that are
    not None, each with its tag. Other characters than letters, digits, ``_`` and ``-`` are percent-encoded, so it splits in one
    way only.

    Args:
        *parts: Ids that are always there. Their number is fixed for each framework.
        **tagged: Ids that may be missing (None). Each tag is one letter; the order is fixed for each framework.
    """
    optional = [f"{tag}{_escape(value)}" for tag, value in tagged.items() if value is not None]
    return ".".join([*map(_escape, parts), *optional])


def parts_of(channel: str, count: int) -> tuple[list[str], dict[str, str]]:
    """Splits a channel id of ``channel_of`` into ``count`` parts and the tagged ones.

    Raises:
        ValueError: ``channel_of`` never made such a channel.
    """
    words = channel.split(".")
    parts, optional = words[:count], words[count:]
    tagged = {word[:1]: _unescape(word[1:]) for word in optional}
    found = [_unescape(part) for part in parts]
    if channel_of(*found, **tagged) != channel or len(found) != count or "" in tagged:
        raise ValueError(f"{channel!r} is no channel of an adapter with {count} ids")
    return found, tagged


class Names:
    """The keys of a framework's dict, which may be anything that can be stored and hashed, as top-level keys of a session.

    A ``str`` stays as it is, so that ``redis-cli HGETALL`` shows it, unless it begins with a colon: then that is doubled. An
    ``int`` becomes ``:i42``, everything else ``:k`` and its packed form in base64. What else begins with a colon is the
    adapter's own, like ``STATE``.

    Args:
        codec: Packs keys that are no ``str``.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def pack(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        """``data`` under top-level keys.

        Raises:
            SerializationError: a key cannot be stored.
        """
        return {self.name(key): value for key, value in data.items()}

    def unpack(self, data: Mapping[str, Any]) -> dict[Any, Any]:
        """The reverse of ``pack``; leaves out what is the adapter's own."""
        return {self.key(name): value for name, value in data.items() if name not in _RESERVED}

    def name(self, key: Any) -> str:
        """The top-level key for ``key``. Raises what ``pack`` raises."""
        if type(key) is str:
            return f":{key}" if key.startswith(":") else key
        if type(key) is int:
            return f":i{key}"
        (packed,) = self._codec.encode({"the key of a dict": key}).values()
        return f":k{urlsafe_b64encode(packed).decode('ascii')}"

    def key(self, name: str) -> Any:
        """The reverse of ``name``.

        Raises:
            CorruptSession, ValueError: ``name`` never made such a name.
        """
        if not name.startswith(":"):
            return name
        kind, rest = name[1:2], name[2:]
        if kind == ":":
            return name[1:]
        if kind == "i":
            return int(rest)
        if kind == "k":
            (key,) = self._codec.decode({b"the key of a dict": urlsafe_b64decode(rest)}).values()
            return key
        raise ValueError(f"{name!r} is no key of an adapter: a later version of this package may have written it")


def _escape(part: str | int) -> str:
    text = str(part)
    if _PLAIN.fullmatch(text):
        return text
    quoted = quote_from_bytes(text.encode("utf-8", SURROGATES), safe="")
    return quoted.replace(".", "%2E").replace("~", "%7E")


def _unescape(part: str) -> str:
    return unquote_to_bytes(part).decode("utf-8", SURROGATES)
