"""What a user of the server must be allowed to do."""

from __future__ import annotations

from typing import Final

#: The commands that the store sends, or that its scripts call.
STORE_COMMANDS: Final = (
    *("ECHO", "EVALSHA", "EVAL", "HGETALL", "ZRANGE", "EXISTS", "SCAN", "TIME", "HMGET", "HGET", "HKEYS", "HSTRLEN", "HSET"),
    *("HDEL", "UNLINK", "ZADD", "ZSCORE", "ZREM", "ZREMRANGEBYSCORE", "PEXPIREAT", "PERSIST"),
)
#: What it sends besides to the nodes of a cluster: to find a key, and to use one whose slot is being moved.
CLUSTER_COMMANDS: Final = ("CLUSTER SLOTS", "ASKING")
#: Of the first, what only ``scan`` and ``size`` need.
OPERATORS_ONLY: Final = frozenset({"SCAN"})
#: What the doctor needs besides: it only reads.
DOCTOR_RULES: Final = (
    *("+info", "+config|get", "+object|encoding", "+acl|whoami", "+acl|dryrun"),
    *("+cluster|info", "+cluster|nodes", "+cluster|slots"),
)
#: What no bot needs, with harmless arguments for ACL DRYRUN, which runs nothing.
DANGEROUS: Final = {
    "FLUSHALL": ("FLUSHALL",),
    "KEYS": ("KEYS", "*"),
    "CONFIG SET": ("CONFIG", "SET", "maxmemory", "0"),
    "SHUTDOWN": ("SHUTDOWN",),
}
