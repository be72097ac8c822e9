"""The audit service: configuration -> dependencies -> servicers. Logs and proofs; it asks nobody but Vault."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterseal import config as configuration
from counterseal.api.audit.v1 import ledger_admin_pb2_grpc, ledger_pb2_grpc, reader_pb2_grpc, retention_pb2_grpc
from counterseal.config import ConfigError
from counterseal.rpc.refusals import RefusalRecorder
from counterseal.rpc.runtime import Runtime, run_service
from counterseal.rpc.server import Registration
from counterseal_audit.admin.operations import Operations
from counterseal_audit.admin.service import LedgerAdminServicer
from counterseal_audit.append.cover import Cover
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.append.service import LedgerServicer
from counterseal_audit.append.store import AppendStore
from counterseal_audit.checkpoints.demand import Demand
from counterseal_audit.checkpoints.heads import SignedHeads
from counterseal_audit.checkpoints.publisher import Publisher
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.config import AuditConfig
from counterseal_audit.database import unsafe_settings
from counterseal_audit.logs.births import Births
from counterseal_audit.logs.keys import HeadMacKey, PseudonymKeys, VaultLogSigner, VaultSealer
from counterseal_audit.logs.store import LogStore
from counterseal_audit.logs.vault_anchors import VaultAnchors
from counterseal_audit.payloads.keys import DataKeys
from counterseal_audit.payloads.sealing import Sealing
from counterseal_audit.projection.follower import Follower
from counterseal_audit.projection.store import ProjectionStore
from counterseal_audit.reader.choosing import Choosing
from counterseal_audit.reader.prover import Prover
from counterseal_audit.reader.recording import ExportRecorder
from counterseal_audit.reader.search import Searcher
from counterseal_audit.reader.service import ReaderServicer
from counterseal_audit.reader.store import ReaderStore
from counterseal_audit.reader.tailing import Tailer
from counterseal_audit.reader.trees import TILES_PER_MIB, Trees
from counterseal_audit.retention import reapply
from counterseal_audit.retention.assembly import assemble
from counterseal_audit.second_person import SecondPerson
from counterseal_audit.tiles.exporter import Exporter

if TYPE_CHECKING:  # what only some deployments use loads aiohttp, a fifth of a second, when it is used
    from counterseal_audit.witnesses.cosigners import Cosigners


async def build(rt: Runtime) -> Sequence[Registration]:
    """Make the servicers and start the publisher."""
    config = check_own(rt.config)
    unsafe = await unsafe_settings(rt.engine)
    if unsafe and not config.allow_unsafe_database:
        raise ConfigError([f"database: {name} is off; PostgreSQL may lose what it acknowledged" for name in unsafe])
    signer, sealer = VaultLogSigner(rt.vault, rt.environment), VaultSealer(rt.vault, rt.environment)
    logs, checkpoints, heads = LogStore(rt.engine), CheckpointStore(rt.engine), SignedHeads()
    anchors, mac_key = VaultAnchors(rt.vault, rt.environment), HeadMacKey(rt.engine, sealer)
    keys, pseudonyms = DataKeys(rt.engine, sealer, rt.new_id), PseudonymKeys(rt.engine, sealer)
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
    ledger = Ledger(
        rt.engine,
        pseudonyms,
        mac_key,
        anchors,
        births,
        Sealing(keys),
        environment=rt.environment,
        clock=rt.clock,
    )
    demand, cosigners = Demand(), witnesses_of(rt, config)
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
        witnesses=cosigners,
    )
    rt.hooks.on_refused = RefusalRecorder(ledger.record, environment=rt.environment, clock=rt.clock, new_id=rt.new_id)
    retention = assemble(
        rt.engine,
        ledger,
        keys,
        pseudonyms,
        backup_days=rt.backup_days,
        operator_roles=frozenset(config.operator_roles),
        auditor_roles=frozenset(config.auditor_roles),
        clock=rt.clock,
        new_id=rt.new_id,
        stopping=rt.stopping,
    )
    rt.spawn("data-keys", keys.run(rt.stopping))
    rt.spawn("outbox", retention.outbox.relay(rt.stopping))
    rt.spawn("erasures", retention.eraser.run(rt.stopping))
    rt.spawn("retention", retention.sweeper.run(rt.stopping))
    if config.export.directory is not None:
        publisher.on_published = [start_exporting(rt, config, config.export.directory, logs, checkpoints).on_published]
    projection, entries = ProjectionStore(rt.engine), ReaderStore(rt.engine)
    rt.spawn("follow-entries", Follower(logs, projection, pseudonyms, rt.environment).run(rt.stopping))
    searcher = Searcher(projection, entries, pseudonyms)
    operators = frozenset(config.operator_roles)
    recorder = ExportRecorder(logs, entries, ledger, pseudonyms, rt.clock, rt.new_id)
    trees = Trees(entries, config.proof_cache_mib * TILES_PER_MIB)
    choosing = Choosing(logs, rt.environment)
    reader = ReaderServicer(
        logs,
        choosing,
        entries,
        trees,
        Prover(logs, checkpoints, entries, trees, rt.environment),
        checkpoints,
        Tailer(choosing, entries, ledger, rt.stopping),
        retention.discloser,
        searcher,
        recorder,
        rt.stopping,
        operators,
    )
    rt.spawn("publish-checkpoints", publish(publisher, cosigners, rt.stopping))
    store = AppendStore(rt.engine)
    cover = Cover(demand, checkpoints, trees, has_witnesses=cosigners is not None)
    operations = Operations(logs, checkpoints, ledger, publisher, anchors, signer, rt.clock, rt.new_id)
    admin = LedgerAdminServicer(
        operations,
        store,
        SecondPerson(rt.engine),
        frozenset(config.operator_roles),
        frozenset(config.platform_operator_roles),
    )
    return [
        (ledger_admin_pb2_grpc.add_LedgerAdminServiceServicer_to_server, admin),
        (ledger_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerServicer(ledger, heads, cover, rt.stopping)),
        (reader_pb2_grpc.add_LedgerReaderServiceServicer_to_server, reader),
        (retention_pb2_grpc.add_RetentionServiceServicer_to_server, retention.servicer),
    ]


def start_exporting(
    rt: Runtime, config: AuditConfig, directory: Path, logs: LogStore, checkpoints: CheckpointStore
) -> Exporter:
    """Start keeping logs as files below `directory` and, where configured, serving them over HTTP."""
    disk = ThreadPoolExecutor(1, "export")
    exporter = Exporter(directory, logs, checkpoints, ReaderStore(rt.engine), rt.environment, disk)
    rt.spawn("export-logs", exporter.run(rt.stopping))
    if config.http.listen:
        from counterseal_audit.tiles.http import TileServer

        server = TileServer(config.http, directory, ThreadPoolExecutor(4, "tiles"))
        rt.spawn("serve-logs", server.run(rt.stopping))
    return exporter


WITNESS_TILES = 8 * TILES_PER_MIB
"""Remembered for witnesses, who are shown how the newest tree grew: a few tiles at its end, whatever its size."""


def witnesses_of(rt: Runtime, config: AuditConfig) -> "Cosigners | None":
    """Return the witnesses that the configuration names, None when it names none."""
    policy = config.witnesses.policy()
    if policy is None:
        return None
    from counterseal_audit.witnesses.cosigners import Cosigners, prover

    return Cosigners(
        policy,
        prover(Trees(ReaderStore(rt.engine), WITNESS_TILES)),
        required_for=config.witnesses.required_for,
        timeout_seconds=config.witnesses.timeout_ms / 1000,
        context=config.witnesses.context(),
    )


async def publish(publisher: Publisher, cosigners: "Cosigners | None", stopping: asyncio.Event) -> None:
    """Publish until `stopping`; the connections to witnesses end after the last round."""
    try:
        await publisher.run(stopping)
    finally:
        if cosigners is not None:
            await cosigners.close()


def check_own(table: Mapping[str, Any]) -> AuditConfig:
    """Bind the service's own table; raises ConfigError."""
    config = configuration.bind(AuditConfig, table, "audit")
    try:
        config.witnesses.policy()
        config.witnesses.context()
    except ValueError as error:
        raise ConfigError([f"audit.witnesses.{error}"]) from None
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Run `counterseal-audit`: serve, migrate, or apply erasures again after a restore; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in reapply.COMMANDS:
        return reapply.main(args)
    return run_service("audit", build, args, check_own=check_own)
