"""The parts of erasure, retention, holds and disclosure, put together once for `main` and for tests."""

import asyncio
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import Clock
from counterseal.ids import IdSource
from counterseal.rpc.outbox import Outbox
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.logs.keys import PseudonymKeys
from counterseal_audit.logs.store import LogStore
from counterseal_audit.payloads.checking import Checker
from counterseal_audit.payloads.disclosing import Discloser
from counterseal_audit.payloads.keys import DataKeys
from counterseal_audit.payloads.store import PayloadStore
from counterseal_audit.reader.store import ReaderStore
from counterseal_audit.retention.eraser import Eraser
from counterseal_audit.retention.holds import Holds
from counterseal_audit.retention.orders import Orders
from counterseal_audit.retention.own_outbox import OwnLedger
from counterseal_audit.retention.scrubbing import Scrubber
from counterseal_audit.retention.service import RetentionServicer
from counterseal_audit.retention.sweeper import Sweeper
from counterseal_audit.second_person import SecondPerson


@dataclass(frozen=True, slots=True)
class Retention:
    """What runs (`outbox.relay`, `eraser.run`, `sweeper.run`) and what serves."""

    outbox: Outbox
    eraser: Eraser
    sweeper: Sweeper
    servicer: RetentionServicer
    discloser: Discloser


def assemble(
    engine: AsyncEngine,
    ledger: Ledger,
    keys: DataKeys,
    pseudonyms: PseudonymKeys,
    *,
    backup_days: int,
    operator_roles: frozenset[str],
    auditor_roles: frozenset[str],
    clock: Clock,
    new_id: IdSource,
    stopping: asyncio.Event,
) -> Retention:
    """Put the parts together over one database and one ledger."""
    environment, logs, entries, payloads = (
        ledger.environment,
        LogStore(engine),
        ReaderStore(engine),
        PayloadStore(engine),
    )
    outbox, holds = Outbox(engine, OwnLedger(ledger)), Holds(engine, environment)
    return Retention(
        outbox,
        Eraser(engine, outbox, keys, environment, backup_days, clock, Scrubber(engine)),
        Sweeper(engine, logs, outbox, holds, environment, clock, new_id),
        RetentionServicer(
            engine,
            logs,
            entries,
            Orders(engine, outbox, holds, environment, clock, new_id),
            Checker(entries, payloads, keys),
            SecondPerson(engine),
            pseudonyms,
            operator_roles,
            environment,
            stopping,
        ),
        Discloser(payloads, keys, ledger, auditor_roles, clock, new_id),
    )
