"""Receipts and refusals to their wire form."""

from google.protobuf.timestamp_pb2 import Timestamp

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import ServiceError
from counterseal_audit.append.writer import Receipt
from counterseal_audit.checkpoints.heads import SignedHead


def appended(
    event_id: str,
    shard: int,
    receipt: Receipt,
    head: SignedHead | None,
    reached: "ledger_pb2.AppendMode.ValueType" = ledger_pb2.APPEND_MODE_DURABLE,
    proof: bytes = b"",
) -> ledger_pb2.AppendResult:
    """Return the result of an entry that is in the log as far as was asked for, with what is signed so far."""
    entry = _entry(shard, receipt, head, reached)
    entry.tlog_proof = proof
    return ledger_pb2.AppendResult(event_id=event_id, appended=entry)


def unmet(event_id: str, shard: int, receipt: Receipt, head: SignedHead | None) -> ledger_pb2.AppendResult:
    """Return the result of an entry that is durable, when more was asked for and did not come in time."""
    return ledger_pb2.AppendResult(
        event_id=event_id, unmet=_entry(shard, receipt, head, ledger_pb2.APPEND_MODE_DURABLE)
    )


def _entry(
    shard: int, receipt: Receipt, head: SignedHead | None, reached: "ledger_pb2.AppendMode.ValueType"
) -> ledger_pb2.AppendedEntry:
    entry = ledger_pb2.AppendedEntry(
        index=receipt.index,
        leaf_hash=receipt.leaf_hash,
        entry=receipt.entry,
        duplicate=receipt.duplicate,
        reached=reached,
        shard=shard,
    )
    if head is not None:
        entry.signed_size = head.size
        seconds, ms = divmod(head.publish_time_ms, 1000)
        entry.signed_time.seconds, entry.signed_time.nanos = seconds, ms * 1_000_000
    return entry


def refused(event_id: str, error: ServiceError) -> ledger_pb2.AppendResult:
    """Return the result of an entry that was not taken."""
    return ledger_pb2.AppendResult(event_id=event_id, refused=refusal(error))


def refusal(error: ServiceError) -> ledger_pb2.AppendRefusal:
    """Return reason and message."""
    return ledger_pb2.AppendRefusal(reason_code=error.reason, message=error.message[:512])


def timestamp(time_ms: int) -> Timestamp:
    """Return a timestamp of milliseconds since the Unix epoch."""
    value = Timestamp()
    value.FromMilliseconds(time_ms)
    return value
