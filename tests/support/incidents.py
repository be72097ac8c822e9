"""Twenty-four recorded incidents: the log that two demonstrations on the real suite left (vectors/README.md)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import parse_strict
from counterseal.ledger import tiles
from counterseal.rpc.ledger_wire import new_entry

DIRECTORY = Path(__file__).resolve().parents[1] / "vectors" / "incidents-v1"
_TEXTS = ("request_id", "txn", "trace_id", "subject", "agent", "agent_version", "stream", "plan_digest", "step")


def size() -> int:
    return int((DIRECTORY / "checkpoint").read_bytes().split(b"\n")[1])


def entries() -> Iterator[bytes]:
    """Yield the entry bytes in order."""
    for bundle in tiles.bundles_of(size()):
        yield from tiles.parse_bundle(bundle, (DIRECTORY / bundle.path).read_bytes())


def documents() -> list[dict[str, Any]]:
    return [parse_strict(entry) for entry in entries()]


def plans() -> list[str]:
    """The plans that were proposed, oldest first."""
    return [one["plan_digest"] for one in documents() if one["type"] == "plan.proposed"]


def requests() -> list[tuple[str, ledger_pb2.NewEntry]]:
    """Every entry but the genesis as its producer would send it again, without what was sealed: (producer, entry)."""
    return [(one["srv"]["producer"], _request(one)) for one in documents()[1:]]


def _request(one: dict[str, Any]) -> ledger_pb2.NewEntry:
    return new_entry(
        one["type"],
        one["data"],
        event_id=one["event_id"],
        event_time_ms=one["event_time_ms"],
        tenant=one["tenant"],
        environment=one["environment"],
        refs=[(ref["event_id"], ref["rel"]) for ref in one.get("refs", ())],
        seq=one.get("seq", 0),
        attempt=one.get("attempt", 0),
        **{"trace_id": "", **{name: one[name] for name in _TEXTS if name in one}},
    )
