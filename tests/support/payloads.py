"""Sealed entries of several people, what reads them back, and what searches a cluster's files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import parse_strict
from counterseal.ids import new_id
from counterseal.ledger import disclosure
from counterseal.rpc.ledger_wire import new_entry
from counterseal_audit.payloads.opening import Opener
from counterseal_audit.payloads.store import PayloadStore
from support.audit import Replica, append_one
from support.entries import NOW
from support.postgres import ServiceDatabase

SERVICES = ("policy", "credentials", "executor")


def asked(subject: str, text: str, *, retention: str = "", **more: Any) -> ledger_pb2.NewEntry:
    """A `request.received` of a person with something sealed."""
    return new_entry(
        "request.received",
        {"intent_code": "refund"},
        event_id=new_id(),
        event_time_ms=more.pop("event_time_ms", NOW),
        tenant=more.pop("tenant", "acme"),
        environment="prod",
        request_id=more.pop("request_id", "r-1"),
        subject=subject,
        sealed={"user_request": text, "prompt": text[::-1]},
        retention=retention,
        **more,
    )


async def opened(parts: Replica, index: int, tenant: str = "acme") -> dict[str, Any]:
    """What is stored sealed about an entry and can still be opened: name -> value."""
    log = await parts.logs.find(tenant, "prod")
    assert log is not None
    row = await parts.reader.by_index(log.log_id, index)
    assert row is not None
    rows = (await PayloadStore(parts.engine).of(log.log_id, [index])).get(index, [])
    strings = await Opener(parts.keys, log).open(parse_strict(row.entry), rows)
    return {one.name: one.value for one in map(disclosure.parse, strings)}


async def report(parts: Replica, job_id: str, *services: str, tenant: str = "acme") -> None:
    """Say that services have erased their copies, as their followers do."""
    for service in services or SERVICES:
        entry = new_entry(
            "payload.erased",
            {"job_id": job_id, "count": 1, "policy": "subject-erasure", "backup_horizon": "2027-01-31"},
            event_id=new_id(),
            event_time_ms=NOW,
            tenant=tenant,
            environment="prod",
        )
        await append_one(parts, entry, service)


async def admin(database: ServiceDatabase, sql: str, *args: object) -> list[Any]:
    """Run one statement as the cluster's superuser."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        return list(await connection.fetch(sql, *args))
    finally:
        await connection.close()


async def data_directory(database: ServiceDatabase) -> Path:
    ((path,),) = await admin(database, "SHOW data_directory")
    return Path(path)


async def search(database: ServiceDatabase, needles: Mapping[str, bytes], *, wal: bool = False) -> dict[str, list[str]]:
    """Return needle -> files of the cluster that hold it, after CHECKPOINT. wal: look in `pg_wal` only, else never."""
    await admin(database, "CHECKPOINT")
    root = await data_directory(database)
    found: dict[str, list[str]] = {name: [] for name in needles}
    for folder, _, names in os.walk(root):
        if (Path(folder) == root / "pg_wal") != wal:
            continue
        for name in names:
            try:
                content = (Path(folder) / name).read_bytes()
            except FileNotFoundError:
                continue
            for needle, data in needles.items():
                if data in content:
                    found[needle].append(str((Path(folder) / name).relative_to(root)))
    return found


def dictionary(words: Sequence[str]) -> list[str]:
    """Guesses of an attacker who knows the alphabet of what was sealed."""
    return [*words, *(word.upper() for word in words), *(word[::-1] for word in words)]
