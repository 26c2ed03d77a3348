"""Runs the comparison: several rounds of message cycles, each contender in a fresh process; then the other costs."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from redis_botsession.embedded import LocalServer

from . import clearing, lost_updates
from .contenders import CONTENDERS, installed
from .cycles import Plan, measure_all
from .measures import measure_memory, measure_server, measure_wire
from .processes import LOOPS, in_child
from .summary import medians, targets
from .workload import SIZES

#: Contenders whose memory is measured; the others store sessions in the same form as one of these.
_MEMORY: Final = ("store", "json", "aiogram", "telebot", "glide")
#: Distributions whose versions matter besides those of the contenders.
_PACKAGES: Final = ("redis", "hiredis", "msgpack", "uvloop")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and for how long.

    Attributes:
        quick: Whether the run only shows that everything works; its figures mean nothing.
        rounds: Number of rounds through all contenders.
        seconds: Length of the time window of a cell.
        warmup: Seconds of work before the window.
        only: Names of the contenders.
        sizes: Names of the session sizes.
        handlers: Numbers of concurrent handlers.
        loop: Name of the event loop.
        cycles_only: Whether only message cycles are measured.
        lost_runs: Number of runs of the lost updates.
        others: Number of keys of other users beside the user who is cleared.
        clear_rounds: How often the user is cleared.
        server_cycles: Number of message cycles over which the server's time is measured.
        memory_counts: Number of sessions of each size over which memory is measured.
    """

    quick: bool = False
    rounds: int = 5
    seconds: float = 1.0
    warmup: float = 0.3
    only: tuple[str, ...] = tuple(CONTENDERS)
    sizes: tuple[str, ...] = SIZES
    handlers: tuple[int, ...] = (1, 16, 64, 512, 5000)
    loop: str = LOOPS[0]
    cycles_only: bool = False
    lost_runs: int = 3
    others: int = 1_000_000
    clear_rounds: int = 15
    server_cycles: int = 20_000
    memory_counts: Mapping[str, int] = field(default_factory=lambda: {"small": 10_000, "medium": 10_000, "large": 1000})

    @classmethod
    def shortest(cls) -> Self:
        """Returns the settings of a run that only shows that everything works."""
        return cls(
            quick=True,
            rounds=1,
            seconds=0.2,
            warmup=0.1,
            sizes=("small",),
            handlers=(1, 64, 512),
            lost_runs=1,
            others=20_000,
            clear_rounds=3,
            server_cycles=1000,
            memory_counts={"small": 500, "medium": 500, "large": 50},
        )


class Run:
    """One run with some settings; shows a progress bar on the standard error if that is a terminal."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._missing = [name for name in settings.only if installed(CONTENDERS[name].package) is None]
        self._names = [name for name in settings.only if name not in self._missing]
        self._failures: list[str] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )

    def results(self) -> dict[str, Any]:
        """Measures everything, and returns what ``--json`` writes. Measurements that failed are in ``failures``."""
        settings = self._settings
        with self._progress, LocalServer(tcp=True) as server:
            results: dict[str, Any] = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": _machine(),
                "server": _server(server.url),
                "versions": self._versions(),
                "settings": asdict(settings),
                "contenders": [
                    {"name": name, "title": CONTENDERS[name].title, "package": CONTENDERS[name].package} for name in self._names
                ],
                "missing": [CONTENDERS[name].package for name in self._missing],
                "failures": self._failures,
                "cycles": self._cycles(server.url),
            }
            if not settings.cycles_only:
                results |= self._costs(server.url)
        results["medians"] = [
            {"contender": name, "size": size, "handlers": handlers, **asdict(median)}
            for (name, size, handlers), median in medians(results["cycles"]).items()
        ]
        results["targets"] = [asdict(target) for target in targets(results)]
        return results

    def _cycles(self, url: str) -> list[dict[str, Any]]:
        settings, names = self._settings, self._names
        plan = Plan(settings.sizes, settings.handlers, settings.seconds, settings.warmup, settings.loop)
        per_process = len(plan.sizes) * len(plan.handlers)
        task = self._progress.add_task("message cycles", total=settings.rounds * len(names) * per_process)
        cells: list[dict[str, Any]] = []
        for number in range(settings.rounds):
            first = number % len(names)
            # Each round begins with another contender, so that no contender is always the first.
            for place, name in enumerate(names[first:] + names[:first]):
                self._progress.update(task, description=f"message cycles, round {number + 1}, {name}")
                with self._noting(f"{name}: message cycles, round {number + 1}"):
                    for cell in in_child(measure_all, name, url, plan):
                        cells.append(asdict(cell) | {"round": number + 1})
                        self._progress.advance(task)
                done = (number * len(names) + place + 1) * per_process
                self._progress.update(task, completed=done)
        return cells

    def _costs(self, url: str) -> dict[str, Any]:
        settings, loop = self._settings, self._settings.loop
        compared = set(clearing.NAMES) <= set(self._names)
        results: dict[str, Any] = {
            "lost_updates": self._each("lost updates", self._among(lost_updates.NAMES), self._lost),
            "wire": self._each("bytes", self._names, lambda name: _only(measure_wire, name, url, loop)),
            "memory": self._each(
                "memory", self._among(_MEMORY), lambda name: _only(measure_memory, name, url, loop, settings.memory_counts)
            ),
            "server_cpu": self._each(
                "server", self._names, lambda name: _only(measure_server, name, url, loop, settings.server_cycles)
            ),
        }
        if compared:
            found = self._each(
                "clear", ["clear"], lambda _: _only(clearing.measure_clear, url, loop, settings.others, settings.clear_rounds)
            )
            for times in found.values():
                results["clear"] = times | {"others": settings.others, "names": list(clearing.NAMES)}
        return results

    def _lost(self, name: str) -> dict[str, list[int]]:
        runs = range(self._settings.lost_runs)
        return {str(number): [lost_updates.kept(name, number) for _ in runs] for number in lost_updates.PROCESSES}

    def _among(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self._names]

    def _each(self, what: str, names: list[str], measure: Callable[[str], Any]) -> dict[str, Any]:
        task = self._progress.add_task(what, total=len(names))
        found: dict[str, Any] = {}
        for name in names:
            self._progress.update(task, description=f"{what}, {name}")
            with self._noting(f"{name}: {what}"):
                found[name] = measure(name)
            self._progress.advance(task)
        return found

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Notes a measurement that fails, so that the run goes on with the others."""
        try:
            yield
        except RuntimeError as error:
            _log.warning("%s: %s", what, error)
            self._failures.append(f"{what}: {error}")

    def _versions(self) -> dict[str, str]:
        packages = dict.fromkeys([*(CONTENDERS[name].package for name in self._names), *_PACKAGES])
        found = {package: version for package in packages if (version := installed(package)) is not None}
        return {"Python": platform.python_version(), **found}


def _only(work: Callable[..., None], *args: object) -> Any:
    (result,) = in_child(work, *args)
    return result


def _server(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        info: dict[str, Any] = client.info("server")
    if info.get("server_name") == "valkey":
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def _machine() -> dict[str, Any]:
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
