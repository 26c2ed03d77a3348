"""The checks: from what was gathered to findings. Nothing here does I/O."""

from .run_all import check_node
from .sentinels import check_sentinels

__all__ = ["check_node", "check_sentinels"]
