"""The audit service in this process: real PostgreSQL, real server and interceptor on mTLS, keys of its own."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import grpc
from nacl.secret import SecretBox
from nacl.signing import SigningKey
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from counterseal.api.audit.v1 import (
    ledger_admin_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    reader_pb2,
    reader_pb2_grpc,
    retention_pb2_grpc,
)
from counterseal.cli import main as cli
from counterseal.client.export import write_export
from counterseal.clock import Clock, system_clock
from counterseal.errors import InputInvalid, InternalError, SealUnavailable, ServiceError
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal.rpc.interceptor import Interceptor
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.method_table import METHODS
from counterseal.rpc.server import Server, ServerConfig
from counterseal.rpc.tls import ServerIdentity, open_channel, server_name
from counterseal.rpc.txn_token import TokenVerifier, assemble, signing_input
from counterseal.telemetry import RpcMetrics
from counterseal.vault import Vault
from counterseal_audit.admin.operations import Operations
from counterseal_audit.admin.service import LedgerAdminServicer
from counterseal_audit.append.cover import Cover
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.append.service import LedgerServicer
from counterseal_audit.append.store import AppendStore
from counterseal_audit.append.writer import LogWriter, Receipt
from counterseal_audit.checkpoints.demand import Demand
from counterseal_audit.checkpoints.heads import SignedHeads
from counterseal_audit.checkpoints.publisher import Publisher
from counterseal_audit.checkpoints.seams import Witnesses
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.logs.anchors import AnchorMoved, Birth, Page
from counterseal_audit.logs.births import Births
from counterseal_audit.logs.keys import HeadMacKey, PseudonymKeys, Sealer, VaultLogSigner, VaultSealer
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.logs.vault_anchors import VaultAnchors
from counterseal_audit.payloads.keys import DataKeys
from counterseal_audit.payloads.sealing import Sealing
from counterseal_audit.projection.follower import Follower
from counterseal_audit.projection.store import ProjectionStore
from counterseal_audit.reader.choosing import Choosing
from counterseal_audit.reader.export import LogFiles
from counterseal_audit.reader.prover import Prover
from counterseal_audit.reader.recording import ExportRecorder
from counterseal_audit.reader.search import Searcher
from counterseal_audit.reader.service import ReaderServicer
from counterseal_audit.reader.store import ReaderStore
from counterseal_audit.reader.tailing import Tailer
from counterseal_audit.reader.trees import REMEMBERED, Trees
from counterseal_audit.retention.assembly import Retention
from counterseal_audit.retention.assembly import assemble as retention_parts
from counterseal_audit.second_person import SecondPerson
from support.certificates import Authority
from support.postgres import ServiceDatabase
from support.shapes import DOMAIN, ENVIRONMENT, claims, spiffe

TENANTS = ("acme", "globex", "_system")


class LocalLogSigner:
    """Versions of an Ed25519 key, like transit's."""

    def __init__(self) -> None:
        self.keys = {1: SigningKey(b"\x01" * 32)}
        self.signatures = 0

    async def public_keys(self) -> dict[int, bytes]:
        return {version: bytes(key.verify_key) for version, key in self.keys.items()}

    async def sign_batch(self, messages: Sequence[bytes], version: int) -> list[bytes | None]:
        self.signatures += len(messages)
        return [self.keys[version].sign(message).signature for message in messages]


class SealedSigner(LocalLogSigner):
    """A signer whose Vault can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def sign_batch(self, messages: Sequence[bytes], version: int) -> list[bytes | None]:
        if self.away:
            raise SealUnavailable
        return await super().sign_batch(messages, version)


class LocalAnchors:
    """Anchors in this process, with KV's compare-and-set; one per database, since replicas share them."""

    of_database: ClassVar[dict[str, "LocalAnchors"]] = {}

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {}
        self.deleted: dict[int, int] = {}
        self.logs: dict[str, dict[int, Birth]] = {}
        self.writes = 0

    async def read(self, bucket: int) -> Page:
        return self.pages.get(bucket, Page(0, {}))

    async def write(self, bucket: int, page: Page) -> None:
        await asyncio.sleep(0)
        if page.version != self.pages.get(bucket, Page(self.deleted.get(bucket, 0), {})).version:
            raise AnchorMoved
        self.writes += 1
        self.pages[bucket] = Page(page.version + 1, page.anchors)

    async def write_anew(self, bucket: int, page: Page) -> None:
        await self.write(bucket, Page(page.version or self.deleted.get(bucket, 0), page.anchors))

    async def births(self, tenant: str) -> Mapping[int, Birth]:
        return self.logs.get(tenant, {})

    async def reserve(self, tenant: str, shard: int, wish: Birth) -> Birth:
        return self.logs.setdefault(tenant, {}).setdefault(shard, wish)

    def delete(self, bucket: int) -> None:
        """As an operator might: the document reads as absent, its version goes on counting."""
        self.deleted[bucket] = self.pages.pop(bucket).version


