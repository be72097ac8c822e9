"""Who may call which method, as data. A method that is not listed is denied; a test holds it against the protos.

`token` says whether the call carries a `txn-token`:
  required  every caller
  optional  services and operators may leave it out, because they call as themselves; everyone else must carry one
  none      no token is read: the call itself is how one gets a token, or it works for whoever the peer is
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Token = Literal["required", "optional", "none"]

POLICY, CREDENTIALS, AUDIT, EXECUTOR = "svc/policy", "svc/credentials", "svc/audit", "svc/executor"
SERVICES = (POLICY, CREDENTIALS, AUDIT, EXECUTOR)
AGENT, CLI, CONSOLE, OPERATOR = "agent", "cli", "console", "operator"
PEOPLE = (CLI, CONSOLE)
EVERYONE = (*SERVICES, AGENT, *PEOPLE, OPERATOR)


@dataclass(frozen=True, slots=True)
class MethodRule:
    """Peer kinds that may call a method, and whether a token is read."""

    peers: tuple[str, ...]
    token: Token


def _service(package: str, service: str, methods: Mapping[str, MethodRule]) -> dict[str, MethodRule]:
    return {f"/counterseal.api.{package}.v1.{service}/{name}": rule for name, rule in methods.items()}


METHODS: Mapping[str, MethodRule] = {
    **_service(
        "policy",
        "DecisionService",
        {
            "Decide": MethodRule((EXECUTOR,), "required"),
            "AuthorizePlan": MethodRule((EXECUTOR,), "required"),
        },
    ),
    **_service(
        "policy",
        "ApprovalService",
        {
            "ListApprovals": MethodRule(PEOPLE, "required"),
            "GetApproval": MethodRule(PEOPLE, "required"),
            "ApproveTask": MethodRule(PEOPLE, "required"),
            "RejectTask": MethodRule(PEOPLE, "required"),
            "WithdrawVote": MethodRule(PEOPLE, "required"),
            "WatchApprovals": MethodRule((EXECUTOR, *PEOPLE), "optional"),
        },
    ),
    **_service(
        "policy",
        "PolicyAdminService",
        {
            "PublishPolicy": MethodRule(PEOPLE, "required"),
            "ActivateSnapshot": MethodRule(PEOPLE, "required"),
            "GetSnapshot": MethodRule(PEOPLE, "required"),
            "ListSnapshots": MethodRule(PEOPLE, "required"),
        },
    ),
    **_service(
        "policy",
        "ContainmentService",
        {
            "TripContainment": MethodRule((*PEOPLE, OPERATOR), "optional"),
            "LiftContainment": MethodRule(PEOPLE, "required"),
            "ListContainments": MethodRule((*PEOPLE, OPERATOR), "optional"),
            "WatchContainment": MethodRule((EXECUTOR, CREDENTIALS), "none"),
        },
    ),
    **_service(
        "credentials",
        "TokenService",
        {
            "ExchangeToken": MethodRule((AGENT, *PEOPLE, EXECUTOR), "none"),
            "GetKeys": MethodRule(EVERYONE, "none"),
        },
    ),
    **_service(
        "credentials",
        "GrantService",
        {
            "IssueGrant": MethodRule((EXECUTOR,), "required"),
            "RedeemGrant": MethodRule((EXECUTOR,), "required"),
            "ReportLease": MethodRule((EXECUTOR,), "optional"),
            "RevokeAttempt": MethodRule((EXECUTOR,), "optional"),
        },
    ),
    **_service(
        "credentials",
        "GrantAdminService",
        {
            "ListGrants": MethodRule(PEOPLE, "required"),
            "RevokeScope": MethodRule((POLICY, OPERATOR), "none"),
            "GetBarrier": MethodRule((POLICY, OPERATOR), "none"),
        },
    ),
    **_service(
        "audit",
        "LedgerService",
        {
            "AppendEntry": MethodRule((POLICY, CREDENTIALS, EXECUTOR), "optional"),
            "AppendBatch": MethodRule((POLICY, CREDENTIALS, EXECUTOR), "optional"),
            "AppendStream": MethodRule((POLICY, CREDENTIALS, EXECUTOR), "optional"),
        },
    ),
    **_service(
        "audit",
        "LedgerReaderService",
        {
            "GetEntry": MethodRule((POLICY, CREDENTIALS, EXECUTOR, *PEOPLE), "optional"),
            "ListEntries": MethodRule((POLICY, CREDENTIALS, EXECUTOR, *PEOPLE), "optional"),
            "TailEntries": MethodRule((POLICY, CREDENTIALS, EXECUTOR, *PEOPLE), "optional"),
            "GetCheckpoint": MethodRule((POLICY, CREDENTIALS, EXECUTOR, *PEOPLE), "optional"),
            "GetInclusionProof": MethodRule((POLICY, CREDENTIALS, EXECUTOR, *PEOPLE), "optional"),
            "GetConsistencyProof": MethodRule((POLICY, CREDENTIALS, EXECUTOR, *PEOPLE), "optional"),
            "ExportLog": MethodRule(PEOPLE, "required"),
            "RecordExport": MethodRule(PEOPLE, "required"),
            "SearchEntries": MethodRule(PEOPLE, "required"),
            "GetTrace": MethodRule(PEOPLE, "required"),
            "ReindexLog": MethodRule(PEOPLE, "required"),
            "DiscloseEntry": MethodRule(PEOPLE, "required"),
        },
    ),
    **_service(
        "audit",
        "RetentionService",
        {
            "EraseSubject": MethodRule(PEOPLE, "required"),
            "GetErasure": MethodRule(PEOPLE, "required"),
            "ListErasures": MethodRule(PEOPLE, "required"),
            "PlaceHold": MethodRule(PEOPLE, "required"),
            "LiftHold": MethodRule(PEOPLE, "required"),
            "ListHolds": MethodRule(PEOPLE, "required"),
            "CheckPayloads": MethodRule(PEOPLE, "required"),
            "TailErasures": MethodRule((POLICY, CREDENTIALS, EXECUTOR), "none"),
        },
    ),
    **_service(
        "audit",
        "LedgerAdminService",
        {
            "FreezeLog": MethodRule(PEOPLE, "required"),
            "OpenShard": MethodRule(PEOPLE, "required"),
            "AdoptAnchor": MethodRule(PEOPLE, "required"),
            "RotateLogKey": MethodRule(PEOPLE, "required"),
            "ReconcileReceipts": MethodRule(PEOPLE, "required"),
        },
    ),
    **_service(
        "executor",
        "PlanService",
        {
            "ProposePlan": MethodRule((AGENT,), "required"),
            "VerifyPlan": MethodRule((AGENT,), "required"),
            "CommitPlan": MethodRule((AGENT,), "required"),
            "GetPlan": MethodRule((AGENT, *PEOPLE), "required"),
            "ListPlans": MethodRule((AGENT, *PEOPLE), "required"),
            "WatchPlan": MethodRule((AGENT, *PEOPLE), "required"),
            "CancelPlan": MethodRule((AGENT, *PEOPLE), "required"),
        },
    ),
    **_service(
        "executor",
        "ToolService",
        {
            "RegisterTool": MethodRule(PEOPLE, "required"),
            "GetTool": MethodRule((AGENT, *PEOPLE), "required"),
            "ListTools": MethodRule((AGENT, *PEOPLE), "required"),
            "RetireTool": MethodRule(PEOPLE, "required"),
        },
    ),
    **_service(
        "executor",
        "OperatorService",
        {
            "HaltScope": MethodRule((POLICY, OPERATOR), "none"),
            "GetBarrier": MethodRule((POLICY, OPERATOR), "none"),
            "ResumePlan": MethodRule(PEOPLE, "required"),
            "ListInDoubt": MethodRule(PEOPLE, "required"),
            "ResolveStep": MethodRule(PEOPLE, "required"),
        },
    ),
    "/grpc.health.v1.Health/Check": MethodRule(EVERYONE, "none"),
    "/grpc.health.v1.Health/Watch": MethodRule(EVERYONE, "none"),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": MethodRule(EVERYONE, "none"),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": MethodRule(EVERYONE, "none"),
}


def rule_for(method: str) -> MethodRule | None:
    """Return the rule of a full method name such as `/package.Service/Method`; None means denied."""
    return METHODS.get(method)


def as_rows() -> list[dict[str, object]]:
    """Return the table as `counterseal rpc list --json` prints it: {method, peers, token}, sorted by method."""
    return [{"method": name, "peers": list(rule.peers), "token": rule.token} for name, rule in sorted(METHODS.items())]
