"""Draws the results as a bar chart in SVG, for the README: cycles per second on small sessions.

Its colours are readable on light and on dark backgrounds, because an SVG shown as an image cannot know its background.
``python -m benchmarks.compare --chart FILE`` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

from .summary import REFERENCE, Median, medians

#: Numbers of handlers, with the colour of their bars.
SERIES: Final = ((64, "#6e7fd6"), (512, "#d9822b"))
#: The session size that is shown.
SIZE: Final = "small"
#: The contender with paler bars, because it is no store but an upper bound.
_CEILING: Final = "ceiling"
_INK: Final = "#768390"
_WIDTH: Final = 880
_LEFT: Final = 300
_RIGHT: Final = 120
_TOP: Final = 74
_BAR: Final = 13
_GROUP: Final = len(SERIES) * _BAR + 12
_TICKS: Final = 6


def chart(results: Mapping[str, Any]) -> str:
    """Returns the SVG.

    Raises:
        ValueError: the results have no figures for small sessions at the numbers of handlers that are shown.
    """
    cells = medians(results["cycles"])
    names = [
        contender["name"]
        for contender in results["contenders"]
        if any((contender["name"], SIZE, handlers) in cells for handlers, _ in SERIES)
    ]
    if not names:
        wanted = " or ".join(str(handlers) for handlers, _ in SERIES)
        raise ValueError(f"a chart needs figures for small sessions at {wanted} handlers")
    titles = {contender["name"]: contender["title"] for contender in results["contenders"]}
    shown = [cells[where] for name in names for handlers, _ in SERIES if (where := (name, SIZE, handlers)) in cells]
    highest = max(median.cycles_per_second for median in shown)
    step = _nice_step(highest)
    scale = (_WIDTH - _LEFT - _RIGHT) / max(highest, step)
    bottom = _TOP + len(names) * _GROUP
    height = bottom + 62
    title = "Message cycles per second: load, change one key, save"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" font-size="13" fill="{_INK}">',
        f"<title>{title}</title>",
        f'<text x="12" y="26" font-size="17" font-weight="600">{title}</text>',
        *_legend(),
        *_axis(step, int(highest // step), scale, bottom),
    ]
    has_errors = False
    for n, name in enumerate(names):
        y = _TOP + n * _GROUP + 6
        weight = ' font-weight="700"' if name == REFERENCE else ""
        middle = y + len(SERIES) * _BAR / 2 + 4.5
        parts.append(f'<text x="{_LEFT - 10}" y="{middle:g}" text-anchor="end"{weight}>{escape(titles[name])}</text>')
        for place, (handlers, colour) in enumerate(SERIES):
            median = cells.get((name, SIZE, handlers))
            if median is not None:
                has_errors = has_errors or bool(median.errors)
                parts.append(_bar(median, y + place * _BAR, scale, colour, opacity=0.45 if name == _CEILING else 1))
    parts += _caption(results, bottom, has_errors=has_errors)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _nice_step(highest: float) -> int:
    """Returns a round distance between ticks, so that about ``_TICKS`` of them fit below ``highest``."""
    raw = max(highest / _TICKS, 1)
    power = 10 ** math.floor(math.log10(raw))
    return int(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw))


def _legend() -> list[str]:
    parts = []
    for n, (handlers, colour) in enumerate(SERIES):
        x = 12 + 190 * n
        parts.append(f'<rect x="{x}" y="42" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="52.5">{handlers:,} concurrent handlers</text>')
    return parts


def _axis(step: int, ticks: int, scale: float, bottom: int) -> list[str]:
    parts = []
    for n in range(ticks + 1):
        x = _LEFT + n * step * scale
        opacity = 0.7 if n == 0 else 0.25
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="{_INK}" stroke-opacity="{opacity}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle" font-size="12">{n * step:,}</text>')
    return parts


def _bar(median: Median, y: float, scale: float, colour: str, *, opacity: float) -> str:
    length = median.cycles_per_second * scale
    label = f"{median.cycles_per_second:,.0f}" + (" *" if median.errors else "")
    return (
        f'<rect x="{_LEFT}" y="{y:g}" width="{length:.1f}" height="{_BAR - 2}" rx="2" fill="{colour}" '
        f'fill-opacity="{opacity:g}"/>'
        f'<text x="{_LEFT + length + 6:.1f}" y="{y + _BAR - 3:g}" font-size="11.5">{label}</text>'
    )


def _caption(results: Mapping[str, Any], bottom: int, *, has_errors: bool) -> list[str]:
    machine, versions = results["machine"], results["versions"]
    python = versions.get("Python", "")
    caption = (
        f"{results['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, {results['server']}, Python {python}, "
        f"{results['settings']['loop']}; one client process, sessions of 6 keys"
    )
    lines = [f'<text x="12" y="{bottom + 52}" font-size="11.5">{escape(caption)}</text>']
    if has_errors:
        note = "* besides failed cycles, which are not counted: no free connection, or a timeout"
        lines.append(f'<text x="12" y="{bottom + 35}" font-size="11.5">{note}</text>')
    return lines
