"""`counterseal-audit reapply-erasures`: after the database was restored, erase again what its log says was erased.

A backup holds what was erased after it was made. The orders are in the log, and the log was exported: the export is
verified against the pinned key, then every erasure in it is applied to the restored database, as its owner, before
anything is served. Exit codes: 0 done, 2 usage, 3 the export is incomplete, 4 it is tampered or forked, 8 no database.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal import config as configuration
from counterseal import db
from counterseal.canonical import parse_strict
from counterseal.config import ConfigError
from counterseal.errors import LedgerUnavailable
from counterseal.ids import new_id
from counterseal.ledger.entry import Entry
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.verify import Report, verify_log
from counterseal.rpc.runtime import ServiceConfig
from counterseal_audit.payloads.declared import LEDGER, Declared
from counterseal_audit.retention import engine, job_store, payload_store
from counterseal_audit.retention.database import run as execute
from counterseal_audit.retention.database import see, transaction
from counterseal_audit.retention.engine import Range, State
from counterseal_audit.retention.scrubbing import Scrubber

COMMANDS = ("reapply-erasures",)
BATCH_ENTRIES = 10_000
MAX_FILE_BYTES = 17 << 20


@dataclass(frozen=True, slots=True)
class Folder:
    """An export on disk, as the verifier reads it."""

    root: Path

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None when there is no such file."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def paths(self, below: str = "tile/") -> Iterable[str]:
        """Return the paths of all files below a folder."""
        found = (self.root / below).rglob("*")
        return sorted(path.relative_to(self.root).as_posix() for path in found if not path.is_dir())

    def lines(self, path: str) -> Iterator[bytes] | None:
        """Yield a file's lines without their newlines, None when there is no such file."""
        file = self.root / path
        return (line.rstrip(b"\n") for line in file.open("rb")) if file.is_file() else None


