"""Access: whether the user may do what the store needs, and not much more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from ..facts import Rights
from ..findings import Finding, Severity
from ..needs import CLUSTER_COMMANDS, DOCTOR_RULES, OPERATORS_ONLY, STORE_COMMANDS

_PLAIN = re.compile(r"[A-Za-z0-9:._/@+-]*")


def acl_line(prefix: str, user: str = "bot", *, of_cluster: bool = False) -> str:
    """The ACL rule of a user that may do what the store needs, on a cluster or not, and nothing else."""
    keys = f"~{prefix}*"
    if not _PLAIN.fullmatch(prefix):
        keys = '"' + keys.replace('"', '\\"') + '"'
    commands = _rules(STORE_COMMANDS + (CLUSTER_COMMANDS if of_cluster else ()))
    return f"ACL SETUSER {user} on >PASSWORD resetkeys {keys} resetchannels -@all {commands}"


def _rules(commands: Iterable[str]) -> str:
    return " ".join("+" + name.lower().replace(" ", "|") for name in commands)


def check_access(rights: Rights, prefix: str, *, of_cluster: bool = False) -> Iterator[Finding]:
    """The user of the URL, which may name a cluster."""
    rule = acl_line(prefix, of_cluster=of_cluster)
    yield from _password(rights, rule)
    yield from _permissions(rights, prefix)
    yield from _least(rights, prefix, rule)


def _password(rights: Rights, rule: str) -> Iterator[Finding]:
    if rights.needs_no_password:
        yield Finding(
            "user",
            Severity.WARNING,
            f"the user {rights.user!r} needs no password",
            "Whoever reaches the server reads, changes and deletes all sessions.",
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
    """What the server would not tell; ``refused`` has its answers, by command."""
    for command, answer in refused.items():
        rule = "+" + command.lower().replace(" ", "|")
        yield Finding(
            "cannot-look-" + command.lower().replace(" ", "-"),
            Severity.WARNING if command == "INFO" else Severity.INFO,
            f"cannot look at what {command} tells: {answer}",
            "The checks that need it were left out.",
            f"Grant {rule} to the doctor's user (ACL SETUSER NAME {rule}); "
            "if the provider of the server has taken it away, look at its console.",
        )
