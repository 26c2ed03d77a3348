"""``botsession doctor``: looks at a Redis server as an operator of this store would."""

from .findings import Finding, Node, Report, Severity
from .run import CannotLook, examine, run

__all__ = ["CannotLook", "Finding", "Node", "Report", "Severity", "examine", "run"]
