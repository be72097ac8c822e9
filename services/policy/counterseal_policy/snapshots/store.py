"""Snapshots and activations in PostgreSQL: append-only; the newest activation per scope is the active one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal_policy.rules.files import PolicyFile
from counterseal_policy.snapshots.engine import PLATFORM

ACTIVATION_LOCK = "counterseal.activation"


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One snapshot without its documents. scopes: which of platform and tenant it speaks for."""

    tenant: str
    snapshot_id: str
    documents: tuple[str, ...]
    scopes: tuple[str, ...]
    create_time_ms: int


@dataclass(frozen=True, slots=True)
class Document:
    """One stored file."""

    scope: str
    file_name: str
    source: bytes


@dataclass(frozen=True, slots=True)
class Active:
    """Which snapshot is active for a scope, and in whose name it is stored."""

    scope_tenant: str
    tenant: str
    snapshot_id: str


async def insert(
    connection: AsyncConnection,
    tenant: str,
    snapshot_id: str,
    files: Sequence[tuple[PolicyFile, bytes]],
    published_by: str,
) -> bool:
    """Store a snapshot and its documents; False when it is there already."""
    for file, source in files:
        await connection.execute(
            sa.text(
                "INSERT INTO policy_document (tenant, digest, kind, scope, name, file_name, source)"
                " VALUES (:t, :d, :k, :s, :n, :f, :b) ON CONFLICT DO NOTHING"
            ),
            {
                "t": tenant,
                "d": file.digest,
                "k": file.kind,
                "s": file.scope,
                "n": file.name,
                "f": file.file_name,
                "b": source,
            },
        )
    stored = await connection.scalar(
        sa.text(
            "INSERT INTO snapshot (tenant, snapshot_id, documents, scopes, published_by)"
            " VALUES (:t, :i, :d, :s, :p) ON CONFLICT DO NOTHING RETURNING snapshot_id"
        ),
        {
            "t": tenant,
            "i": snapshot_id,
            "d": [file.digest for file, _ in files],
            "s": sorted({file.scope for file, _ in files}),
            "p": published_by,
        },
    )
    return stored is not None


async def read(connection: AsyncConnection, tenant: str, snapshot_id: str) -> SnapshotRow | None:
    """Return one snapshot of a tenant."""
    rows = await _snapshots(connection, "snapshot_id = :i", {"t": tenant, "i": snapshot_id, "n": 1})
    return rows[0] if rows else None


async def listed(
    connection: AsyncConnection, tenant: str, before: tuple[int, str] | None, limit: int
) -> list[SnapshotRow]:
    """Return snapshots, newest first, after the position `before` (create_time_ms, snapshot_id)."""
    if before is None:
        return await _snapshots(connection, "true", {"t": tenant, "n": limit})
    where = "((extract(epoch FROM create_time) * 1000)::bigint, snapshot_id) < (:ms, :i)"
    return await _snapshots(connection, where, {"t": tenant, "ms": before[0], "i": before[1], "n": limit})


async def documents(connection: AsyncConnection, tenant: str, digests: Sequence[str]) -> list[Document]:
    """Return stored files by digest, in the order of their names."""
    rows = await connection.execute(
        sa.text(
            "SELECT scope, file_name, source FROM policy_document WHERE tenant = :t AND digest = ANY(:d)"
            " ORDER BY file_name, digest"
        ),
        {"t": tenant, "d": list(digests)},
    )
    return [Document(row.scope, row.file_name, bytes(row.source)) for row in rows]


async def platform_digests(connection: AsyncConnection, tenant: str, digests: Sequence[str]) -> set[str]:
    """Return those of some stored documents that speak for the platform."""
    rows = await connection.execute(
        sa.text("SELECT digest FROM policy_document WHERE tenant = :t AND digest = ANY(:d) AND scope = 'platform'"),
        {"t": tenant, "d": list(digests)},
    )
    return {row.digest for row in rows}


async def lock_activation(connection: AsyncConnection) -> None:
    """Serialise activations: what is empty must still be empty when the bootstrap is written."""
    await connection.execute(
        sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": ACTIVATION_LOCK}
    )


async def active(connection: AsyncConnection, tenant: str) -> dict[str, Active]:
    """Return what is active for the platform and a tenant, by scope tenant."""
    rows = await connection.execute(
        sa.text(
            "SELECT DISTINCT ON (scope_tenant) scope_tenant, tenant, snapshot_id FROM activation"
            " WHERE scope_tenant IN (:t, :p) ORDER BY scope_tenant, seq DESC"
        ),
        {"t": tenant, "p": PLATFORM},
    )
    return {row.scope_tenant: Active(row.scope_tenant, row.tenant, row.snapshot_id) for row in rows}


async def activate(
    connection: AsyncConnection,
    tenant: str,
    scope_tenant: str,
    snapshot_id: str,
    activated_by: Sequence[str],
    *,
    bootstrap: bool,
) -> None:
    """Make a snapshot the active one of a scope."""
    await connection.execute(
        sa.text(
            "INSERT INTO activation (tenant, scope_tenant, snapshot_id, activated_by, bootstrap)"
            " VALUES (:t, :s, :i, :by, :b)"
        ),
        {"t": tenant, "s": scope_tenant, "i": snapshot_id, "by": list(activated_by), "b": bootstrap},
    )


async def _snapshots(connection: AsyncConnection, where: str, arguments: dict[str, Any]) -> list[SnapshotRow]:
    rows = await connection.execute(
        sa.text(
            "SELECT tenant, snapshot_id, documents, scopes, (extract(epoch FROM create_time) * 1000)::bigint AS ms"
            f" FROM snapshot WHERE tenant = :t AND {where}"
            " ORDER BY (extract(epoch FROM create_time) * 1000)::bigint DESC, snapshot_id DESC LIMIT :n"
        ),
        arguments,
    )
    return [
        SnapshotRow(row.tenant, row.snapshot_id, tuple(row.documents), tuple(row.scopes), int(row.ms)) for row in rows
    ]
