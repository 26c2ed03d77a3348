"""What the tests of ``botsession migrate`` share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from redis_botsession import SessionStore

from .migrating import Client, Migrate


@pytest.fixture
def migrate(capsys: pytest.CaptureFixture[str], empty_url: str, prefix: str) -> Migrate:
    """Within one server."""
    return Migrate(capsys, empty_url, prefix)


@pytest.fixture
def source_prefix(migrate: Migrate) -> str:
    """Of the keys to migrate."""
    return migrate.source_prefix


@pytest.fixture
async def source(empty_url: str) -> AsyncIterator[Client]:
    """Where they are."""
    async with Client.from_url(empty_url) as client:
        yield client


@pytest.fixture
async def target(empty_url: str, prefix: str) -> AsyncIterator[SessionStore]:
    """Where they are to be."""
    async with SessionStore.from_url(empty_url, prefix=prefix) as store:
        yield store
