"""Runs the doctor: examines the servers that a URL names, and prints the report."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import closing

import redis

from ..._protocol.layout import Keys
from .._targets import BadURL, Host, Target, parse
from .._terminal import DEFAULT_URL
from .asking import Server, text
from .checks import check_node, check_sentinels
from .checks.version import product_of, role_of
from .cluster_nodes import Place, places_of
from .facts import Facts, Watcher
from .findings import UNKNOWN, Finding, Node, Report, Severity, merged
from .gather import gather
from .render import Printer

#: UnicodeError is what Python says of a host name that cannot be one.
CANNOT_ASK = (redis.RedisError, OSError, UnicodeError)


class CannotLook(Exception):
    """Nothing can be found out. The message says why, and holds no part of a password."""


def run(*, url: str | None, prefix: str, sample: int, timeout: float, as_json: bool, ignore: Collection[str] = ()) -> int:
    """Examines a server and prints what it has found.

    Args:
        url: What to examine; default: what REDIS_URL names, else a Redis on this machine.
        prefix: What the keys of the store begin with.
        sample: At most how many sessions to look at; 0: none.
        timeout: Seconds for connecting, and for each answer.
        as_json: Whether to print JSON.
        ignore: The ids of checks whose findings are left out, of the exit status too.

    Returns:
        The exit status, as monitoring takes it: 0 all well, 1 for a warning, 2 for something critical, 3 for not known.

    Raises:
        ValueError: a bad prefix.
    """
    printer = Printer(as_json=as_json)
    try:
        report = examine(url or os.environ.get("REDIS_URL") or DEFAULT_URL, prefix=prefix, sample=sample, timeout=timeout)
    except CannotLook as error:
        printer.fail(str(error))
        return UNKNOWN
    report = report.without(ignore)
    printer.show(report)
    return report.exit_status


def examine(url: str, *, prefix: str, sample: int = 100, timeout: float = 5.0) -> Report:
    """Examines what ``url`` names. It writes nothing there.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; ``redis+cluster://host:port,host:port/`` for all nodes of a cluster,
            ``redis+sentinel://host:port,host:port/service`` for the primary that these Sentinels name.
        prefix: What the keys of the store begin with.
        sample: At most how many sessions to look at on each node; 0: none.
        timeout: Seconds for connecting, and for each answer.

    Raises:
        CannotLook: nothing can be found out.
        ValueError: a bad prefix.
    """
    try:
        target = parse(url)
        examination = _Examination(target, prefix, sample, timeout)
        if target.kind == "cluster":
            examination.look_at_cluster()
        elif target.kind == "sentinel":
            examination.look_at_primary()
        else:
            examination.look_at(target.hosts[0] if target.hosts else None)
    except BadURL as error:
        raise CannotLook(str(error)) from None
    return examination.report()


class _Examination:
    """Examines one server after the other, and collects the findings."""

    def __init__(self, target: Target, prefix: str, sample: int, timeout: float) -> None:
        self._target = target
        self._prefix = Keys(prefix).prefix
        self._sample = sample
        self._timeout = timeout
        self._nodes: list[Node] = []
        self._findings: list[Finding] = []

    def report(self) -> Report:
        return Report(self._target.label, self._prefix, tuple(self._nodes), merged(self._findings))

    def look_at(self, host: Host | None, *, is_replica_wanted: bool = False) -> None:
        """Examines one server.

        Raises:
            CannotLook: it cannot be asked.
        """
        target = self._target
        address = target.name if host is None else str(host)
        try:
            with closing(target.client(host, self._timeout)) as client:
                facts = gather(
                    client,
                    address=address,
                    prefix=self._prefix,
                    # A replica has the same sessions as its primary.
                    sample=0 if is_replica_wanted else self._sample,
                    user=target.user,
                    has_password=target.has_password,
                    of_cluster=target.kind == "cluster",
                    is_replica_wanted=is_replica_wanted,
                    is_private=target.is_private(host),
                )
        except CANNOT_ASK as error:
            raise CannotLook(f"cannot look at {address}: {_reason(error)}") from error
        self._nodes.append(_node(facts))
        self._findings += check_node(facts)

    def look_at_cluster(self) -> None:
        """Examines all nodes of the cluster.

        Raises:
            CannotLook: none that the URL names can be asked which they are.
        """
        for place in self._places():
            try:
                self.look_at(place.host, is_replica_wanted=place.is_replica)
            except CannotLook as error:
                self._findings.append(_unreachable(place, str(error)))
        if not self._nodes:
            raise CannotLook("; ".join(finding.found for finding in self._findings))

    def look_at_primary(self) -> None:
        """Examines the sentinels, and the primary that they name.

        Raises:
            CannotLook: none of them names one, or that cannot be asked.
        """
        target = self._target
        watchers = [self._watcher(host) for host in target.hosts]
        self._findings += check_sentinels(watchers, target.service)
        named = [watcher.primary for watcher in watchers if watcher.primary]
        if not named:
            problems = "; ".join(f"{watcher.address}: {watcher.problem or 'knows of none'}" for watcher in watchers)
            raise CannotLook(f"no Sentinel names a primary of {target.service}: {problems}")
        # The primary that most of them name.
        name, _, port = max(named, key=named.count).rpartition(":")
        self.look_at(Host(name.strip("[]"), int(port)))

    def _watcher(self, host: Host) -> Watcher:
        service = self._target.service
        try:
            with closing(self._target.sentinel_client(host, self._timeout)) as client:
                server = Server(client)
                named = server.try_("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
                if isinstance(named, Exception):
                    return Watcher(str(host), problem=_reason(named))
                primary = str(Host(text(named[0]), int(named[1]))) if named else ""
                quorum = server.try_("SENTINEL", "CKQUORUM", service)
        except CANNOT_ASK as error:
            return Watcher(str(host), problem=_reason(error))
        said = text(quorum)
        if not isinstance(quorum, Exception):
            return Watcher(str(host), primary, said, has_quorum=True)
        return Watcher(str(host), primary, said, has_quorum=False if "NOQUORUM" in said else None)

    def _places(self) -> list[Place]:
        """The nodes of the cluster, by the first node that replies."""
        problems = []
        for host in self._target.hosts:
            try:
                with closing(self._target.client(host, self._timeout)) as client:
                    places = places_of(Server(client), host)
            except CANNOT_ASK as error:
                problems.append(f"{host}: {_reason(error)}")
                continue
            if not isinstance(places, Exception):
                return places
            problems.append(f"{host}: {_reason(places)} (it must be a node of a cluster, and the user needs +cluster|slots)")
        raise CannotLook(f"no node describes the cluster: {'; '.join(problems)}")


def _unreachable(place: Place, reason: str) -> Finding:
    return Finding(
        "node-unreachable",
        Severity.CRITICAL if place.is_serving else Severity.WARNING,
        reason,
        "If bots cannot reach it either, the users whose slots it serves have no sessions."
        if place.is_serving
        else "It serves no slots now; while it is missing, there is one replica fewer to take over.",
        "Start it, or look at the network; and at cluster-announce-ip, if the address is not its own. "
        "To be rid of it: redis-cli --cluster del-node HOST:PORT NODE-ID.",
        (str(place.host),),
    )


def _node(facts: Facts) -> Node:
    product, version = product_of(facts.info)
    return Node(facts.address, product, version, role_of(facts.info), facts.rights.user)


def _reason(error: BaseException) -> str:
    return str(error).rstrip(".") or type(error).__name__
