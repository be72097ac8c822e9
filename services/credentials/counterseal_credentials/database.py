"""Transactions of this service: READ COMMITTED, one tenant each; the service's own loops see every tenant."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

EVERY_TENANT = "*"


@asynccontextmanager
async def transaction(engine: AsyncEngine, tenant: str) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that sees the rows of `tenant` only (row-level security); commits at the end."""
    async with engine.begin() as connection:
        await connection.execute(sa.text("SELECT set_config('counterseal.tenant', :tenant, true)"), {"tenant": tenant})
        yield connection
