"""Walks through values: packs them, checks types, depth and size, and finds the path of a value that cannot be stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgpack

from .types import ENCODERS, CodecError, Ext

#: How deep containers may be nested in a value.
MAX_DEPTH = 32
#: How text becomes bytes: lone surrogates are legal in a Python str, though not in UTF-8.
SURROGATES = "surrogatepass"
SCALARS = frozenset({type(None), bool, int, float, str, bytes})
#: Types whose values never change, and hold no values that could.
IMMUTABLE: frozenset[type] = SCALARS.union(ENCODERS)
CONTAINER_TYPES: frozenset[type] = frozenset({dict, list, tuple, set, frozenset})
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_KEY_TYPES = frozenset({str, int, bytes})
#: Characters of a key that a message shows.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Registered:
    """A type that was registered: its stored name, and its hooks."""

    tag: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class TooManyBytesError(Exception):
    """A value takes more bytes than the limit."""


class Packing:
    """Packs the values of calls of ``encode``, one call after the other."""

    def __init__(self, by_type: Mapping[type, Registered], leaves: frozenset[type]) -> None:
        self._by_type = by_type
        self._leaves = leaves
        self.start(0)
        self._pack = self._packer()

    def start(self, max_bytes: int) -> None:
        """Begins a call whose values may take ``max_bytes`` in all."""
        self.max_bytes = max_bytes
        self._depth = 0
        # Bytes packed at each depth. Those of one depth end up side by side, so each sum is a lower bound of the size.
        self._packed = [0] * (MAX_DEPTH + 1)

    def pack(self, value: Any) -> bytes:
        """Packs a value.

        Raises:
            CodecError: it has a type or a depth that cannot be stored.
            TooManyBytesError: it takes more than the limit.
            Also what a hook raises.
        """
        if type(value) not in SCALARS:
            check(value, self._leaves, self.max_bytes)
        return self._pack(value)

    def locate(self, value: Any, name: str) -> CodecError | None:
        """Finds the first value inside ``value`` that cannot be stored, with its path. Slow; for after packing failed."""
        level: list[_Node] = [_Node(None, "", value)]
        self._packed = [0] * (MAX_DEPTH + 1)
        for depth in count():
            below: list[_Node] = []
            for node in level:
                kind = type(node.value)
                if kind in CONTAINER_TYPES:
                    if depth == MAX_DEPTH:
                        return CodecError(TOO_DEEP, node.path(name))
                    for child in _children(node):
                        below.append(child)
                        if len(below) > self.max_bytes:
                            return None
                elif kind not in self._leaves:
                    return CodecError(f"no encoding for {kind.__qualname__}; {_hint(kind)}", node.path(name))
                elif kind not in SCALARS:
                    try:
                        self._packer()(node.value)
                    except TooManyBytesError:
                        return None
                    except Exception as error:  # noqa: BLE001 - a hook may raise anything, which is the reason then
                        return CodecError(f"{kind.__qualname__}: {reason_of(error)}", node.path(name))
            if not below:
                break
            level = below
        return None

    def _packer(self) -> Callable[[Any], bytes]:
        packer = msgpack.Packer(default=self._ext, strict_types=True, unicode_errors=SURROGATES, buf_size=4096)
        pack: Callable[[Any], bytes] = packer.pack
        return pack

    def _ext(self, value: Any) -> msgpack.ExtType:
        kind = type(value)
        if kind in ENCODERS:
            code, encode = ENCODERS[kind]
            content = encode(value)
        elif self._depth == MAX_DEPTH:
            raise CodecError(TOO_DEEP)
        else:
            self._depth += 1
            try:
                code, content = self._nested(kind, value)
            finally:
                self._depth -= 1
        self._packed[self._depth] += len(content)
        if self._packed[self._depth] > self.max_bytes:
            raise TooManyBytesError
        return msgpack.ExtType(code, content)

    def _nested(self, kind: type, value: Any) -> tuple[Ext, bytes]:
        """The extension type and content of a container or a registered type."""
        pack = self._packer()
        if kind is tuple:
            return Ext.TUPLE, pack(list(value))
        if kind in CONTAINER_TYPES:
            elements = sorted(map(pack, value))
            header: bytes = msgpack.Packer().pack_array_header(len(elements))
            return Ext.SET if kind is set else Ext.FROZENSET, header + b"".join(elements)
        registered = self._by_type[kind]
        content = registered.encode(value)
        check(content, self._leaves, self.max_bytes)
        return Ext.REGISTERED, pack([registered.tag, content])


def check_loaded(value: Any, leaves: frozenset[type]) -> None:
    """Checks an unpacked value: its types, keys and depth. Its size is bounded by the bytes it was unpacked from.

    Raises:
        CodecError: a type or a depth that cannot be stored.
    """
    level: list[Any] = [value]
    for depth in count():
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                items: Iterable[Any] = item.values()
                if not _KEY_TYPES.issuperset(map(type, item)):
                    items = [*items, *(name for name in item if type(name) not in _KEY_TYPES)]
            elif kind in CONTAINER_TYPES:
                items = item
            else:
                raise CodecError(f"no encoding for {kind.__qualname__}; {_hint(kind)}")
            if not leaves.issuperset(map(type, items)):
                below += [inner for inner in items if type(inner) not in leaves]
        if not below:
            return
        if depth + 1 == MAX_DEPTH:
            raise CodecError(TOO_DEEP)
        level = below


def check(value: Any, leaves: frozenset[type], max_bytes: int) -> None:
    """Refuses types and depths that the packer would accept, and values that are too large before memory is used for them.

    Raises:
        CodecError: a type or a depth that cannot be stored.
        TooManyBytesError: more than the limit.
    """
    left = max_bytes
    level: list[Any] = [value]
    for depth in count():
        below: list[Any] = []
        # Each item takes at least one byte. A list that appears in several places counts each time.
        left -= len(level)
        has_containers = False
        for item in level:
            kind = type(item)
            if kind in leaves:
                if kind is str or kind is bytes:
                    left -= len(item)
                elif kind is int:
                    left -= item.bit_length() >> 3
                continue
            if kind is dict:
                below.extend(item.values())
                if not _KEY_TYPES.issuperset(map(type, item)):
                    # Other keys are checked like values: anything hashable that can be stored can be a key.
                    below.extend(name for name in item if type(name) not in _KEY_TYPES)
                left -= sum(len(name) for name in item if type(name) is str or type(name) is bytes)
            elif kind in CONTAINER_TYPES:
                below.extend(item)
            else:
                raise CodecError(f"no encoding for {kind.__qualname__}; {_hint(kind)}")
            if depth == MAX_DEPTH:
                raise CodecError(TOO_DEEP)
            if len(below) > left:
                raise TooManyBytesError
            has_containers = True
        if left < -1:
            raise TooManyBytesError
        if not has_containers:
            return
        level = below


class _Node:
    """The path of a value inside another."""

    __slots__ = ("parent", "step", "value")

    def __init__(self, parent: _Node | None, step: Any, value: Any) -> None:
        self.parent = parent
        self.step = step
        self.value = value

    def path(self, name: str) -> str:
        """The path as text, such as ``cart[2].price``."""
        steps = []
        node: _Node = self
        while node.parent is not None:
            kind = type(node.parent.value)
            if kind is dict and type(node.step) is str and node.step.isidentifier() and len(node.step) <= _SHOWN:
                steps.append(f".{node.step}")
            elif kind is set or kind is frozenset:
                steps.append("{*}")
            else:
                steps.append(f"[{show(node.step)}]")
            node = node.parent
        return name + "".join(reversed(steps))


def _children(node: _Node) -> Iterable[_Node]:
    if type(node.value) is not dict:
        yield from (_Node(node, number, item) for number, item in enumerate(node.value))
        return
    for name, item in node.value.items():
        if type(name) not in _KEY_TYPES:
            yield _Node(node, name, name)
        yield _Node(node, name, item)


def show(key: object) -> str:
    """A key as short text for a message, of whatever type it is."""
    try:
        shown = repr(key)
    except Exception:  # noqa: BLE001 - a foreign __repr__, or an int of too many digits
        shown = f"<{type(key).__qualname__}>"
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."


def reason_of(error: Exception) -> str:
    # The message of a foreign error may quote the data, so it only becomes the cause of ours.
    return error.reason if isinstance(error, CodecError) else type(error).__name__


def _hint(kind: type) -> str:
    """What to do about a value of type ``kind``."""
    for base in (dict, list, tuple, set, frozenset, str, bytes, int, float):
        if issubclass(kind, base):
            return f"store {base.__name__}(...), or register the type with Codec.register"
    return "store bytes(...)" if kind in (bytearray, memoryview) else "register the type with Codec.register"
