"""Proto and values of grants."""

from datetime import datetime
from typing import Any

from counterseal.api.credentials.v1 import grant_admin_pb2, grant_pb2
from counterseal.errors import InputInvalid
from counterseal_credentials.grants.engine import Asked, State
from counterseal_credentials.grants.store import Grant

PURPOSES = {grant_pb2.GRANT_PURPOSE_READ: "READ", grant_pb2.GRANT_PURPOSE_WRITE: "WRITE"}
_PURPOSE_OF = {name: number for number, name in PURPOSES.items()}


def asked_of(request: grant_pb2.IssueGrantRequest) -> Asked:
    """Return what an Issue asks for. Raises InputInvalid."""
    purpose = PURPOSES.get(request.purpose)
    if purpose is None:
        raise InputInvalid("purpose must be READ or WRITE", field="purpose")
    return Asked(
        idempotency_key=request.idempotency_key,
        purpose=purpose,
        attempt_id=request.attempt_id,
        step_id=request.step_id,
        undo=request.undo,
        target=request.target,
        intent_event_id=request.intent_event_id,
        ttl_seconds=request.ttl.seconds,
    )


def state_of(state: State) -> Any:
    """Return the proto's state."""
    return grant_pb2.GrantState.Value(f"GRANT_STATE_{state.value}")


def state_name(state: Any) -> str:
    """Return the stored name of a proto's state, empty when unspecified."""
    return "" if not state else grant_pb2.GrantState.Name(state).removeprefix("GRANT_STATE_")


def issued(grant: Grant) -> grant_pb2.IssueGrantResponse:
    """Return the answer to an Issue."""
    answer = grant_pb2.IssueGrantResponse(grant_id=grant.grant_id, state=state_of(grant.state))
    set_time(answer.expire_time, grant.not_after)
    return answer


def listed(grant: Grant) -> grant_admin_pb2.Grant:
    """Return a grant for a review; no accessor, no lease."""
    row = grant_admin_pb2.Grant(
        grant_id=grant.grant_id,
        purpose=_PURPOSE_OF[grant.purpose],
        state=state_of(grant.state),
        attempt_id=grant.attempt_id,
        plan_digest=grant.plan_digest,
        step_id=grant.step,
        tool=grant.tool,
        role=f"{grant.action}--{grant.mode}--{grant.tier}",
        target=grant.target,
        subject=grant.subject,
        agent=grant.agent,
        revoke_reason=grant.revoke_reason or "",
    )
    set_time(row.create_time, grant.create_time)
    for name in ("redeem_time", "verify_time"):
        moment = getattr(grant, name)
        if moment is not None:
            set_time(getattr(row, name), moment)
    return row


def set_time(field: Any, moment: datetime) -> None:
    """Fill a Timestamp."""
    field.FromMilliseconds(int(moment.timestamp() * 1000))