class LocalSealer:
    """Data keys wrapped by a key in this process; knows the tenants that were set up."""

    def __init__(self, tenants: tuple[str, ...] = TENANTS) -> None:
        self.tenants = tenants
        self._box = SecretBox(b"\x02" * 32)

    async def new_key(self, tenant: str) -> tuple[bytes, str]:
        if tenant not in self.tenants:
            raise InputInvalid("the tenant is not set up in this environment")
        key = secrets.token_bytes(32)
        return key, base64.b64encode(bytes(self._box.encrypt(key))).decode()

    async def open(self, tenant: str, wrapped: str) -> bytes:
        return self._box.decrypt(base64.b64decode(wrapped))


@dataclass
class Replica:
    """One audit process's parts over a database."""

    engine: AsyncEngine
    signer: LocalLogSigner
    ledger: Ledger
    logs: LogStore
    checkpoints: CheckpointStore
    reader: ReaderStore
    heads: SignedHeads
    publisher: Publisher
    anchors: LocalAnchors
    demand: Demand
    operations: Operations
    keys: DataKeys
    retention: Retention
    stopping: asyncio.Event
    follower: Follower
    searcher: Searcher
    recorder: ExportRecorder

    async def log(self, tenant: str = "acme") -> Log:
        return (await self.ledger.open(tenant))[0]

    async def writer(self, tenant: str = "acme") -> LogWriter:
        return (await self.ledger.open(tenant))[1]


Connect = Callable[[], Any]


@asynccontextmanager
async def replica(
    database: ServiceDatabase,
    signer: LocalLogSigner | None = None,
    connect: Connect | None = None,
    anchors: LocalAnchors | None = None,
    clock: Clock = system_clock,
) -> AsyncIterator[Replica]:
    """One replica; several over one database are several processes' worth of state.

    connect: an async function that makes each asyncpg connection, instead of a plain one. clock: this machine's.
    """
    more = {"async_creator": connect} if connect is not None else {}
    engine = create_async_engine(database.sqlalchemy_url, pool_size=5, max_overflow=0, pool_use_lifo=True, **more)
    try:
        shared = LocalAnchors.of_database.setdefault(database.name, LocalAnchors())
        parts = _parts(engine, signer or LocalLogSigner(), anchors or shared, LocalSealer(), clock)
        yield parts
        await parts.ledger.settled()  # whoever waited was answered before the connection was given back
    finally:
        await engine.dispose()


@asynccontextmanager
async def replica_on_vault(database: ServiceDatabase, vault: Vault) -> AsyncIterator[Replica]:
    """A replica with keys and anchors in a real Vault, as the audit service's own login reaches them."""
    engine = create_async_engine(database.sqlalchemy_url, pool_size=5, max_overflow=0, pool_use_lifo=True)
    signer: Any = VaultLogSigner(vault, ENVIRONMENT)
    anchors: Any = VaultAnchors(vault, ENVIRONMENT)
    try:
        parts = _parts(engine, signer, anchors, VaultSealer(vault, ENVIRONMENT))
        yield parts
        await parts.ledger.settled()
    finally:
        await engine.dispose()


