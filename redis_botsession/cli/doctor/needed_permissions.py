"""The commands and channels that a user of the server must be allowed to use."""

from __future__ import annotations

from typing import Final

#: The commands that the store sends, or that its scripts call.
STORE_COMMANDS: Final = (
    *("ECHO", "EVALSHA", "EVAL", "HGETALL", "ZRANGE", "EXISTS", "SCAN", "TIME", "HMGET", "HGET", "HKEYS", "HSTRLEN", "HSET"),
    *("HDEL", "UNLINK", "ZADD", "ZSCORE", "ZREM", "ZREMRANGEBYSCORE", "PEXPIREAT", "PERSIST"),
)
#: What leases need besides, also those of aiogram's ``BotSessionIsolation``. Without the last three they poll.
LEASE_COMMANDS: Final = ("GET", "SET", "PTTL", "PEXPIRE", "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE")
#: What the store needs besides with ``replicas=`` and ``fsync=``.
DURABILITY_COMMANDS: Final = ("WAIT", "WAITAOF")
#: What the store sends besides to the nodes of a cluster: to find a key, and to use one whose slot is being moved.
CLUSTER_COMMANDS: Final = ("CLUSTER SLOTS", "ASKING")
#: The commands of the store that only ``scan`` and ``size`` need.
OPERATORS_ONLY: Final = frozenset({"SCAN"})
#: The rules that the doctor needs besides. It only reads.
DOCTOR_RULES: Final = (
    *("+info", "+config|get", "+object|encoding", "+acl|whoami", "+acl|dryrun"),
    *("+cluster|info", "+cluster|nodes", "+cluster|slots"),
)
#: Commands that no bot needs, with harmless arguments for ACL DRYRUN, which runs nothing.
DANGEROUS: Final = {
    "FLUSHALL": ("FLUSHALL",),
    "KEYS": ("KEYS", "*"),
    "CONFIG SET": ("CONFIG", "SET", "maxmemory", "0"),
    "SHUTDOWN": ("SHUTDOWN",),
}
