"""What the tests of leases share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .holders import LeaseOnServer, LeaseUser, lease_user


@pytest.fixture
async def here(newest_url: str, prefix: str) -> AsyncIterator[LeaseUser]:
    """One process ..."""
    async with lease_user(newest_url, prefix) as one:
        yield one


@pytest.fixture
async def there(newest_url: str, prefix: str) -> AsyncIterator[LeaseUser]:
    """... and another one."""
    async with lease_user(newest_url, prefix) as one:
        yield one


@pytest.fixture
async def server(newest_url: str, prefix: str) -> AsyncIterator[LeaseOnServer]:
    """What they share."""
    async with LeaseOnServer.of(newest_url, prefix) as one:
        yield one
