"""What the tests of leases share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .sites import Server, Site, site


@pytest.fixture
async def here(newest_url: str, prefix: str) -> AsyncIterator[Site]:
    """One process ..."""
    async with site(newest_url, prefix) as one:
        yield one


@pytest.fixture
async def there(newest_url: str, prefix: str) -> AsyncIterator[Site]:
    """... and another one."""
    async with site(newest_url, prefix) as one:
        yield one


@pytest.fixture
async def server(newest_url: str, prefix: str) -> AsyncIterator[Server]:
    """What they share."""
    async with Server.of(newest_url, prefix) as one:
        yield one
