"""Finds out what the user may do: by ACL DRYRUN, or by harmless calls (denied ones show in ACL LOG) where it is missing."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from redis.exceptions import NoPermissionError

from .asking import Server, pairs, text
from .facts import Rights
from .needed_permissions import CLUSTER_COMMANDS, DANGEROUS

_NO_SCRIPT: Final = "0" * 40
_ABSENT: Final = re.compile(r"unknown command|Command '.*' not found", re.IGNORECASE)
#: The categories of the dangerous ones, by which rules name them.
_CATEGORIES: Final = {
    "flushall": {"keyspace", "write", "slow", "dangerous"},
    "keys": {"keyspace", "read", "slow", "dangerous"},
    "config": {"admin", "slow", "dangerous"},
    "shutdown": {"admin", "slow", "dangerous"},
}


def probes(key: str, *, of_cluster: bool = False) -> dict[str, tuple[str, ...]]:
    """A harmless call for each command of the store, and with ``of_cluster`` for those of a cluster.

    ``key`` does not exist, so what removes something finds nothing; what would write or run something is refused for its
    arguments, after the permission has been looked at.
    """
    commands = {
        "ECHO": ("ECHO", ""),
        "EVALSHA": ("EVALSHA", _NO_SCRIPT, "1", key),
        "EVAL": ("EVAL", "return 0", "not-a-number", key),
        "HGETALL": ("HGETALL", key),
        "ZRANGE": ("ZRANGE", key, "0", "-1"),
        "EXISTS": ("EXISTS", key),
        "SCAN": ("SCAN", "0", "COUNT", "1"),
        "TIME": ("TIME",),
        "HMGET": ("HMGET", key, "f"),
        "HGET": ("HGET", key, "f"),
        "HKEYS": ("HKEYS", key),
        "HSTRLEN": ("HSTRLEN", key, "f"),
        "HSET": ("HSET", key, "f", "v", "a field without its value"),
        "HDEL": ("HDEL", key, "f"),
        "UNLINK": ("UNLINK", key),
        "ZADD": ("ZADD", key, "not-a-number", "m"),
        "ZSCORE": ("ZSCORE", key, "m"),
        "ZREM": ("ZREM", key, "m"),
        "ZREMRANGEBYSCORE": ("ZREMRANGEBYSCORE", key, "0", "0"),
        "PEXPIREAT": ("PEXPIREAT", key, "99999999999999"),
        "PERSIST": ("PERSIST", key),
    }
    return commands | ({name: tuple(name.split()) for name in CLUSTER_COMMANDS} if of_cluster else {})


def extra_probes(key: str, *, is_dry: bool) -> dict[str, tuple[str, ...]]:
    """A harmless call for each command of leases and durable writes.

    Without ACL DRYRUN, SUBSCRIBE is left out, since trying it would change the mode of the connection.
    """
    commands = {
        "GET": ("GET", key),
        "SET": ("SET", key, "v", "NX", "XX"),
        "PTTL": ("PTTL", key),
        "PEXPIRE": ("PEXPIRE", key, "1000"),
        "PUBLISH": ("PUBLISH", key, ""),
        "WAIT": ("WAIT", "0", "1"),
        "WAITAOF": ("WAITAOF", "0", "0", "1"),
    }
    return commands | ({"SUBSCRIBE": ("SUBSCRIBE", key), "UNSUBSCRIBE": ("UNSUBSCRIBE", key)} if is_dry else {})


def gather_rights(server: Server, prefix: str, *, user: str, has_password: bool, of_cluster: bool = False) -> Rights:
    """Finds out what the user of this connection may do.

    Args:
        server: The server.
        prefix: What the keys of the store begin with.
        user: The user's name, if the server does not report it.
        has_password: Whether the connection was made with a password.
        of_cluster: Whether the URL names a cluster.
    """
    reported = server.ask("ACL", "WHOAMI")
    name = text(reported) if reported is not None else user
    rules = {text(key): value for key, value in pairs(server.ask("ACL", "GETUSER", name)).items()}
    look = _Look(server, name)
    unique = uuid4().hex
    own = f"{prefix}{{botsession-doctor-{unique}}}:probe"
    # A key outside of the prefix: it begins with another letter.
    other = f"{'y' if prefix.startswith('x') else 'x'}-{own}" if prefix else ""
    answers = {command: look.at(probe) for command, probe in probes(own, of_cluster=of_cluster).items()}
    extras = {command: look.at(probe) for command, probe in extra_probes(own, is_dry=look.is_dry).items()}
    readable = [probes(other)[command] for command in ("HGETALL", "EXISTS") if answers[command] is Answer.ALLOWED]
    return Rights(
        user=name,
        how="ACL DRYRUN" if look.is_dry else "trying",
        denied=tuple(command for command, answer in answers.items() if answer is Answer.DENIED),
        absent=tuple(command for command, answer in answers.items() if answer is Answer.ABSENT),
        denied_extras=tuple(command for command, answer in extras.items() if answer is Answer.DENIED),
        absent_extras=tuple(command for command, answer in extras.items() if answer is Answer.ABSENT),
        knows_extras=look.is_dry,
        needs_no_password=_needs_no_password(rules, name, has_password),
        other_keys=look.at(readable[0]) is Answer.ALLOWED if other and readable else None,
        dangerous=_dangerous(look, rules),
    )


class Answer(enum.Enum):
    """The result of asking whether a command may be run."""

    ALLOWED = enum.auto()
    DENIED = enum.auto()
    ABSENT = enum.auto()


class _Look:
    """Asks whether commands may be run: with ACL DRYRUN if it can be used, else by running them."""

    def __init__(self, server: Server, user: str) -> None:
        self._server = server
        self._user = user
        self.is_dry = server.ask("ACL", "DRYRUN", user, "ECHO", "") is not None

    def at(self, command: tuple[str, ...]) -> Answer:
        if self.is_dry:
            reply = self._server.try_("ACL", "DRYRUN", self._user, *command)
            if not isinstance(reply, Exception):
                return Answer.ALLOWED if text(reply) == "OK" else Answer.DENIED
        else:
            reply = self._server.try_(*command)
        if isinstance(reply, NoPermissionError):
            return Answer.DENIED
        # Any other error comes after the server has checked the permission.
        return Answer.ABSENT if isinstance(reply, Exception) and _ABSENT.search(str(reply)) else Answer.ALLOWED


def _needs_no_password(rules: Mapping[str, Any], user: str, has_password: bool) -> bool | None:
    if rules:
        return "nopass" in map(text, rules.get("flags", ()))
    # The connection was accepted without a password.
    return True if user == "default" and not has_password else None


def _dangerous(look: _Look, rules: Mapping[str, Any]) -> tuple[str, ...] | None:
    if look.is_dry:
        return tuple(name for name, command in DANGEROUS.items() if look.at(command) is Answer.ALLOWED)
    if rules:
        words = text(rules.get("commands", b"")).split()
        return tuple(name for name in DANGEROUS if _is_allowed(name.lower(), words))
    # Dangerous commands cannot be tried.
    return None


def _is_allowed(command: str, rules: list[str]) -> bool:
    """Whether these rules of an ACL, like ``-@all +@read``, allow a command: the last rule about it decides."""
    name = command.split()[0]
    about = {"@all", name, command.replace(" ", "|"), *(f"@{category}" for category in _CATEGORIES[name])}
    return next((rule.startswith("+") for rule in reversed(rules) if rule[1:] in about), False)
