"""Receipts and refusals to their wire form."""

from google.protobuf.timestamp_pb2 import Timestamp

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import ServiceError
from counterseal_audit.append.writer import Receipt
from counterseal_audit.checkpoints.heads import SignedHead


def appended(event_id: str, receipt: Receipt, head: SignedHead | None) -> ledger_pb2.AppendResult:
    """Return the result of an entry that is in the log, with what is signed so far."""
    entry = ledger_pb2.AppendedEntry(
        index=receipt.index, leaf_hash=receipt.leaf_hash, entry=receipt.entry, duplicate=receipt.duplicate
    )
    if head is not None:
        entry.signed_size = head.size
        entry.signed_time.CopyFrom(timestamp(head.publish_time_ms))
    return ledger_pb2.AppendResult(event_id=event_id, appended=entry)


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
