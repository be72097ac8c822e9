"""The process is killed at each durable step of an entry's life, seen from outside: at the messages that make it so.

Between the process and its two stores stand relays. A trap lets a message pass, or not, and kills the process right
there; then a new one starts, producers send again, and what stands in the log must verify.
"""

import asyncio
import re
import threading
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import LedgerUnavailable
from counterseal.rpc.ledger_client import Appended, LedgerClient
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.logs.store import LogStore
from support.audit import exported_verifies
from support.audit_process import Process, all_entries, channel_to, producer_identity, stack
from support.entries import changed
from support.pg_proxy import Gate, Line, proxy
from support.requirements import requirement
from support.vault_tap import VaultTap

ENTRIES = 4


@dataclass(frozen=True)
class Point:
    """Where to kill: before or after a call of Vault or a statement. in_use: only when the tenant's log has begun.

    vault: what the path is like. row: what the statement's values hold; it is durable with the answer `durable_with`.
    """

    name: str
    side: str
    in_use: bool = True
    vault: str = ""
    row: bytes = b""
    durable_with: bytes = b"Z"


COMMIT = b"COMMIT\x00"
BIRTH, ANCHOR, SIGN = r"/ledger/log/", r"/data/ledger/\d+$", r"/transit/prod/sign/log-prod$"
POINTS = (
    Point("the birth is reserved", "before", in_use=False, vault=BIRTH),
    Point("the birth is reserved", "after", in_use=False, vault=BIRTH),
    Point("the first anchor", "before", in_use=False, vault=ANCHOR),
    Point("the first anchor", "after", in_use=False, vault=ANCHOR),
    Point("the genesis row", "before", in_use=False, row=b'"type":"log.genesis"'),
    Point("the genesis row", "after", in_use=False, row=b'"type":"log.genesis"', durable_with=COMMIT),
    Point("the append", "before", row=b'"type":"plan.changed"'),
    Point("the append", "after", row=b'"type":"plan.changed"'),
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

        def gate(side: str, message: bytes) -> bool:
            nonlocal running
            point = self._point
            if point is None or not point.row:
                return False
            if side == "client" and message[:1] == b"B" and point.row in message:
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


async def until_taken(client: LedgerClient, request: ledger_pb2.NewEntry) -> Appended:
    """Append as an outbox does: again until there is an answer."""
    while True:
        try:
            return await client.append_one(request)
        except LedgerUnavailable:
            await asyncio.sleep(0.05)


async def send(client: LedgerClient, tenant: str, name: str, log: list[Sent]) -> None:
    """Append a stream, and keep what was sent beside what was answered."""
    for seq in range(1, ENTRIES + 1):
        request = changed(stream=f"plan:{name}", seq=seq, tenant=tenant)
        log.append((request, await until_taken(client, request)))


@requirement("ledger:acknowledged-kept")
@requirement("ledger:verifies-after-every-crash")
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_after_a_kill_at_any_durable_step_the_log_verifies_and_retries_find_their_index(tmp_path: Path) -> None:
    tenants = [f"tenant-{n}" for n in range(len(POINTS))]
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
        engine = create_async_engine(
            running.control.dsn("counterseal_audit").replace("postgresql://", "postgresql+asyncpg://")
        )
        ending.push_async_callback(engine.dispose)
        channel = await ending.enter_async_context(channel_to(process.address, await producer_identity(running)))
        client = LedgerClient(channel, timeout_seconds=5)
        ending.push_async_callback(client.close)
        process.start()
        for point, tenant in zip(POINTS, tenants, strict=True):
            taken: list[Sent] = []
            if point.in_use:
                await send(client, tenant, "before", taken)
            trap.arm(point)
            sending = asyncio.create_task(send(client, tenant, "during", taken))
            while not await asyncio.to_thread(trap.sprung.wait, 1):
                assert not (process.is_dead and trap.is_armed), f"{point.side} {point.name}: it died before"
            process.start()
            await sending
            for request, receipt in taken:
                again = await until_taken(client, request)
                assert (again.index, again.entry, again.duplicate) == (receipt.index, receipt.entry, True), point
            logged = await all_entries(running, tenant)
            assert [receipt.index for _, receipt in taken] == list(range(1, len(logged))), point
            log = await LogStore(engine).find(tenant, "prod")
            assert log is not None
            while (last := await CheckpointStore(engine).latest(log.log_id)) is None or last.size < len(logged):
                await asyncio.sleep(0.1)
            assert await exported_verifies(engine, log, tmp_path / tenant), point
