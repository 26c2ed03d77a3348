"""``botsession migrate``: brings sessions from other storages in Redis to this one."""

from .run import SOURCES, Options, run

__all__ = ["SOURCES", "Options", "run"]
