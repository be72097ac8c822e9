"""Erasures and holds to their wire form."""

from counterseal.api.audit.v1 import retention_pb2 as pb
from counterseal.api.common.v1 import containment_pb2 as common
from counterseal_audit.append.convert import timestamp
from counterseal_audit.retention.engine import Covers, State, missing
from counterseal_audit.retention.hold_store import HoldRow
from counterseal_audit.retention.job_store import Job
from counterseal_audit.second_person import Waiting

_STATES = {
    State.ORDERED: pb.ERASURE_STATE_ORDERED,
    State.ERASING: pb.ERASURE_STATE_ERASING,
    State.WAITING: pb.ERASURE_STATE_WAITING,
    State.SWEEPING: pb.ERASURE_STATE_WAITING,
    State.FINISHED: pb.ERASURE_STATE_FINISHED,
}


def erasure(job: Job) -> pb.Erasure:
    """Return an erasure with who has still to report."""
    wire = pb.Erasure(
        job_id=job.job_id,
        person=job.person,
        state=_STATES[job.state],
        event_id=job.event_id,
        order_time=timestamp(job.order_time_ms),
        count=job.count,
        reported=job.reported,
        missing=missing(job.reported),
    )
    if job.finish_time_ms is not None:
        wire.finish_time.CopyFrom(timestamp(job.finish_time_ms))
    return wire


def hold(row: HoldRow) -> pb.Hold:
    """Return a hold."""
    wire = pb.Hold(hold_id=row.hold_id, count=row.count, place_time=timestamp(row.place_time_ms))
    setattr(wire, "person" if row.covers is Covers.PERSON else str(row.covers), row.value)
    if row.lift_time_ms is not None:
        wire.lift_time.CopyFrom(timestamp(row.lift_time_ms))
    return wire


def second_person(waiting: Waiting) -> common.SecondPerson:
    """Return what the second person echoes."""
    return common.SecondPerson(request_digest=waiting.request_digest, expire_time=timestamp(waiting.expire_time_ms))
