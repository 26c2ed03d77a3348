"""Runs tests on every Python that pyproject.toml names, with the newest dependencies, and once with the lowest it allows.

    python -m tests.check_versions [arguments of pytest]

Each environment is kept in .venv-versions/. A Python that this machine does not have is skipped, and reported.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[1]
HOME: Final = ROOT / ".venv-versions"
#: Tests of what depends on a Python or on a release of redis-py, hiredis, msgpack or a framework.
TESTS: Final = ("tests/test_structure.py", "tests/transport", "tests/store", "tests/codec", "tests/adapters")
#: The extras whose lowest releases are tried, besides what is always installed.
EXTRAS: Final = ("adapters",)


def versions_of(project: dict[str, Any]) -> list[str]:
    """The versions of Python in the classifiers, in order: "3.11", ..."""
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in project["classifiers"])
    return [match[1] for match in found if match]


def lowest_of(project: dict[str, Any], extras: Sequence[str] = EXTRAS) -> list[str]:
    """A pin to the lower bound for each dependency of the package and of these extras."""
    pins = []
    for requirement in _requirements(project, extras):
        (bound,) = (each.version for each in requirement.specifier if each.operator in {">=", "~="})
        pins.append(f"{requirement.name}=={bound}")
    return pins


def _requirements(project: dict[str, Any], extras: Sequence[str]) -> Iterator[Requirement]:
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    for line in lines:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            yield from _requirements({**project, "dependencies": []}, sorted(requirement.extras))
        else:
            yield requirement


def find_python(version: str) -> str | None:
    """The path of a Python of this version; None if there is none."""
    candidates = [shutil.which(f"python{version}"), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for candidate in filter(None, candidates):
        told = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        if told.stdout.strip() == version:
            return candidate
    return None


def environment(name: str, python: str, pins: Sequence[str] = ()) -> Path:
    """The Python of an environment with the package, its tests' needs and these pins; made if there is none that fits."""
    folder = HOME / name
    mark, wanted = folder / "installed", "\n".join([(ROOT / "pyproject.toml").read_text(), *pins])
    binary = folder / "bin" / "python"
    if mark.exists() and mark.read_text() == wanted:
        return binary
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins))
    pip: list[str | Path] = [
        binary,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--constraint",
        constraints,
    ]
    subprocess.run([*pip, "--editable", f"{ROOT}[dev]"], check=True)
    mark.write_text(wanted)
    return binary


def main(arguments: Sequence[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = versions_of(project)
    runs = [(version, version, list[str]()) for version in versions]
    runs.append((f"{versions[0]}-lowest", versions[0], lowest_of(project)))
    results = {}
    for name, version, pins in runs:
        python = find_python(version)
        if python is None:
            results[name] = "skipped: there is no such Python here"
            continue
        sys.stderr.write(f"--- {name}: {' '.join(pins) or 'newest releases'}\n")
        binary = environment(name, python, pins)
        done = subprocess.run([binary, "-m", "pytest", "-q", *(arguments or TESTS)], cwd=ROOT, check=False)
        results[name] = "passed" if done.returncode == 0 else "FAILED"
    for name, result in results.items():
        sys.stdout.write(f"{name:12} {result}\n")
    return int("FAILED" in results.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
