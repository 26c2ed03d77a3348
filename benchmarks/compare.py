"""Compares ways to keep a bot's sessions in Redis: speed, lost updates, bytes, memory and the server's time.

Run ``make bench``, or ``python -m benchmarks.compare`` in an environment with ``redis-botsession[bench]``. It starts a Redis
server of its own, takes about 40 minutes, and nothing else should run on the machine. ``--quick`` takes about two minutes and
shows that everything works; its figures mean nothing.

It prints tables in Markdown. ``--json FILE`` also writes all figures, ``--chart FILE`` a chart as SVG; ``--from FILE`` makes
tables and chart from the JSON of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .chart import SERIES, SIZE, chart
from .contenders import CONTENDERS
from .processes import LOOPS
from .report import report
from .runs import Run, Settings
from .workload import SIZES


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").split(":", 1)[0])
    parser.add_argument("--quick", action="store_true", help="few short windows; shows only that everything works")
    parser.add_argument("--rounds", type=int, help="rounds through all contenders (5)")
    parser.add_argument("--seconds", type=float, help="length of each time window (1)")
    parser.add_argument("--only", type=_names, metavar="NAME[,..]", help=f"contenders: {', '.join(CONTENDERS)}")
    parser.add_argument("--sizes", type=_sizes, metavar="SIZE[,..]", help=f"session sizes: {', '.join(SIZES)}")
    parser.add_argument("--handlers", type=_numbers, metavar="N[,..]", help="numbers of concurrent handlers (1,16,64,512,5000)")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0], help="event loop (%(default)s)")
    parser.add_argument(
        "--cycles-only",
        action="store_true",
        help="measure message cycles only, not lost updates, bytes, clear, memory and processor",
    )
    parser.add_argument("--json", type=_output, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--chart", type=_output, metavar="FILE", help="write a chart to this file, as SVG")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="source", help="measure nothing; use the JSON of an earlier run"
    )
    options = parser.parse_args(arguments)
    settings = _settings(options)
    # Checked before the long measurement.
    if options.chart and not options.source and not _can_chart(settings):
        parser.error(f"a chart needs {SIZE} sessions and {' or '.join(str(handlers) for handlers, _ in SERIES)} handlers")
    results = _stored(options.source) if options.source else Run(settings).results()
    sys.stdout.write(report(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if options.chart:
        options.chart.write_text(chart(results), "utf-8")


def _stored(source: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(source.read_text("utf-8"))
    return results


def _settings(options: argparse.Namespace) -> Settings:
    settings = Settings.shortest() if options.quick else Settings()
    chosen = {
        name: value
        for name in ("rounds", "seconds", "only", "sizes", "handlers")
        if (value := getattr(options, name)) is not None
    }
    return replace(settings, loop=options.loop, cycles_only=options.cycles_only, **chosen)


def _can_chart(settings: Settings) -> bool:
    return SIZE in settings.sizes and any(handlers in settings.handlers for handlers, _ in SERIES)


def _output(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a directory")
    return path


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.split(","))))


def _names(text: str) -> tuple[str, ...]:
    return _known(text, tuple(CONTENDERS))


def _sizes(text: str) -> tuple[str, ...]:
    return _known(text, SIZES)


def _known(text: str, known: Sequence[str]) -> tuple[str, ...]:
    asked = text.split(",")
    if unknown := [name for name in asked if name not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
    return tuple(name for name in known if name in asked)


if __name__ == "__main__":
    main()
