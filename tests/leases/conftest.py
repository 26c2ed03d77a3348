"""Fixtures for tests of leases: two users of leases, and a view of the lease on the server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .holders import LeaseOnServer, LeaseUser, lease_user


@pytest.fixture
async def here(newest_url: str, prefix: str) -> AsyncIterator[LeaseUser]:
    """A store with leases, as in one process of a bot."""
    async with lease_user(newest_url, prefix) as one:
        yield one


@pytest.fixture
async def there(newest_url: str, prefix: str) -> AsyncIterator[LeaseUser]:
    """Another store with leases for the same sessions, as in another process."""
    async with lease_user(newest_url, prefix) as one:
        yield one


@pytest.fixture
async def server(newest_url: str, prefix: str) -> AsyncIterator[LeaseOnServer]:
    """The lease of ("u", "c") as the server has it."""
    async with LeaseOnServer.of(newest_url, prefix) as one:
        yield one
