"""Durable writes: waiting for replicas (WAIT) and disks (WAITAOF) before a write counts as done. Nothing here does I/O.

Both wait for the writes that came before them on the same connection
(https://redis.io/docs/latest/commands/wait/, https://redis.io/docs/latest/commands/waitaof/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import DurabilityUnproven
from .commands import Argument, Command
from .replies import text_of

#: Seconds that a server waits for its replicas and its disk.
DEFAULT_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class Durability:
    """What must confirm a write before it counts as done.

    Attributes:
        replicas: How many replicas must have it; with ``fsync``, in their append-only files on disk.
        fsync: Whether the primary must have it in its append-only file on disk.
        within: Seconds that the server waits for that.
    """

    replicas: int
    fsync: bool
    within: float

    def request(self, within: float | None = None) -> tuple[Argument, ...]:
        """The command that waits for the confirmations, to be sent after the writes.

        Args:
            within: Seconds to wait; default: those of this object.
        """
        ms = max(1, round((self.within if within is None else within) * 1000))
        if self.fsync:
            return (b"WAITAOF", 1, self.replicas, ms)
        return (b"WAIT", self.replicas, ms)

    def check_within(self, limit: float) -> None:
        """Raises ``ValueError`` if connections count as lost after ``limit`` seconds, while the server still waits."""
        if self.within >= limit:
            raise ValueError(
                f"wait_timeout must be less than socket_timeout and timeout, {limit:g} s, not {self.within:g}: "
                "the server is silent for so long while it waits"
            )

    def shortfall(self, reply: Any) -> str | None:
        """What the reply to ``request`` shows to be missing, as text; None if nothing is."""
        if isinstance(reply, Exception):
            return str(reply)
        synced, replicas = reply if self.fsync else (1, reply)
        missing = []
        if synced < 1:
            missing.append("the primary has not synced it to disk")
        if replicas < self.replicas:
            missing.append(f"{replicas} of {self.replicas} replicas {'synced' if self.fsync else 'have'} it")
        return f"{' and '.join(missing)} after {self.within:g} s" if missing else None


def durability_of(replicas: Any, fsync: Any, within: float) -> Durability | None:
    """The durability for a store's ``replicas``, ``fsync`` and ``wait_timeout`` (seconds); None if nothing must confirm writes.

    Raises:
        TypeError, ValueError: not a number of replicas, or not a positive time.
    """
    if isinstance(replicas, bool) or not isinstance(replicas, int):
        raise TypeError(f"replicas must be int, not {type(replicas).__name__}")
    if replicas < 0:
        raise ValueError(f"replicas must not be negative: {replicas}")
    if not 0 < within < math.inf:
        raise ValueError(f"wait_timeout must be positive, not {within}")
    return Durability(replicas, bool(fsync), within) if replicas or fsync else None


def unproven(command: Command[Any], reply: Any, shortfall: str, proof: Any) -> Exception | None:
    """The error for the caller of a write that was not confirmed; None if there was nothing to delete, so nothing can be lost.

    Args:
        command: The write.
        reply: What the server has answered to it.
        shortfall: What is missing.
        proof: The reply that says so.
    """
    try:
        result = command.parse(reply)
    except Exception as refusal:  # noqa: BLE001 - a conflict, say: nothing was written that could be lost
        return refusal
    if result is False:
        return None
    key = text_of(command.key)
    error = DurabilityUnproven(
        f"{command.name} of {key}: applied, durability unproven: {shortfall}. Do not repeat it blindly; "
        "look at the server's replicas and disk (botsession doctor)",
        key=key,
        result=result,
    )
    if isinstance(proof, Exception):
        error.__cause__ = proof
    return error
