"""Checks of the network: latency, clock skew, encryption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ..facts import Clock
from ..findings import Finding, Severity
from ..formatting import percentile

#: Seconds between the clocks.
SKEW = 1.0
#: Milliseconds of half of the round trips.
SLOW_MS = 5.0


def check_clock(clock: Clock | None) -> Iterator[Finding]:
    """Checks the difference between the server's clock and this machine's, within the uncertainty of the round trip."""
    if clock is None:
        return
    ahead = clock.server - clock.local
    if max(abs(ahead) - clock.round_trip / 2, 0) > SKEW:
        yield Finding(
            "clock-skew",
            Severity.WARNING,
            f"the server's clock is {abs(ahead):,.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's: "
            f"{_time(clock.server)} there, {_time(clock.local)} here",
            "Bots compute a session's expires_at by their own clock, the server ends it by its own: too early or too late.",
            "Let both machines keep their time with NTP (timedatectl, chronyc tracking).",
        )
    else:
        yield Finding("clock-skew", Severity.OK, f"the clocks are {abs(ahead):.3f} s apart")


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s since 1970"


def check_latency(round_trips: Sequence[float]) -> Iterator[Finding]:
    """Checks the round trips, which are given in seconds."""
    if not round_trips:
        return
    p50, worst = 1000 * percentile(round_trips, 50), 1000 * max(round_trips)
    found = f"{len(round_trips)} round trips: p50 {p50:.2f} ms, max {worst:.2f} ms"
    if p50 <= SLOW_MS:
        yield Finding("latency", Severity.OK, found)
        return
    yield Finding(
        "latency",
        Severity.WARNING,
        found,
        "Each message costs one or two round trips, which its user waits for.",
        "Put the bots near the server: the same zone, the same network; look at its load (INFO commandstats, SLOWLOG GET).",
    )


def check_tls(*, is_private: bool) -> Iterator[Finding]:
    """Checks whether others on the network could read the traffic."""
    if is_private:
        yield Finding("tls", Severity.OK, "the connection is encrypted or does not leave this machine")
        return
    yield Finding(
        "tls",
        Severity.INFO,
        "the connection is not encrypted, and leaves this machine",
        "Password and sessions can be read and changed on the way.",
        "Use TLS: rediss:// in the URL, tls-port and certificates on the server; or a network of your own.",
    )
