"""The audit service: configuration -> dependencies -> servicers. Logs and proofs; it asks nobody but Vault."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from counterseal import config as configuration
from counterseal.api.audit.v1 import ledger_pb2_grpc, reader_pb2_grpc
from counterseal.config import ConfigError
from counterseal.rpc.refusals import RefusalRecorder
from counterseal.rpc.runtime import Runtime, run_service
from counterseal.rpc.server import Registration
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.append.service import LedgerServicer
from counterseal_audit.checkpoints.demand import Demand
from counterseal_audit.checkpoints.heads import SignedHeads
from counterseal_audit.checkpoints.publisher import Publisher
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.config import AuditConfig
from counterseal_audit.database import unsafe_settings
from counterseal_audit.logs.anchors import VaultAnchors
from counterseal_audit.logs.births import Births
from counterseal_audit.logs.keys import HeadMacKey, PseudonymKeys, VaultLogSigner, VaultSealer
from counterseal_audit.logs.store import LogStore
from counterseal_audit.projection.follower import Follower
from counterseal_audit.projection.store import ProjectionStore
from counterseal_audit.reader.search import Searcher
from counterseal_audit.reader.service import ReaderServicer
from counterseal_audit.reader.store import ReaderStore
from counterseal_audit.tiles.exporter import Exporter
from counterseal_audit.tiles.http import TileServer


async def build(rt: Runtime) -> Sequence[Registration]:
    """Make the servicers and start the publisher."""
    config = check_own(rt.config)
    unsafe = await unsafe_settings(rt.engine)
    if unsafe and not config.allow_unsafe_database:
        raise ConfigError([f"database: {name} is off; PostgreSQL may lose what it acknowledged" for name in unsafe])
    signer, sealer = VaultLogSigner(rt.vault, rt.environment), VaultSealer(rt.vault, rt.environment)
    logs, checkpoints, heads = LogStore(rt.engine), CheckpointStore(rt.engine), SignedHeads()
    anchors, mac_key = VaultAnchors(rt.vault, rt.environment), HeadMacKey(rt.engine, sealer)
    births = Births(
        logs,
        anchors,
        signer,
        mac_key,
        environment=rt.environment,
        origin_domain=config.origin_domain or rt.trust_domain,
        clock=rt.clock,
        new_id=rt.new_id,
    )
    pseudonyms = PseudonymKeys(rt.engine, sealer)
    ledger = Ledger(
        rt.engine,
        pseudonyms,
        mac_key,
        anchors,
        births,
        environment=rt.environment,
        clock=rt.clock,
    )
    demand = Demand()
    publisher = Publisher(
        logs,
        checkpoints,
        ledger,
        signer,
        anchors,
        heads,
        demand,
        owner=rt.instance_id,
        interval_ms=config.checkpoint_interval_ms,
        lease_seconds=config.lease_seconds,
        heartbeat_ms=config.heartbeat_minutes * 60_000,
        overlap_ms=config.rotation_overlap_hours * 3_600_000,
        clock=rt.clock,
        new_id=rt.new_id,
    )
    rt.hooks.on_refused = RefusalRecorder(ledger.record, environment=rt.environment, clock=rt.clock, new_id=rt.new_id)
    rt.spawn("publish-checkpoints", publisher.run(rt.stopping))
    if config.export.directory is not None:
        publisher.on_published = [start_exporting(rt, config, config.export.directory, logs, checkpoints).on_published]
    projection, entries = ProjectionStore(rt.engine), ReaderStore(rt.engine)
    rt.spawn("follow-entries", Follower(logs, projection, pseudonyms, rt.environment).run(rt.stopping))
    searcher = Searcher(projection, entries, pseudonyms)
    reader = ReaderServicer(logs, entries, checkpoints, ledger, searcher, rt.stopping)
    return [
        (ledger_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerServicer(ledger, heads, rt.stopping)),
        (reader_pb2_grpc.add_LedgerReaderServiceServicer_to_server, reader),
    ]


def start_exporting(
    rt: Runtime, config: AuditConfig, directory: Path, logs: LogStore, checkpoints: CheckpointStore
) -> Exporter:
    """Start keeping logs as files below `directory` and, where configured, serving them over HTTP."""
    disk = ThreadPoolExecutor(1, "export")
    exporter = Exporter(directory, logs, checkpoints, ReaderStore(rt.engine), rt.environment, disk)
    rt.spawn("export-logs", exporter.run(rt.stopping))
    if config.http.listen:
        server = TileServer(config.http, directory, ThreadPoolExecutor(4, "tiles"))
        rt.spawn("serve-logs", server.run(rt.stopping))
    return exporter


def check_own(table: Mapping[str, Any]) -> AuditConfig:
    """Bind the service's own table; raises ConfigError."""
    return configuration.bind(AuditConfig, table, "audit")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script."""
    return run_service("audit", build, argv, check_own=check_own)
