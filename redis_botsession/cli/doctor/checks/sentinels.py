"""Checks of the sentinels: could they promote a replica?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..facts import Watcher
from ..findings import Finding, Severity


def check_sentinels(watchers: Sequence[Watcher], service: str) -> Iterator[Finding]:
    """Checks the sentinels that the URL names."""
    for watcher in watchers:
        if watcher.problem:
            yield Finding(
                "sentinel-unreachable",
                Severity.WARNING,
                f"the Sentinel {watcher.address} cannot be asked: {watcher.problem}",
                "With too few of them left, no replica takes over when the primary dies.",
                "Start it, or take it out of the URL.",
            )
        elif watcher.has_quorum is False:
            yield Finding(
                "sentinel-quorum",
                Severity.CRITICAL,
                f"the Sentinel {watcher.address} has no quorum for {service}: {watcher.quorum}",
                "When the primary dies, no replica takes over: the bots stop.",
                f"Start more Sentinels that watch {service} (three at least), or lower its quorum: "
                f"SENTINEL SET {service} quorum N.",
            )
        elif watcher.has_quorum is None:
            yield Finding(
                "sentinel-quorum",
                Severity.INFO,
                f"the Sentinel {watcher.address} does not say whether there is a quorum: {watcher.quorum}",
                "Whether a replica takes over when the primary dies is not known.",
                "Let the doctor's user run SENTINEL CKQUORUM: ACL SETUSER NAME +sentinel|ckquorum, on each Sentinel.",
            )
        else:
            yield Finding("sentinel-quorum", Severity.OK, f"{watcher.address}: {watcher.quorum}")
    named = sorted({watcher.primary for watcher in watchers if watcher.primary})
    if len(named) > 1:
        yield Finding(
            "sentinel-primary",
            Severity.CRITICAL,
            f"the Sentinels name different primaries of {service}: {', '.join(named)}",
            "Bots write to different servers; after they agree again, the writes to one of them are lost.",
            "Wait if a failover is under way; else look at the network between the Sentinels, and "
            "SENTINEL RESET the wrong ones.",
        )
