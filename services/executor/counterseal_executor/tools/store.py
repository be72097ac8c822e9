"""The registry at rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.documents.tool import ToolDescriptor, parse_tool
from counterseal_executor import database as db

COLUMNS = "name, version, tool_digest, body, create_time, retire_time"


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool and its place in the registry; times in milliseconds since 1970."""

    descriptor: ToolDescriptor
    create_ms: int
    retired: bool


async def lock_registry(conn: AsyncConnection, tenant: str) -> bool:
    """Serialise registrations of a tenant; returns whether its registry is empty."""
    await db.run(
        conn, "SELECT pg_advisory_xact_lock(hashtextextended('counterseal.tools:' || :tenant, 0))", tenant=tenant
    )
    found = await db.one(conn, "SELECT 1 FROM tool WHERE tenant = :tenant LIMIT 1", tenant=tenant)
    return found is None


async def insert(conn: AsyncConnection, tenant: str, tool: ToolDescriptor, people: Sequence[str], now_ms: int) -> None:
    """Store a new version."""
    await db.run(
        conn,
        "INSERT INTO tool (tenant, name, version, tool_digest, body, registered_by, create_time)"
        " VALUES (:tenant, :name, :version, :digest, :body, :people, :now)",
        tenant=tenant,
        name=tool.name,
        version=tool.version,
        digest=tool.digest,
        body=tool.body,
        people=list(people),
        now=db.time_of(now_ms),
    )


async def get(conn: AsyncConnection, tenant: str, reference: str) -> RegisteredTool | None:
    """Return `name@version`, or None."""
    name, _, version = reference.partition("@")
    row = await db.one(
        conn,
        f"SELECT {COLUMNS} FROM tool WHERE tenant = :tenant AND name = :name AND version = :version",
        tenant=tenant,
        name=name,
        version=version,
    )
    return None if row is None else _tool(row)


async def page(conn: AsyncConnection, tenant: str, after: str, most: int) -> list[RegisteredTool]:
    """Return tools by name and version after `name@version` (empty: from the start)."""
    found = await db.rows(
        conn,
        f"SELECT {COLUMNS} FROM tool WHERE tenant = :tenant AND name || '@' || version > :after"
        " ORDER BY name || '@' || version LIMIT :most",
        tenant=tenant,
        after=after,
        most=most,
    )
    return [_tool(row) for row in found]


async def retire(conn: AsyncConnection, tenant: str, reference: str, now_ms: int) -> bool:
    """Retire a version; returns whether it was live."""
    name, _, version = reference.partition("@")
    changed = await db.run(
        conn,
        "UPDATE tool SET retire_time = :now WHERE tenant = :tenant AND name = :name AND version = :version"
        " AND retire_time IS NULL",
        tenant=tenant,
        name=name,
        version=version,
        now=db.time_of(now_ms),
    )
    return changed == 1


async def first_person(conn: AsyncConnection, tenant: str, request_digest: str, now_ms: int) -> str | None:
    """Return who asked first within the hour, or None."""
    row = await db.one(
        conn,
        "SELECT person_id FROM admin_request WHERE tenant = :tenant AND request_digest = :digest"
        " AND expire_time > :now",
        tenant=tenant,
        digest=request_digest,
        now=db.time_of(now_ms),
    )
    return None if row is None else str(row[0])


async def remember_request(
    conn: AsyncConnection, tenant: str, request_digest: str, person: str, expire_ms: int, now_ms: int
) -> None:
    """Remember a first call; one that lies in the past is replaced, a live one of somebody else is kept."""
    await db.run(
        conn,
        "INSERT INTO admin_request (tenant, request_digest, person_id, expire_time)"
        " VALUES (:tenant, :digest, :person, :expire)"
        " ON CONFLICT (tenant, request_digest) DO UPDATE SET person_id = :person, expire_time = :expire"
        " WHERE admin_request.expire_time <= :now OR admin_request.person_id = :person",
        tenant=tenant,
        digest=request_digest,
        person=person,
        expire=db.time_of(expire_ms),
        now=db.time_of(now_ms),
    )


async def forget_request(conn: AsyncConnection, tenant: str, request_digest: str) -> None:
    """Forget a request that was carried out."""
    await db.run(
        conn,
        "DELETE FROM admin_request WHERE tenant = :tenant AND request_digest = :digest",
        tenant=tenant,
        digest=request_digest,
    )


def _tool(row: Any) -> RegisteredTool:
    return RegisteredTool(parse_tool(bytes(row.body)), db.ms_of(row.create_time) or 0, row.retire_time is not None)
