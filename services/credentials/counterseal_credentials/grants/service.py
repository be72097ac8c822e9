"""gRPC edge of the broker: proto in, values through, proto out."""

import re
from typing import Any

from counterseal.api.credentials.v1 import grant_pb2, grant_pb2_grpc
from counterseal.errors import InputInvalid
from counterseal.identity import current_caller
from counterseal.vault.names import BadName, part
from counterseal_credentials.grants import convert
from counterseal_credentials.grants.lending import Lender

WAIT_SECONDS = 10.0
MARGIN_SECONDS = 0.2
_REASON = re.compile(r"[A-Z][A-Z0-9_]{2,63}")


class GrantService(grant_pb2_grpc.GrantServiceServicer):
    """See `grant.proto`."""

    def __init__(self, lender: Lender) -> None:
        self._lender = lender

    async def IssueGrant(  # noqa: N802
        self, request: grant_pb2.IssueGrantRequest, context: Any
    ) -> grant_pb2.IssueGrantResponse:
        """Create a grant."""
        del context
        decision = request.signed_decision
        grant = await self._lender.issue(
            current_caller(),
            convert.asked_of(request),
            decision.statement,
            decision.signature,
            decision.key,
            request.plan,
            request.tool_descriptor,
        )
        return convert.issued(grant)

    async def RedeemGrant(  # noqa: N802
        self, request: grant_pb2.RedeemGrantRequest, context: Any
    ) -> grant_pb2.RedeemGrantResponse:
        """Hand out the wrapper, once."""
        del context
        redeemed = await self._lender.redeem(current_caller(), request.grant_id)
        answer = grant_pb2.RedeemGrantResponse(
            wrapping_token=redeemed.wrapped.wrapping_token,
            vault_address=redeemed.vault_address,
            creation_path=redeemed.wrapped.creation_path,
            credential_path=redeemed.credential_path,
        )
        convert.set_time(answer.expire_time, redeemed.not_after)
        return answer

    async def ReportLease(  # noqa: N802
        self, request: grant_pb2.ReportLeaseRequest, context: Any
    ) -> grant_pb2.ReportLeaseResponse:
        """Store a lease."""
        del context
        caller = current_caller()
        await self._lender.report(caller.peer, caller.tenant, request.grant_id, request.lease_id)
        return grant_pb2.ReportLeaseResponse()

    async def RevokeAttempt(  # noqa: N802
        self, request: grant_pb2.RevokeAttemptRequest, context: Any
    ) -> grant_pb2.RevokeAttemptResponse:
        """Kill an attempt's grants."""
        caller = current_caller()
        tenant = caller.tenant or request.tenant
        try:
            part(tenant)
        except BadName:
            raise InputInvalid("tenant must be given where the call carries no token", field="tenant") from None
        if not _REASON.fullmatch(request.reason_code):
            raise InputInvalid("reason_code must be a reason code", field="reason_code")
        ended = await self._lender.revoke(
            tenant,
            request.attempt_id,
            request.reason_code,
            convert.PURPOSES.get(request.purpose),
            seconds_left(context),
        )
        answer = grant_pb2.RevokeAttemptResponse(never_redeemed=ended.never_redeemed, verified_dead=ended.verified_dead)
        if ended.verify_time is not None:
            convert.set_time(answer.verify_time, ended.verify_time)
        return answer


def seconds_left(context: Any) -> float:
    """Return how long a call may wait: a little less than its deadline, ten seconds without one."""
    left = context.time_remaining()
    return WAIT_SECONDS if left is None else max(0.0, min(WAIT_SECONDS, left - MARGIN_SECONDS))
