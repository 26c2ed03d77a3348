"""Checks of the persistence: what is left of the sessions after the server stops?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..findings import Finding, Severity
from ..formatting import setting

_DISK = "Look at the server's log, the free space and the permissions of its directory (CONFIG GET dir)"


def check_persistence(info: Mapping[str, Any], config: Mapping[str, str]) -> Iterator[Finding]:
    """Checks whether append-only file and snapshots are on, and are written."""
    if "aof_enabled" not in info:
        return
    if int(info.get("loading") or 0):
        yield Finding(
            "loading",
            Severity.CRITICAL,
            "the server is loading its data",
            "Until it is done, all commands are answered LOADING: calls of the store wait, up to their timeout.",
            "Wait; INFO persistence shows how far it is (loading_eta_seconds). If it never ends, look at the server's log.",
        )
    yield from _kept(int(info["aof_enabled"] or 0) == 1, config)
    yield from _written(info, config)


def _kept(has_aof: bool, config: Mapping[str, str]) -> Iterator[Finding]:
    save = config.get("save")
    if has_aof:
        yield Finding("persistence", Severity.OK, "append-only file" + (f", snapshots (save {save})" if save else ""))
        yield from _fsync(config)
    elif save:
        yield Finding(
            "persistence",
            Severity.INFO,
            f"snapshots only (save {save})",
            "When the server dies, all sessions fall back to the last snapshot: minutes ago, or an hour.",
            f"If that is too much: {setting('appendonly yes')}.",
        )
    elif save is not None:
        yield Finding(
            "persistence",
            Severity.WARNING,
            "neither an append-only file nor snapshots",
            "All sessions are lost when the server stops or dies.",
            f"{setting('appendonly yes')}.",
        )


def _fsync(config: Mapping[str, str]) -> Iterator[Finding]:
    policy = config.get("appendfsync")
    if policy == "no":
        yield Finding(
            "appendfsync",
            Severity.WARNING,
            "no: the kernel decides when the append-only file goes to disk",
            "When the machine dies, what was saved in the last half minute may be lost.",
            f"{setting('appendfsync everysec')}.",
        )
    elif policy:
        lost = "a second of saves" if policy == "everysec" else "nothing"
        yield Finding("appendfsync", Severity.OK, f"{policy}: {lost} may be lost when the machine dies")


def _written(info: Mapping[str, Any], config: Mapping[str, str]) -> Iterator[Finding]:
    stops = config.get("stop-writes-on-bgsave-error", "yes") != "no"
    refuses = "Writes of sessions may be refused (MISCONF) until one succeeds, and nothing newer is on disk."
    consequences = {
        "rdb_last_bgsave_status": (
            "rdb-last-bgsave",
            "the last snapshot",
            refuses if stops else "Nothing newer than the last good snapshot is on disk.",
            f"{_DISK}; then BGSAVE.",
        ),
        "aof_last_write_status": (
            "aof-last-write",
            "the last write to the append-only file",
            "Writes of sessions are refused (MISCONF) until one succeeds.",
            f"{_DISK}.",
        ),
        "aof_last_bgrewrite_status": (
            "aof-last-rewrite",
            "the last rewrite of the append-only file",
            "The file grows until the disk is full; then writes of sessions are refused (MISCONF).",
            f"{_DISK}; then BGREWRITEAOF.",
        ),
    }
    for name, (id_, what, why, advice) in consequences.items():
        status = info.get(name)
        if status is None:
            continue
        if status == "ok":
            yield Finding(id_, Severity.OK, f"{what}: ok")
        else:
            yield Finding(id_, Severity.CRITICAL, f"{what} failed ({status})", why, advice)
