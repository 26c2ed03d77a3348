"""The pauses between attempts: to reconnect, to reroute a call in a cluster, to subscribe again. In seconds, with jitter."""

from __future__ import annotations

from typing import Final

from redis.backoff import ExponentialWithJitterBackoff

#: Between attempts to connect to a server, or to ask sentinels. The first attempt is made at once.
RECONNECT_DELAYS: Final = ExponentialWithJitterBackoff(base=0.02, cap=1.0)
#: Before a call that no node of a cluster has served is tried again.
REROUTE_DELAYS: Final = ExponentialWithJitterBackoff(base=0.01, cap=0.25)
#: Between attempts to subscribe again after the connection for pub/sub was lost.
RESUBSCRIBE_DELAYS: Final = ExponentialWithJitterBackoff(base=0.05, cap=1.0)
