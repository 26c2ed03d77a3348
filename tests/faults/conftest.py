"""Collects the matrix of faults and servers, and prints it at the end of the run."""

from __future__ import annotations

import pytest

from ..support.redis_servers import SERVERS
from .matrix import MATRIX, Matrix
from .workload import SEED


@pytest.fixture(scope="session")
def matrix(pytestconfig: pytest.Config) -> Matrix:
    """The matrix of this run."""
    return pytestconfig.stash.setdefault(MATRIX, Matrix([server.id for server in SERVERS], SEED))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the matrix if a test of this run has filled it."""
    lines = config.stash[MATRIX].lines() if MATRIX in config.stash else []
    if lines:
        terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line(line)
