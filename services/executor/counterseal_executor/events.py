"""Ledger events as values, and the entry that is sent for one.

An entry is built once, inside the transaction that makes it true, and stored as bytes: a retry sends the same bytes
under the same id, so the ledger can tell a repetition from a contradiction.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import JsonObject
from counterseal.rpc.ledger_wire import new_entry

RETENTION = "r400d"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type, its clear data (fields of the wire message), its sealed data, and where it belongs.

    attempt: number of the attempt within its step, 0 for none. refs: (event id, relation). event_id: only for
    `plan.committed`, whose id follows from the plan digest; every other id is fresh.
    """

    type: str
    data: JsonObject = field(default_factory=dict)
    sealed: Mapping[str, Any] = field(default_factory=dict)
    step: str = ""
    attempt: int = 0
    refs: tuple[tuple[str, str], ...] = ()
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What the entries of one plan, request or tenant have in common; empty text where it does not apply."""

    tenant: str
    environment: str
    request_id: str = ""
    txn: str = ""
    subject: str = ""
    agent: str = ""
    agent_version: str = ""
    plan_id: str = ""
    plan_digest: str = ""


def build_entry(
    event: Event, header: Header, event_id: str, event_time_ms: int, seq: int, randomness: Callable[[int], bytes]
) -> ledger_pb2.NewEntry:
    """Return the entry of an event. seq: position in the plan's stream, 0 where there is no plan.

    randomness: makes the salt of each sealed field. Raises InputInvalid when the ledger would refuse the entry.
    """
    return new_entry(
        event.type,
        event.data,
        event_id=event_id,
        event_time_ms=event_time_ms,
        tenant=header.tenant,
        environment=header.environment,
        sealed=event.sealed,
        refs=event.refs,
        seq=seq,
        attempt=event.attempt,
        retention=RETENTION if event.sealed else "",
        randomness=randomness,
        request_id=header.request_id,
        txn=header.txn,
        subject=header.subject,
        agent=header.agent,
        agent_version=header.agent_version,
        stream=f"plan:{header.plan_id}" if seq else "",
        plan_digest=header.plan_digest,
        step=event.step,
    )
