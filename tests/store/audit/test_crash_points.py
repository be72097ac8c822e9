"""The process is killed at each durable step of an entry's life, seen from outside: at the messages that make it so.

Between the process and its two stores stand relays. A trap lets a message pass, or not, and kills the process right
there; then a new one starts, producers send again, and what stands in the log must verify. At a file of the export
directory nothing passes by: there the process ends itself, at an audit event of the interpreter (`support.killed_at`).
"""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.cli.audit_sources import Directory
from counterseal.embedded.layout import Running
from counterseal.errors import LedgerUnavailable
from counterseal.ledger.entry import parse
from counterseal.ledger.verify import verify_log
from counterseal.rpc.ledger_client import Appended, LedgerClient
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.retention.database import transaction
from counterseal_audit.retention.engine import State
from counterseal_audit.retention.job_store import open_job
from counterseal_audit.tiles.exporter import folder_of
from support.audit import Replica, exported_verifies, replica_on_vault
from support.audit_process import Process, all_entries, channel_to, login, producer_identity, stack
from support.entries import changed
from support.erasing import OLGA, checked, state
from support.exports import Outside
from support.killed_at import killed_at
from support.payloads import admin, asked, opened, report
from support.pg_proxy import Gate, Line, proxy
from support.postgres import ServiceDatabase
from support.requirements import requirement
from support.vault_tap import VaultTap

ENTRIES = 4


@dataclass(frozen=True)
class Point:
    """Where to kill: before or after a call of Vault or a statement. in_use: only when the tenant's log has begun.

    vault: what the path is like. row: what the statement's values hold, sql: what its text holds; it is durable with
    the answer `durable_with`.
    """

    name: str
    side: str
    in_use: bool = True
    vault: str = ""
    row: bytes = b""
    sql: bytes = b""
    durable_with: bytes = b"Z"


COMMIT = b"COMMIT\x00"
BIRTH, ANCHOR, SIGN = r"/ledger/log/", r"/data/ledger/\d+$", r"/transit/prod/sign/log-prod$"
LEASE = b"UPDATE ledger_bucket SET lease_by"
POINTS = (
    Point("the birth is reserved", "before", in_use=False, vault=BIRTH),
    Point("the birth is reserved", "after", in_use=False, vault=BIRTH),
    Point("the first anchor", "before", in_use=False, vault=ANCHOR),
    Point("the first anchor", "after", in_use=False, vault=ANCHOR),
    Point("the genesis row", "before", in_use=False, row=b'"type":"log.genesis"'),
    Point("the genesis row", "after", in_use=False, row=b'"type":"log.genesis"', durable_with=COMMIT),
    Point("the append", "before", row=b'"type":"plan.changed"'),
    Point("the append", "after", row=b'"type":"plan.changed"'),
    Point("the bucket's lease", "before", sql=LEASE),
    Point("the bucket's lease", "after", sql=LEASE),
    Point("the anchor moves", "before", vault=ANCHOR),
    Point("the anchor moves", "after", vault=ANCHOR),
    Point("the signature", "before", vault=SIGN),
    Point("the signature", "after", vault=SIGN),
    Point("the checkpoint row", "before", row="\u2014 ".encode()),
    Point("the checkpoint row", "after", row="\u2014 ".encode(), durable_with=COMMIT),
)


