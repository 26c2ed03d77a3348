"""``botsession migrate``: brings sessions from other storages in Redis to this one."""

from .run import Options, run
from .sources.registry import SOURCES

__all__ = ["SOURCES", "Options", "run"]