def _parts(
    engine: AsyncEngine, signer: LocalLogSigner, anchors: LocalAnchors, sealer: Sealer, clock: Clock = system_clock
) -> Replica:
    logs, checkpoints, heads = LogStore(engine), CheckpointStore(engine), SignedHeads()
    mac_key, demand = HeadMacKey(engine, sealer), Demand()
    keys, pseudonyms = DataKeys(engine, sealer, new_id), PseudonymKeys(engine, sealer)
    births = Births(
        logs,
        anchors,
        signer,
        mac_key,
        environment=ENVIRONMENT,
        origin_domain=DOMAIN,
        clock=clock,
        new_id=new_id,
    )
    ledger = Ledger(
        engine,
        pseudonyms,
        mac_key,
        anchors,
        births,
        Sealing(keys),
        environment=ENVIRONMENT,
        clock=clock,
    )
    publisher = Publisher(
        logs,
        checkpoints,
        ledger,
        signer,
        anchors,
        heads,
        demand,
        owner=new_id(),
        interval_ms=100,
        lease_seconds=5,
        heartbeat_ms=3_600_000,
        overlap_ms=3_600_000,
        clock=clock,
        new_id=new_id,
    )
    stopping = asyncio.Event()
    retention = retention_parts(
        engine,
        ledger,
        keys,
        pseudonyms,
        backup_days=35,
        operator_roles=frozenset({"operator"}),
        auditor_roles=frozenset({"auditor"}),
        clock=clock,
        new_id=new_id,
        stopping=stopping,
    )
    operations = Operations(logs, checkpoints, ledger, publisher, anchors, signer, clock, new_id)
    reader, projection = ReaderStore(engine), ProjectionStore(engine)
    return Replica(
        engine,
        signer,
        ledger,
        logs,
        checkpoints,
        reader,
        heads,
        publisher,
        anchors,
        demand,
        operations,
        keys,
        retention,
        stopping,
        Follower(logs, projection, pseudonyms, ENVIRONMENT),
        Searcher(projection, reader, pseudonyms),
        ExportRecorder(logs, reader, ledger, pseudonyms, system_clock, new_id),
    )


@dataclass
class AuditServer:
    """A running audit service and the identities to call it with."""

    parts: Replica
    authority: Authority
    server: Server
    signing_key: SigningKey
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def token(self, path: str = "cli", **changes: Any) -> str:
        """A person's token by default: no actor, the reading scope."""
        values = {"requester": spiffe(path), "chain": (), "scope": ("audit.read",), **changes}
        signed = signing_input(claims(**values), "ctx-prod:1")
        return assemble(signed, self.signing_key.sign(signed).signature)

    @asynccontextmanager
    async def channel(self, path: str) -> AsyncIterator[grpc.aio.Channel]:
        identity = self.authority.issue(uris=[spiffe(path)])
        name = server_name("audit", ENVIRONMENT)
        async with open_channel(f"127.0.0.1:{self.server.port}", identity, name) as channel:
            yield channel

    @asynccontextmanager
    async def producer(self, service: str = "executor") -> AsyncIterator[LedgerClient]:
        async with self.channel(f"svc/{service}") as channel:
            client = LedgerClient(channel)
            yield client
            await client.close()

    async def pieces(self, tenant: str = "acme", min_size: int = 0) -> list[reader_pb2.ExportLogResponse]:
        """What an export of a tenant's log sends to a person of that tenant."""
        metadata = (("txn-token", self.token(tenant=tenant)),)
        async with self.channel("cli") as channel:
            stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
            request = reader_pb2.ExportLogRequest(tenant=tenant, min_size=min_size)
            return [piece async for piece in stub.ExportLog(request, metadata=metadata, timeout=30)]

    async def export(self, directory: Path, tenant: str = "acme", min_size: int = 0) -> Path:
        """Export a tenant's log as the client does."""
        pieces = await self.pieces(tenant, min_size)

        async def replay() -> AsyncIterator[reader_pb2.ExportLogResponse]:
            for piece in pieces:
                yield piece

        await write_export(replay(), directory)
        return directory


