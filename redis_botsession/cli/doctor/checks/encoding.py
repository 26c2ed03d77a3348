"""Checks of the encoding: do the sessions use the compact encoding of small hashes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..facts import COMPACT, Sample
from ..findings import Finding, Severity
from ..formatting import percentile, setting

#: Up to here the setting was measured to pay; a longer value makes each write of its session move more bytes.
MEASURED = 4096
#: So many sessions are enough to judge all by.
ENOUGH = 20

_MEASURED = (
    "Measured: a session of 6 small values and one of more than 64 bytes takes 1,840 bytes at the default of 64, "
    "and 1,152 at 4096."
)


def check_encoding(sample: Sample | None, config: Mapping[str, str], prefix: str) -> Iterator[Finding]:
    """Checks whether most sessions are compact, and which settings would make them so."""
    if sample is None:
        return
    if not sample.shapes:
        where = "in the database" if sample.is_complete else "among the keys that were looked at"
        yield Finding(
            "sessions",
            Severity.INFO,
            f"no sessions under the prefix {prefix!r} {where}",
            "Without any session, their memory cannot be judged.",
            "If there should be some: is the prefix that of the store (--prefix), and the database (the number in the URL)?",
        )
        return
    yield _encodings(sample)
    values = [shape.largest for shape in sample.shapes]
    what = "the longest name or value of a session", "bytes"
    yield from _limit("value", *what, values, sample, config)
    yield from _limit(
        "entries", "fields of a session (4 to 6 are metadata)", "", [s.fields for s in sample.shapes], sample, config
    )


def _encodings(sample: Sample) -> Finding:
    count = len(sample.shapes)
    known = [shape.encoding for shape in sample.shapes if shape.encoding]
    if not known:
        return Finding("sessions", Severity.OK, f"{count:,} sessions were looked at")
    compact = sum(encoding in COMPACT for encoding in known)
    return Finding("sessions", Severity.OK, f"{compact:,} of {len(known):,} sessions looked at are in the compact encoding")


def _limit(name: str, what: str, unit: str, sizes: list[int], sample: Sample, config: Mapping[str, str]) -> Iterator[Finding]:
    new, old = f"hash-max-listpack-{name}", f"hash-max-ziplist-{name}"
    setting_name = new if new in config else old
    if setting_name not in config:
        return
    limit = int(config[setting_name])
    p50, p95 = int(percentile(sizes, 50)), int(percentile(sizes, 95))
    found = f"{setting_name} is {limit:,}; {what}: p50 {p50:,}, p95 {p95:,}, max {max(sizes):,}{' ' + unit if unit else ''}"
    if p95 <= limit:
        loose = sum(shape.encoding not in COMPACT and shape.encoding != "" for shape in sample.shapes)
        late = all(shape.largest <= limit for shape in sample.shapes) if name == "value" else False
        if loose and late and _within(sample, config):
            found += "; sessions that were longer once stay as they are until they are replaced with set"
        # One id for the old and the new name of the setting.
        yield Finding(new, Severity.OK, found)
        return
    wanted = _power_of_two(p95)
    over = sum(value > limit for value in sizes)
    is_worth_it = name == "entries" or wanted <= MEASURED
    severity = Severity.WARNING if is_worth_it and len(sizes) >= ENOUGH and 2 * over >= len(sizes) else Severity.INFO
    advice = f"{setting(f'{setting_name} {wanted}')}. Sessions become compact when they are created, or at the next restart."
    if not is_worth_it:
        advice = (
            f"It would take {setting_name} {wanted} to keep 95 % compact; above {MEASURED} it gains little, and each write "
            "moves more bytes. Rather keep such values elsewhere, if memory is short."
        )
    elif name == "entries":
        advice = f"Fewer top-level keys, nested in others; or {advice}"
    yield Finding(
        new, severity, found, f"{over:,} of {len(sizes):,} sessions are over it and take more memory. {_MEASURED}", advice
    )


def _within(sample: Sample, config: Mapping[str, str]) -> bool:
    """Checks whether any session has more fields than a compact one may have."""
    limit = config.get("hash-max-listpack-entries", config.get("hash-max-ziplist-entries"))
    return limit is not None and all(shape.fields <= int(limit) for shape in sample.shapes)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()
