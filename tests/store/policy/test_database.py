"""The policy service's tables: what a tenant sees, what the runtime role may do, and what an outage looks like."""

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from counterseal.errors import PolicyUnavailable
from counterseal_policy.database import EVERY_TENANT, transaction
from support.policy_service import plan, policy_service
from support.postgres import FreshDatabase
from support.requirements import requirement

OF_A_TENANT = ("policy_document", "snapshot", "activation", "decision", "approval_task")


@requirement("tenant:isolated")
async def test_the_database_itself_shows_a_tenant_its_own_rows_only(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await service.authorize(plan(5000))
        for table in OF_A_TENANT:
            for tenant, seen in (("acme", True), (EVERY_TENANT, True), ("globex", False), ("", False)):
                async with transaction(service.engine, tenant) as connection:
                    found = await connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
                # The platform's activation binds every tenant, so each of them sees it.
                assert bool(found) is (seen or table == "activation"), (table, tenant)
        async with service.engine.begin() as connection:
            assert not await connection.scalar(sa.text("SELECT count(*) FROM decision")), "no tenant was named"


@requirement("tenant:isolated")
async def test_a_row_of_another_tenant_cannot_be_written(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        with pytest.raises(DBAPIError, match="row-level security"):
            async with transaction(service.engine, "acme") as connection:
                await connection.execute(
                    sa.text(
                        "INSERT INTO snapshot (tenant, snapshot_id, documents, scopes, published_by)"
                        " VALUES ('globex', 'x', '{}', '{}', 'user:eve')"
                    )
                )


async def test_votes_and_tasks_cannot_be_rewritten_or_deleted(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        for statement in (
            "DELETE FROM approval_vote",
            "DELETE FROM approval_task",
            "DELETE FROM containment",
            "UPDATE approval_vote SET approved = true",
            "UPDATE approval_task SET card_digest = 'x'",
            "UPDATE approval_task SET decide_by = 'infinity'",
            "DELETE FROM outbox",
        ):
            with pytest.raises(DBAPIError, match="permission denied"):
                await service.sql(statement)


async def test_a_database_that_is_away_is_an_outage_and_no_denial(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await service.authorize(plan(), "COMMIT")
        owner = await asyncpg.connect(service.owner_dsn)
        name = await owner.fetchval("SELECT current_database()")
        await owner.close()
        admin = await asyncpg.connect(service.admin_dsn)
        try:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
                name,
            )
        finally:
            await admin.close()
        for _ in range(30):
            try:
                answer = await service.authorize(plan(), "COMMIT")
            except PolicyUnavailable:
                continue
            assert answer.signed is not None
            break
        else:
            pytest.fail("the service did not come back")


async def test_a_database_that_cannot_be_reached_is_said_so() -> None:
    engine = create_async_engine("postgresql+asyncpg://x:x@127.0.0.1:1/x")
    with pytest.raises(PolicyUnavailable):
        async with transaction(engine, "acme"):
            pass
    await engine.dispose()