@dataclass(slots=True)
class Orders:
    """What an export orders: erasures by job, with the event ids of each order and of the ledger's own report."""

    declared: Declared = field(default_factory=Declared)
    ordered: dict[str, str] = field(default_factory=dict)
    reported: dict[str, str] = field(default_factory=dict)

    def add(self, index: int, entry: Entry) -> None:
        """Take in one entry."""
        self.declared.add(index, entry.document)
        if entry.type == "erasure.ordered":
            self.ordered.setdefault(str(entry.data["job_id"]), entry.event_id)
        elif entry.type == "payload.erased" and entry.producer == LEDGER:
            self.reported.setdefault(str(entry.data["job_id"]), entry.event_id)


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done to the restored database."""

    erasure_count: int
    destroyed_key_count: int
    deleted_row_count: int


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="counterseal-audit", description="Erase again after a restore.")
    command = parser.add_subparsers(dest="command", required=True).add_parser(COMMANDS[0], help=__doc__.split("\n")[0])
    command.add_argument("--config", type=Path, required=True, metavar="FILE.toml")
    command.add_argument("--export", type=Path, required=True, metavar="DIR", help="the newest export of the log")
    command.add_argument("--vkey", required=True, metavar="VKEY", help="the log's verifier key, as pinned")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        key = VerifierKey.parse(args.vkey)
        bound = ServiceConfig.bind("audit", configuration.load(args.config, os.environ))
        database = bound.database
        if not database.owner or database.owner_password_file is None:
            raise ConfigError(["database.owner, database.owner_password_file: needed by reapply-erasures"])
        password = configuration.read_secret(database.owner_password_file)
    except (VerificationError, ConfigError) as error:
        return _fail(2, str(error))
    orders = Orders()
    report = verify_log(Folder(args.export), key, on_entry=orders.add)
    if report.verdict is not None:
        worst = report.findings[0]
        return _fail(3 if report.verdict == "incomplete" else 4, f"the export does not verify: {worst.message}")
    try:
        applied = asyncio.run(_apply(db.owner_engine(database, database.owner, password), report, orders))
    except LedgerUnavailable as error:
        return _fail(8, error.message)
    summary = {
        "tenant": report.tenant,
        "size": report.size,
        "erasures": applied.erasure_count,
        "keys_destroyed": applied.destroyed_key_count,
        "rows_deleted": applied.deleted_row_count,
    }
    if args.json:
        sys.stdout.write(json.dumps(summary, sort_keys=True) + "\n")
    else:
        sys.stdout.write(
            f"tenant {report.tenant}: {applied.erasure_count} erasures applied, {applied.destroyed_key_count} keys"
            f" destroyed, {applied.deleted_row_count} payload rows deleted\n"
        )
    return 0


async def _apply(database: AsyncEngine, report: Report, orders: Orders) -> Applied:
    try:
        return await reapply(database, report.tenant, report.environment, orders)
    finally:
        await database.dispose()


async def reapply(database: AsyncEngine, tenant: str, environment: str, orders: Orders) -> Applied:
    """Apply the erasures of a verified export. database: connected as the owner. Raises LedgerUnavailable."""
    rows = 0
    async with transaction(database) as conn:
        logs = {
            log_id: await payload_store.size_of(conn, log_id)
            for log_id in await payload_store.logs_of(conn, tenant, environment)
        }
        keys = await _destroy(conn, list(orders.declared.deks))
        for job_id, job in orders.declared.jobs.items():
            destroyed: list[str] = []
            if LEDGER not in job.reported:  # ordered, but its keys were not named yet
                for log_id in logs:
                    destroyed += map(str, await payload_store.destroy_keys(conn, log_id, job.person))
            keys += len(destroyed)
            await _remember(conn, job_id, tenant, orders, destroyed)
    for log_id, size in logs.items():
        rest = Range(log_id, 0, size)
        while not rest.done:
            batch = rest.batch(BATCH_ENTRIES)
            rows += await _delete(database, batch, orders.declared)
            rest = Range(log_id, batch.end_idx, size)
    if not await Scrubber(database, as_owner=True).scrub():
        raise LedgerUnavailable(
            "everything is applied, but an open transaction may still see the destroyed keys, so they are in a file:"
            " end it and run this again"
        )
    return Applied(len(orders.declared.jobs), keys, rows)


async def _destroy(conn: AsyncConnection, deks: list[str]) -> int:
    return await execute(
        conn,
        "UPDATE ledger_dek SET wrapped = NULL, destroy_time = clock_timestamp()"
        " WHERE dek_id = ANY(CAST(:deks AS uuid[])) AND destroy_time IS NULL",
        deks=deks,
    )


async def _remember(conn: AsyncConnection, job_id: str, tenant: str, orders: Orders, destroyed: list[str]) -> None:
    """Make the restored database know the erasure, as far as the export says it had come."""
    job = orders.declared.jobs[job_id]
    await job_store.insert_job(
        conn,
        job_id=job_id,
        tenant=tenant,
        person=job.person,
        event_id=orders.ordered[job_id],
        report_event_id=orders.reported.get(job_id) or new_id(),
        now_ms=job.order_time_ms,
    )
    state = State.ERASING if LEDGER not in job.reported else State.WAITING if job.missing else State.FINISHED
    await job_store.set_job(
        conn,
        job_id,
        state,
        deks=destroyed or None,
        reported=sorted(job.reported),
        finish_time_ms=job.order_time_ms if state is State.FINISHED else None,
    )


async def _delete(database: AsyncEngine, batch: Range, declared: Declared) -> int:
    async with transaction(database) as conn:
        await see(conn, batch.log_id)
        gone: set[int] = set()
        for job in declared.jobs.values():
            for one in await payload_store.entries_with(conn, batch, engine.quoted(job.person)):
                document = parse_strict(one.entry)
                if engine.to_erase(document, job.person, job.order_time_ms, declared.deks):
                    gone.add(one.index)
        return await payload_store.delete_payload(conn, batch.log_id, sorted(gone))


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"counterseal-audit: {message}\n")
    return code
