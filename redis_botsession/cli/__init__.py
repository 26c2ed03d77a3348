"""The command line: ``botsession``."""

from ._main import main

__all__ = ["main"]
