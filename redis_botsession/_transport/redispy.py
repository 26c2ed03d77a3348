"""All that this package uses of redis-py beyond its public interface, in one file.

redis-py connects (addresses, TLS, AUTH, HELLO, SELECT); then its socket is taken over, for which there is no public way.
``tests/transport/test_redispy.py`` fails by the name of an attribute that a release of redis-py has moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import redis
from redis.asyncio import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError

from ..errors import SessionError

#: The settings of a ``RedisCluster`` that its connections do not take, or that are about connections of its own.
CLUSTER_ONLY: Final = frozenset(
    {
        "response_callbacks",
        "himport_registry",
        "max_connections",
        "redis_connect_func",
        "event_dispatcher",
        "maint_notifications_config",
        "oss_cluster_maint_notifications_handler",
    }
)


def take_over(connection: Any) -> tuple[asyncio.StreamWriter, bytes]:
    """Takes the socket away from a redis-py asyncio connection.

    Returns:
        The writer, whose transport is the socket's, and the bytes that were received and not read.

    Raises:
        redis.exceptions.ConnectionError: the connection has been lost.
        SessionError: this release of redis-py keeps its socket elsewhere.
    """
    try:
        reader, writer = connection._reader, connection._writer
        is_lost = writer.transport.is_closing() or reader.at_eof() or connection._parser._reader.has_data()
        rest = bytes(reader._buffer)
    except AttributeError as error:
        raise SessionError(
            f"redis-py {redis.__version__} is not supported by this release of redis-botsession: {error}"
        ) from error
    if is_lost:
        raise RedisConnectionError("the connection was lost while it was made")
    connection._reader = connection._writer = None
    return writer, rest


def abort(connection: Any) -> None:
    """Closes the socket of a redis-py asyncio connection at once, whether it is being read from or not."""
    connection._writer.transport.abort()


def cluster_settings(
    client: RedisCluster,
) -> tuple[dict[str, Any], tuple[tuple[str, int], ...], Callable[[tuple[str, int]], tuple[str, int]] | None]:
    """Returns the options of a cluster client's connections, its first nodes, and its ``address_remap``."""
    options = {
        name: value for name, value in client.connection_kwargs.items() if name not in CLUSTER_ONLY and value is not None
    }
    nodes = client.nodes_manager
    seeds = tuple((node.host, int(node.port)) for node in nodes.startup_nodes.values())
    return options, seeds, nodes.address_remap
