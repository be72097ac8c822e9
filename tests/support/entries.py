"""Entries as producers make them, for tests."""

from typing import Any

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.ids import new_id
from counterseal.rpc.ledger_wire import new_entry

DIGEST = "sha256:" + "ab" * 32
NOW = 1_795_330_000_000


def changed(
    *, stream: str = "plan:p1", seq: int = 1, tenant: str = "acme", environment: str = "prod", **more: Any
) -> ledger_pb2.NewEntry:
    """A `plan.changed` entry."""
    return new_entry(
        "plan.changed",
        {"from_state": "COMMITTED", "to_state": "RUNNING", "cause": "claim"},
        event_id=more.pop("event_id", None) or new_id(),
        event_time_ms=NOW,
        tenant=tenant,
        environment=environment,
        plan_digest=DIGEST,
        stream=stream,
        seq=seq if stream else 0,
        **more,
    )


def received(*, tenant: str = "acme", environment: str = "prod", **more: Any) -> ledger_pb2.NewEntry:
    """A `request.received` entry with a sealed field and a person."""
    return new_entry(
        "request.received",
        {"model": {"provider": "example", "id": "m", "version": "1"}, "intent_code": "refund"},
        event_id=more.pop("event_id", None) or new_id(),
        event_time_ms=NOW,
        tenant=tenant,
        environment=environment,
        request_id="r-1",
        subject=more.pop("subject", "user:ana"),
        sealed=more.pop("sealed", {"user_request": "give ana@example.com her money back"}),
        **more,
    )
