"""Why a connection cannot be made: which errors a second attempt does not mend, and hints at common mistakes."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from ipaddress import ip_address
from ssl import SSLCertVerificationError, SSLError
from typing import Any, Final, TypeVar

from redis.exceptions import AuthenticationError, AuthorizationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

E = TypeVar("E", bound=BaseException)

_START_ONE: Final = "no server is running there: start one with `botsession server`, or use the URL of another"
_WANTS_TLS: Final = "does this server expect TLS (rediss://)?"
_WANTS_NO_TLS: Final = "does this server expect no TLS (redis://)?"


def is_final(error: BaseException) -> bool:
    """Returns whether a second attempt to connect fails as well: wrong credentials or certificates."""
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return True
    # A server reports in an alert what it holds against our certificate (RFC 8446, section 6.2).
    tls = error.__context__
    return isinstance(tls, SSLCertVerificationError) or (
        isinstance(tls, SSLError) and any(word in (tls.reason or "") for word in ("ALERT_UNKNOWN_CA", "CERTIFICATE"))
    )


def hinted(error: E, options: Mapping[str, Any], *, is_tls: bool) -> E:
    """Adds a hint to the message of an error with which redis-py could not connect, and returns the error.

    Args:
        error: It keeps its type and its cause.
        options: What the connection was made with: ``host``, or ``path``.
        is_tls: Whether the connection was to be encrypted.
    """
    if hint := _hint(error, options, is_tls=is_tls):
        error.args = (f"{str(error).rstrip('.')}; {hint}",)
    return error


def _hint(error: BaseException, options: Mapping[str, Any], *, is_tls: bool) -> str | None:
    if type(error) not in (RedisConnectionError, RedisTimeoutError) or is_final(error):
        return None
    if _is_refused(error.__context__):
        return _START_ONE if is_loopback(options.get("host", "localhost")) and "path" not in options else None
    if is_tls and (isinstance(error, RedisTimeoutError) or isinstance(error.__context__, (SSLError, ConnectionResetError))):
        return _WANTS_NO_TLS
    is_closed = isinstance(error.__context__, ConnectionResetError) or "closed by server" in str(error)
    if is_closed and not is_tls and "path" not in options:
        return _WANTS_TLS
    return None


def is_loopback(host: str) -> bool:
    """Returns whether a host is this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_refused(error: BaseException | None) -> bool:
    # asyncio puts the errors of several addresses into the text of one.
    return isinstance(error, ConnectionRefusedError) or (
        isinstance(error, OSError) and f"[Errno {errno.ECONNREFUSED}]" in str(error)
    )
