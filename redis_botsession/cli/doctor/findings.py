"""Findings of the doctor, and the report made of them."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

#: The ids of all checks, for ``--ignore``; besides, ``cannot-look-...`` for each command that the server refuses to the doctor.
CHECKS: Final = (
    "aof-last-rewrite",
    "aof-last-write",
    "appendfsync",
    "clock-skew",
    "cluster-migrations",
    "cluster-nodes",
    "cluster-replicas",
    "cluster-require-full-coverage",
    "cluster-slots",
    "cluster-state",
    "cluster-url",
    "commands",
    "evicted-keys",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "latency",
    "least-privilege-commands",
    "least-privilege-keys",
    "loading",
    "maxmemory",
    "maxmemory-policy",
    "memory-usage",
    "min-replicas-to-write",
    "mode",
    "node-unreachable",
    "permissions",
    "permissions-durable-writes",
    "permissions-leases",
    "persistence",
    "primary-link",
    "rdb-last-bgsave",
    "replica-lag",
    "role",
    "sentinel-primary",
    "sentinel-quorum",
    "sentinel-unreachable",
    "sessions",
    "tls",
    "user",
    "version",
)
CANNOT_LOOK: Final = "cannot-look-"


class Severity(enum.IntEnum):
    """The severity of a finding."""

    OK = 0
    INFO = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The name of the severity in lower case."""
        return self.name.lower()


#: Exit statuses, as monitoring systems like Nagios take them.
EXIT_STATUS = {Severity.OK: 0, Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}
#: The exit status of who could not find out.
UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        id: Its stable name, like ``maxmemory-policy``.
        severity: How bad it is.
        found: What is there.
        why: What that means for sessions.
        advice: What to do.
        nodes: On which servers, as host:port.
    """

    id: str
    severity: Severity
    found: str
    why: str = ""
    advice: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A server that was examined.

    Attributes:
        address: Its host:port, or the path of its socket.
        product: What it says it is: Redis, Valkey.
        version: The version of that.
        role: "primary", "replica" or "unknown".
        user: The ACL user that looked.
    """

    address: str
    product: str
    version: str
    role: str
    user: str


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about the servers of a URL.

    Attributes:
        target: The URL, without user, password and options.
        prefix: What the keys begin with.
        nodes: The servers.
        findings: The findings, worst first.
    """

    target: str
    prefix: str
    nodes: tuple[Node, ...]
    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """The severity of the worst finding."""
        return max((finding.severity for finding in self.findings), default=Severity.OK)

    @property
    def exit_status(self) -> int:
        """The exit status: 0, 1 for a warning, 2 for a critical finding."""
        return EXIT_STATUS[self.severity]

    def without(self, ids: Collection[str]) -> Report:
        """The report without the findings of these checks, which then do not count for the exit status."""
        return replace(self, findings=tuple(finding for finding in self.findings if finding.id not in ids))

    def counts(self) -> dict[str, int]:
        """The number of findings of each severity, worst first."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity.label: found[severity] for severity in sorted(Severity, reverse=True)}

    def as_dict(self) -> dict[str, Any]:
        """The report as a dict for ``json.dumps``."""
        return {
            "status": self.severity.label,
            "exit_status": self.exit_status,
            "target": self.target,
            "prefix": self.prefix,
            "nodes": [{name: getattr(node, name) for name in Node.__slots__} for node in self.nodes],
            "findings": [
                {
                    "id": finding.id,
                    "severity": finding.severity.label,
                    "found": finding.found,
                    "why": finding.why,
                    "advice": finding.advice,
                    "nodes": list(finding.nodes),
                }
                for finding in self.findings
            ],
            "counts": self.counts(),
        }


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorts findings, worst first, and merges equal findings of several servers into one that names them all."""
    nodes: dict[Finding, list[str]] = {}
    for finding in findings:
        nodes.setdefault(replace(finding, nodes=()), []).extend(finding.nodes)
    together = (replace(finding, nodes=tuple(dict.fromkeys(names))) for finding, names in nodes.items())
    return tuple(sorted(together, key=lambda finding: -finding.severity))
