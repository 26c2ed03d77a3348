"""The errors of this package.

    SessionError
    ├── VersionConflict      the session is not at the version that was expected
    ├── SessionGone          the session that was loaded has been deleted or has expired
    ├── OutcomeUnknown       the connection was lost before the reply to a write came
    ├── DurabilityUnproven   a write was applied, and may still be lost with the server
    ├── CorruptSession       what is stored is not a session, or not this one
    ├── SerializationError   a value cannot be stored
    └── SessionTooLarge      more bytes than the limit

Bad arguments raise ``TypeError`` and ``ValueError``, as everywhere in Python. Error replies of Redis are raised as the class of
``redis.exceptions`` that redis-py has for them.

No message holds a value of a session, since messages end up in logs.
"""

from __future__ import annotations

from typing import Any


class SessionError(Exception):
    """Base of all errors of this package.

    Attributes:
        key: The Redis key of the session, or None where no single session is meant.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class VersionConflict(SessionError):
    """The session is not at ``expected`` but at ``actual`` (0: there is none). Nothing was written."""

    def __init__(self, message: str, *, key: str | None = None, expected: int = 0, actual: int = 0) -> None:
        super().__init__(message, key=key)
        self.expected = expected
        self.actual = actual


class SessionGone(SessionError):
    """The session was deleted or has expired since it was loaded. Nothing was written, nothing is brought back."""


class OutcomeUnknown(SessionError):
    """A write was sent and no reply came: it may or may not have been applied, and was not sent again.

    Load the session to see. The error of the connection is the ``__cause__``.
    """


class DurabilityUnproven(SessionError):
    """A write was applied, but fewer replicas or disks have confirmed it in time than the store waits for.

    Readers already see the write. It is lost only if the primary fails before the replicas have received it.

    Attributes:
        result: What the call would have returned: the version, how many sessions were removed, ...
    """

    def __init__(self, message: str, *, key: str | None = None, result: Any = None) -> None:
        super().__init__(message, key=key)
        self.result = result


class CorruptSession(SessionError):
    """What is stored at the key does not decode, or belongs to another session. Nothing was written.

    It can still be deleted, cleared, touched and replaced with ``set``.

    Attributes:
        field: The field of the hash that is wrong, as text.
    """

    def __init__(self, message: str, *, key: str | None = None, field: str | None = None) -> None:
        super().__init__(message, key=key)
        self.field = field


class SerializationError(SessionError):
    """A value cannot be stored. Nothing was written.

    Attributes:
        path: Where in the data the value is, like ``cart[2].price``.
    """

    def __init__(self, message: str, *, key: str | None = None, path: str | None = None) -> None:
        super().__init__(message, key=key)
        self.path = path


class SessionTooLarge(SessionError):
    """The data takes more bytes than the store's ``max_bytes``. Nothing was written.

    Attributes:
        size: Bytes of all top-level keys and their packed values.
        limit: Bytes allowed.
    """

    def __init__(self, message: str, *, key: str | None = None, size: int = 0, limit: int = 0) -> None:
        super().__init__(message, key=key)
        self.size = size
        self.limit = limit