class Trap:
    """Kills the process once, at the point for which it is armed."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self._lock = threading.Lock()
        self._point: Point | None = None
        self.sprung = threading.Event()

    def arm(self, point: Point) -> None:
        self.sprung.clear()
        self._point = point

    @property
    def is_armed(self) -> bool:
        return self._point is not None

    def vault(self, side: str, method: str, path: str) -> None:
        point = self._point
        if point and point.vault and method in ("POST", "PUT") and side == point.side and re.search(point.vault, path):
            self._spring(point)
            raise ConnectionAbortedError

    def database(self) -> Gate:
        """Return the gate of one connection."""
        running = False
        texts: dict[bytes, bytes] = {}  # prepared statements by their names

        def is_meant(point: Point, message: bytes) -> bool:
            if message[:1] != b"B":
                return False
            name = message[5:].split(b"\0")[1]
            return point.row in message if point.row else point.sql in texts.get(name, b"")

        def gate(side: str, message: bytes) -> bool:
            nonlocal running
            point = self._point
            if side == "client" and message[:1] == b"P":
                name, text = message[5:].split(b"\0")[:2]
                texts[name] = text
            if point is None or not (point.row or point.sql):
                return False
            if side == "client" and is_meant(point, message):
                if point.side == "before":
                    return self._spring(point)
                running = True
            durable = message.endswith(COMMIT) if point.durable_with == COMMIT else message[:1] == point.durable_with
            return side == "server" and running and durable and self._spring(point)

        return gate

    def _spring(self, point: Point) -> bool:
        with self._lock:
            if self._point is not point:
                return False
            self._point = None
            assert self.process is not None
            self.process.kill()
        self.sprung.set()
        return True


Sent = tuple[ledger_pb2.NewEntry, Appended]


@dataclass
class Site:
    """A stack, a process on it behind relays, a producer, and a trap."""

    running: Running
    process: Process
    trap: Trap
    client: LedgerClient
    engine: AsyncEngine

    async def sprung(self, point: Point, more: Callable[[int], Coroutine[Any, Any, None]] | None = None) -> None:
        """Wait until the process was killed where it should be, start another, and wait until all was taken.

        more: sends some entries, again until then. A publisher that was past the point when the trap was armed may have
        signed the first of them.
        """
        sending = [asyncio.create_task(more(0))] if more else []
        while not await asyncio.to_thread(self.trap.sprung.wait, 1):
            assert not (self.process.is_dead and self.trap.is_armed), f"{point.side} {point.name}: it died before"
            if more and sending[-1].done():
                sending.append(asyncio.create_task(more(len(sending))))
        self.process.start()
        await asyncio.gather(*sending)

    async def until_taken(self, request: ledger_pb2.NewEntry) -> Appended:
        """Append as an outbox does: again until there is an answer."""
        while True:
            try:
                return await self.client.append_one(request)
            except LedgerUnavailable:
                self.process.check()
                await asyncio.sleep(0.05)

    async def verify(self, tenant: str, folder: Path) -> list[bytes]:
        """Wait until all is signed; return the entries after `verify log` found no fault with their export."""
        logged = await all_entries(self.running, tenant)
        log = await LogStore(self.engine).find(tenant, "prod")
        assert log is not None
        while (last := await CheckpointStore(self.engine).latest(log.log_id)) is None or last.size < len(logged):
            self.process.check()
            await asyncio.sleep(0.1)
        assert await exported_verifies(self.engine, log, folder)
        return logged


@asynccontextmanager
async def site(tenants: Sequence[str]) -> AsyncIterator[Site]:
    """Start everything but the process."""
    async with stack(tenants) as running, AsyncExitStack() as ending:
        trap = Trap()
        tap = VaultTap(running.data_dir / "openbao", trap.vault)
        tap.start()
        ending.callback(tap.stop)
        line = Line(gates=trap.database)
        port = await ending.enter_async_context(proxy(running.control.host, running.control.port, line))
        settings = {"COUNTERSEAL_VAULT__ADDRESS": tap.address, "COUNTERSEAL_DATABASE__PORT": str(port)}
        trap.process = process = Process(running, settings)
        ending.callback(process.close)
        dsn = running.control.dsn("counterseal_audit")
        engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
        ending.push_async_callback(engine.dispose)
        channel = await ending.enter_async_context(channel_to(process.address, await producer_identity(running)))
        client = LedgerClient(channel, timeout_seconds=5)
        ending.push_async_callback(client.close)
        yield Site(running, process, trap, client, engine)


async def send(here: Site, tenant: str, name: str, log: list[Sent]) -> None:
    """Append a stream, and keep what was sent beside what was answered."""
    for seq in range(1, ENTRIES + 1):
        request = changed(stream=f"plan:{name}", seq=seq, tenant=tenant)
        log.append((request, await here.until_taken(request)))


@requirement("ledger:acknowledged-kept")
@requirement("ledger:verifies-after-every-crash")
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_after_a_kill_at_any_durable_step_the_log_verifies_and_retries_find_their_index(tmp_path: Path) -> None:
    tenants = [f"tenant-{n}" for n in range(len(POINTS))]
    async with site(tenants) as here:
        here.process.start()
        for point, tenant in zip(POINTS, tenants, strict=True):
            taken: list[Sent] = []
            if point.in_use:
                await send(here, tenant, "before", taken)

            def more(number: int, to: str = tenant, log: list[Sent] = taken) -> Coroutine[Any, Any, None]:
                return send(here, to, f"during-{number}", log)

            here.trap.arm(point)
            await here.sprung(point, more)
            await check(here, tenant, taken, tmp_path / tenant)


async def check(here: Site, tenant: str, taken: Sequence[Sent], folder: Path) -> None:
    """Retries find their index, nothing else is in the log, and it verifies."""
    for request, receipt in taken:
        again = await here.until_taken(request)
        assert (again.index, again.entry, again.duplicate) == (receipt.index, receipt.entry, True), tenant
    logged = await here.verify(tenant, folder)
    assert [receipt.index for _, receipt in taken] == list(range(1, len(logged))), tenant


FILES = (
    ("a bundle", "before", r"/tile/entries/000\.p/\d+$"),
    ("a bundle", "after", r"/tile/entries/000\.p/\d+$"),
    ("a tile", "before", r"/tile/0/000\.p/\d+$"),
    ("a tile", "after", r"/tile/0/000\.p/\d+$"),
    ("the checkpoint's file", "before", r"/checkpoint$"),
    ("the checkpoint's file", "after", r"/checkpoint$"),
)


@requirement("ledger:export-directory")
@requirement("ledger:verifies-after-every-crash")
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_after_a_kill_at_any_file_the_directory_shows_a_log_that_verifies_and_catches_up(tmp_path: Path) -> None:
    tenants = [f"tenant-{n}" for n in range(len(FILES))]
    async with site(tenants) as here:
        root = here.running.data_dir / "export"
        for (_, side, pattern), tenant in zip(FILES, tenants, strict=True):
            arm = tmp_path / f"{tenant}.arm"
            settings = {
                "COUNTERSEAL_AUDIT__EXPORT__DIRECTORY": str(root),
                **killed_at(side, f"{re.escape(str(root / tenant))}/.*{pattern}", arm),
            }
            here.process.start(settings, module="support.killed_at")
            taken: list[Sent] = []
            await send(here, tenant, "before", taken)
            shown = await settled(here, root, tenant, len(taken) + 1)
            arm.touch()
            sending = asyncio.create_task(send(here, tenant, "during", taken))
            async with asyncio.timeout(60):
                while not here.process.is_dead:
                    await asyncio.sleep(0.02)
            folder = folder_of(root, await log_of(here, tenant))
            size = verify_log(Outside(folder), (await log_of(here, tenant)).key)
            assert size.findings == (), "what a reader sees right after the kill is a log that verifies"
            assert size.size > shown if (pattern, side) == (r"/checkpoint$", "after") else size.size == shown
            arm.unlink()
            here.process.start(settings, module="support.killed_at")
            await sending
            await check(here, tenant, taken, tmp_path / tenant)
            await settled(here, root, tenant, len(taken) + 1)
            assert verify_log(Directory(folder), (await log_of(here, tenant)).key).findings == (), "and no stray file"
            here.process.kill()


async def log_of(here: Site, tenant: str) -> Log:
    log = await LogStore(here.engine).find(tenant, "prod")
    assert log is not None
    return log


async def settled(here: Site, root: Path, tenant: str, size: int) -> int:
    """Wait until the directory shows so many entries."""
    checkpoint = folder_of(root, await log_of(here, tenant)) / "checkpoint"
    async with asyncio.timeout(60):
        while not checkpoint.exists() or int(checkpoint.read_bytes().split(b"\n")[1]) < size:
            here.process.check()
            await asyncio.sleep(0.05)
    return size


ERASING = (
    Point("ordered", "before", row=b'"type":"erasure.ordered"'),
    Point("ordered", "after", row=b'"type":"erasure.ordered"'),
    Point("the keys destroyed", "before", sql=b"UPDATE ledger_dek SET wrapped = NULL"),
    Point("the keys destroyed", "after", sql=b"UPDATE ledger_dek SET wrapped = NULL", durable_with=COMMIT),
    Point("the rows deleted", "before", sql=b"DELETE FROM ledger_payload"),
    Point("the rows deleted", "after", sql=b"DELETE FROM ledger_payload", durable_with=COMMIT),
    Point("erased", "before", row=b'"type":"payload.erased"'),
    Point("erased", "after", row=b'"type":"payload.erased"'),
)


class Undelivered:
    """An outbox whose process dies between the stored order and its entry."""

    def __init__(self, real: Any) -> None:
        self.put = real.put

    async def deliver(self, _event_id: str) -> None:
        raise LedgerUnavailable


@requirement("erasure:finishes-after-a-crash")
@requirement("ledger:verifies-after-every-crash")
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_an_erasure_is_finished_after_a_kill_at_any_of_its_durable_steps(tmp_path: Path) -> None:
    tenants = [f"tenant-{n}" for n in range(len(ERASING))]
    async with site(tenants) as here:
        database = ServiceDatabase("counterseal_audit", *[here.running.control.dsn("counterseal_audit")] * 3)
        vault = await login(here.running)
        here.process.start()
        for point, tenant in zip(ERASING, tenants, strict=True):
            sent = [asked(name, f"secret {n}", tenant=tenant) for n in range(3) for name in ("user:ana", "user:bob")]
            taken = [await here.until_taken(request) for request in sent]
            here.trap.arm(point)
            async with replica_on_vault(database, vault) as parts:
                orders = parts.retention.servicer.orders
                ordering = replace(orders, outbox=Undelivered(orders.outbox))  # type: ignore[arg-type]
                caller = replace(OLGA, tenant=tenant)
                with pytest.raises(LedgerUnavailable):
                    await ordering.erase(caller, taken[0].pseudonyms["user:ana"], ("user:olga", "user:pat"), "")
                async with transaction(parts.engine) as conn:
                    job = await open_job(conn, tenant, taken[0].pseudonyms["user:ana"])
                assert job is not None
                await here.sprung(point)
                await reached(parts, job.job_id, State.WAITING)
                await report(parts, job.job_id, tenant=tenant)
                await reached(parts, job.job_id, State.FINISHED)
                for receipt, request in zip(taken, sent, strict=True):
                    left = await opened(parts, receipt.index, tenant)
                    assert bool(left) == (request.subject == "user:bob"), point
                assert (await checked(parts, tenant))[2] == [], point
                keys = "SELECT 1 FROM ledger_dek JOIN ledger_log USING (log_id) WHERE tenant = $1 AND subject = $2"
                assert not await admin(database, keys + " AND wrapped IS NOT NULL", tenant, job.person), point
            types = [parse(data).type for data in await here.verify(tenant, tmp_path / tenant)]
            assert types.count("erasure.ordered") == 1, point
            assert types.count("payload.erased") == 4, point
        vault.close()


async def reached(parts: Replica, job_id: str, wanted: State) -> None:
    async with asyncio.timeout(90):
        while (await state(parts, job_id)).state is not wanted:
            await asyncio.sleep(0.1)