@asynccontextmanager
async def audit_server(
    database: ServiceDatabase,
    *,
    publish: bool = True,
    signer: LocalLogSigner | None = None,
    witnesses: Witnesses | None = None,
    follow: bool = True,
    metrics: RpcMetrics | None = None,
    connect: Connect | None = None,
    remembered: int = REMEMBERED,
) -> AsyncIterator[AuditServer]:
    """The service as `main` builds it, but for Vault. connect: as `replica` takes it. remembered: as `Trees` does."""
    async with replica(database, signer, connect) as parts:
        parts.publisher.witnesses = witnesses
        authority, signing_key = Authority.create("audit root"), SigningKey.generate()
        public = bytes(signing_key.verify_key)

        async def key(kid: str) -> bytes:
            return public

        stopping = parts.stopping
        verifier = TokenVerifier(key, audience=f"{DOMAIN}/{ENVIRONMENT}", clock=system_clock)
        interceptor = Interceptor(
            trust_domain=DOMAIN,
            environment=ENVIRONMENT,
            verify=verifier.verify,
            clock=system_clock,
            rules=METHODS,
            metrics=metrics or RpcMetrics(),
        )
        own = authority.issue(uris=[spiffe("svc/audit")], dns=[server_name("audit", ENVIRONMENT)])
        trees = Trees(parts.reader, remembered)
        choosing = Choosing(parts.logs, ENVIRONMENT)
        reader = ReaderServicer(
            parts.logs,
            choosing,
            parts.reader,
            trees,
            Prover(parts.logs, parts.checkpoints, parts.reader, trees, ENVIRONMENT),
            parts.checkpoints,
            Tailer(choosing, parts.reader, parts.ledger, stopping),
            parts.retention.discloser,
            parts.searcher,
            parts.recorder,
            stopping,
        )
        has_witnesses = parts.publisher.witnesses is not None
        cover = Cover(parts.demand, parts.checkpoints, trees, has_witnesses=has_witnesses)
        server = Server(
            ServerConfig(listen="127.0.0.1:0", drain_seconds=2),
            interceptor,
            ServerIdentity(own).credentials(),
            [
                (
                    ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
                    LedgerServicer(parts.ledger, parts.heads, cover, stopping),
                ),
                (
                    ledger_admin_pb2_grpc.add_LedgerAdminServiceServicer_to_server,
                    LedgerAdminServicer(
                        parts.operations,
                        AppendStore(parts.engine),
                        SecondPerson(parts.engine),
                        frozenset({"operator"}),
                        frozenset({"platform_operator"}),
                    ),
                ),
                (reader_pb2_grpc.add_LedgerReaderServiceServicer_to_server, reader),
                (retention_pb2_grpc.add_RetentionServiceServicer_to_server, parts.retention.servicer),
            ],
            METHODS,
        )
        await server.start()
        tasks = [asyncio.create_task(parts.publisher.run(stopping))] if publish else []
        tasks += [asyncio.create_task(parts.follower.run(stopping))] if follow else []
        running = AuditServer(parts, authority, server, signing_key, stopping)
        try:
            yield running
        finally:
            await server.stop(stopping)
            await asyncio.gather(*tasks)


async def append(
    parts: Replica, requests: Sequence[ledger_pb2.NewEntry], producer: str = "executor"
) -> list[Receipt | ServiceError]:
    answers: list[Receipt | ServiceError] = []
    for answer in await parts.ledger.submit(requests, producer):
        try:
            answers.append(answer if isinstance(answer, ServiceError) else await answer)
        except ServiceError as error:
            answers.append(error)
    return answers


async def append_one(parts: Replica, request: ledger_pb2.NewEntry, producer: str = "executor") -> Receipt:
    (answer,) = await append(parts, [request], producer)
    if isinstance(answer, ServiceError):
        raise answer
    return answer


async def exported_verifies(engine: AsyncEngine, log: Log, directory: Path) -> bool:
    """Write the files of a log's export as a client would, and run the verifier's command over them."""
    checkpoint = await CheckpointStore(engine).latest(log.log_id)
    assert checkpoint is not None
    try:
        async for path, content in LogFiles(LogStore(engine), CheckpointStore(engine), ReaderStore(engine)).of(
            log, checkpoint
        ):
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(content)
    except InternalError:
        return False
    code = await asyncio.to_thread(cli, ["audit", "verify", str(directory), "--vkey", log.vkey])
    assert code in (0, 3, 4)
    return code == 0


async def stored(database: ServiceDatabase) -> list[bytes]:
    """All entries of the only log, after checking that index, leaf, node and head rows are what the bytes say."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        rows = await connection.fetch("SELECT idx, leaf_hash, entry FROM ledger_entry ORDER BY idx")
        head = await connection.fetchrow("SELECT size, frontier, root FROM ledger_head")
        nodes = await connection.fetch("SELECT level, n, hash FROM ledger_node ORDER BY level, n")
    finally:
        await connection.close()
    assert [row["idx"] for row in rows] == list(range(len(rows)))
    assert all(row["leaf_hash"] == leaf_hash(row["entry"]) for row in rows)
    found: list[tuple[int, int, bytes]] = []
    frontier = Frontier().extend(
        (row["leaf_hash"] for row in rows),
        lambda height, index, node: found.append((height // 8, index, node)) if height % 8 == 0 else None,
    )
    assert (head["size"], head["frontier"], head["root"]) == (len(rows), frontier.serialize(), frontier.root())
    assert [tuple(row) for row in nodes] == sorted(found)
    for row in rows:
        entries.parse(row["entry"])
    return [row["entry"] for row in rows]
