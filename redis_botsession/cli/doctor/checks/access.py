"""Access checks: may the user do what the store needs, and not much more?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from ..facts import Rights
from ..findings import Finding, Severity
from ..needed_permissions import (
    CLUSTER_COMMANDS,
    DOCTOR_RULES,
    DURABILITY_COMMANDS,
    LEASE_COMMANDS,
    OPERATORS_ONLY,
    STORE_COMMANDS,
)
from .check_ids import CANNOT_LOOK

_PLAIN = re.compile(r"[A-Za-z0-9:._/@+-]*")


def acl_line(prefix: str, user: str = "bot", *, of_cluster: bool = False, has_waitaof: bool = False) -> str:
    """The ACL rule of a user that may do what the store needs, with leases and durable writes, and nothing else.

    Args:
        prefix: The prefix of the store's keys.
        user: The name of the user.
        of_cluster: Whether the server is a node of a cluster.
        has_waitaof: Whether the server has WAITAOF (Redis 7.2, Valkey): others refuse a rule that names it.
    """
    keys, channels = _quoted(f"~{prefix}*"), _quoted(f"&{prefix}*")
    durable = DURABILITY_COMMANDS if has_waitaof else DURABILITY_COMMANDS[:1]
    commands = _rules(STORE_COMMANDS + LEASE_COMMANDS + durable + (CLUSTER_COMMANDS if of_cluster else ()))
    return f"ACL SETUSER {user} on >PASSWORD resetkeys {keys} resetchannels {channels} -@all {commands}"


def _quoted(pattern: str) -> str:
    return pattern if _PLAIN.fullmatch(pattern[1:-1]) else '"' + pattern.replace('"', '\\"') + '"'


def _rules(commands: Iterable[str]) -> str:
    return " ".join("+" + name.lower().replace(" ", "|") for name in commands)


def check_access(rights: Rights, prefix: str, *, of_cluster: bool = False) -> Iterator[Finding]:
    """Checks the user that the URL names."""
    rule = acl_line(prefix, of_cluster=of_cluster, has_waitaof="WAITAOF" not in rights.absent_extras)
    yield from _password(rights, rule)
    yield from _permissions(rights, prefix)
    yield from _extras(rights, prefix)
    if not rights.needs_no_password:
        # A user without a password is one finding, with the advice to give bots a user of their own.
        yield from _least(rights, prefix, rule)


def _password(rights: Rights, rule: str) -> Iterator[Finding]:
    if rights.needs_no_password:
        yield Finding(
            "user",
            Severity.WARNING,
            f"the user {rights.user!r} needs no password",
            "Anybody who reaches the server can read, change and delete all sessions.",
            f"Give it one: ACL SETUSER {rights.user} resetpass >PASSWORD. Better, give bots a user of their own "
            f"({rule}) and switch this one off: ACL SETUSER {rights.user} off. ACL SAVE keeps both if there is an "
            "aclfile; else put them into redis.conf, as lines that begin with user instead of ACL SETUSER.",
        )
    else:
        yield Finding("user", Severity.OK, rights.user)


def _permissions(rights: Rights, prefix: str) -> Iterator[Finding]:
    if rights.absent:
        yield Finding(
            "commands",
            Severity.CRITICAL if set(rights.absent) - OPERATORS_ONLY else Severity.INFO,
            f"the server has no {', '.join(rights.absent)}",
            "Calls of the store that need them fail.",
            "Take away what renames or disables them (rename-command in redis.conf), or ask the provider.",
        )
    if rights.denied:
        yield Finding(
            "permissions",
            Severity.CRITICAL if set(rights.denied) - OPERATORS_ONLY else Severity.INFO,
            f"the user {rights.user!r} may not run {', '.join(rights.denied)} on keys under {prefix!r}",
            "Calls of the store that need them fail (NOPERM)."
            if set(rights.denied) - OPERATORS_ONLY
            else "scan and size of the store fail (NOPERM); bots do not need them.",
            f'ACL SETUSER {rights.user} {_rules(rights.denied)}, and the keys: "~{prefix}*".',
        )
    elif not rights.absent:
        yield Finding("permissions", Severity.OK, f"{rights.user!r} may do all that the store needs ({rights.how})")


def _extras(rights: Rights, prefix: str) -> Iterator[Finding]:
    """The permissions that only some bots need. They are for information, since the doctor does not know what the bot uses."""
    leases = set(LEASE_COMMANDS) & {*rights.denied_extras, *rights.absent_extras}
    if leases:
        yield Finding(
            "permissions-leases",
            Severity.INFO,
            f"the user {rights.user!r} may not run {', '.join(sorted(leases))} on keys and channels under {prefix!r}",
            "Leases, and aiogram's BotSessionIsolation, fail at the first event (NOPERM)."
            if leases & {"GET", "SET", "PTTL", "PEXPIRE"}
            else "Leases, and aiogram's BotSessionIsolation, work, but waiters poll instead of being called.",
            f'If the bot uses them: ACL SETUSER {rights.user} {_rules(LEASE_COMMANDS)} "&{prefix}*".',
        )
    elif rights.knows_extras:
        yield Finding("permissions-leases", Severity.OK, f"{rights.user!r} may do all that leases need")
    if durable := [name for name in DURABILITY_COMMANDS if name in rights.denied_extras]:
        yield Finding(
            "permissions-durable-writes",
            Severity.INFO,
            f"the user {rights.user!r} may not run {', '.join(durable)}",
            "A store with replicas= (WAIT) or fsync= (WAITAOF) fails at its first write.",
            f"If the bot uses them: ACL SETUSER {rights.user} {_rules(durable)}.",
        )


def _least(rights: Rights, prefix: str, rule: str) -> Iterator[Finding]:
    instead = f"For bots: {rule}. To be examined by the doctor, add {' '.join(DOCTOR_RULES)}."
    if rights.other_keys:
        yield Finding(
            "least-privilege-keys",
            Severity.WARNING,
            f"the user {rights.user!r} reaches keys that do not begin with {prefix!r}",
            "A mistake in one bot, or a stolen password, reaches everybody's data.",
            instead,
        )
    elif rights.other_keys is not None:
        yield Finding("least-privilege-keys", Severity.OK, f"{rights.user!r} reaches keys under the prefix only")
    if rights.dangerous:
        yield Finding(
            "least-privilege-commands",
            Severity.WARNING,
            f"the user {rights.user!r} may run {', '.join(rights.dangerous)}",
            "No bot needs them; a mistake or a stolen password empties, blocks or stops the server.",
            "The same rule as for least-privilege-keys." if rights.other_keys else instead,
        )
    elif rights.dangerous is not None:
        yield Finding("least-privilege-commands", Severity.OK, f"{rights.user!r} may run no dangerous commands")


def check_refused(refused: Mapping[str, str]) -> Iterator[Finding]:
    """Reports commands that the server refused to the doctor. ``refused`` has its answers by command."""
    for command, answer in refused.items():
        rule = "+" + command.lower().replace(" ", "|")
        yield Finding(
            CANNOT_LOOK + command.lower().replace(" ", "-"),
            Severity.WARNING if command == "INFO" else Severity.INFO,
            f"the server refuses {command}: {answer}",
            "The checks that need it were left out.",
            f"Grant {rule} to the doctor's user (ACL SETUSER NAME {rule}); "
            "if the provider of the server has taken it away, look at its console.",
        )
