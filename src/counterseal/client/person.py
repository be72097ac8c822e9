"""What people do with their own token: vote, stop and lift, publish policy, register tools, look.

Nothing here decides anything: each method is one call of a service, made with the person's token.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from counterseal.api.audit.v1 import ledger_admin_pb2, ledger_admin_pb2_grpc, reader_pb2, reader_pb2_grpc
from counterseal.api.common.v1 import containment_pb2
from counterseal.api.credentials.v1 import grant_admin_pb2, grant_admin_pb2_grpc
from counterseal.api.executor.v1 import (
    operator_pb2,
    operator_pb2_grpc,
    plan_pb2,
    plan_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
)
from counterseal.api.policy.v1 import (
    approval_pb2,
    approval_pb2_grpc,
    containment_pb2_grpc,
    policy_admin_pb2,
    policy_admin_pb2_grpc,
)
from counterseal.api.policy.v1 import (
    containment_pb2 as trip_pb2,
)
from counterseal.client.connection import Connection
from counterseal.client.retention import RetentionCalls
from counterseal.client.tokens import Tokens

_METHOD = re.compile(r"(?P<service>[a-z]+)\.(?P<stub>[A-Za-z]+)/(?P<method>[A-Za-z]+)")
TRIP_SECONDS = 30.0
EXPORT_SECONDS = 3600.0


class Person(RetentionCalls):
    """A person's calls; `tokens` exchanges their OIDC token. Every method raises ServiceError."""

    def __init__(self, connection: Connection, tokens: Tokens) -> None:
        self._connection = connection
        self._tokens = tokens

    async def approvals(self, state: str = "PENDING") -> list[approval_pb2.ApprovalTask]:
        """Return the tenant's approval tasks in a state, newest first; empty text: all."""
        wanted = approval_pb2.ApprovalState.Value(f"APPROVAL_STATE_{state or 'UNSPECIFIED'}")
        found: list[approval_pb2.ApprovalTask] = []
        page = ""
        while True:
            request = approval_pb2.ListApprovalsRequest(state=wanted, page_token=page)
            answer = await self._policy(approval_pb2_grpc.ApprovalServiceStub, "ListApprovals", request, repeat=True)
            found.extend(answer.tasks)
            page = answer.next_page_token
            if not page:
                return found

    async def approval(self, task_id: str) -> approval_pb2.GetApprovalResponse:
        """Return one task with its decision card."""
        request = approval_pb2.GetApprovalRequest(task_id=task_id)
        return await self._policy(approval_pb2_grpc.ApprovalServiceStub, "GetApproval", request, repeat=True)  # type: ignore[no-any-return]

    async def approve(
        self, task_id: str, plan_digest: str, card_digest: str, comment: str = ""
    ) -> approval_pb2.ApprovalTask:
        """Vote for exactly the bytes and the card of these digests."""
        request = approval_pb2.ApproveTaskRequest(
            task_id=task_id, plan_digest=plan_digest, card_digest=card_digest, comment=comment
        )
        answer = await self._policy(approval_pb2_grpc.ApprovalServiceStub, "ApproveTask", request)
        return answer.task  # type: ignore[no-any-return]

    async def reject(self, task_id: str, plan_digest: str, card_digest: str, comment: str) -> approval_pb2.ApprovalTask:
        """Refuse a task; one refusal ends it."""
        request = approval_pb2.RejectTaskRequest(
            task_id=task_id, plan_digest=plan_digest, card_digest=card_digest, comment=comment
        )
        answer = await self._policy(approval_pb2_grpc.ApprovalServiceStub, "RejectTask", request)
        return answer.task  # type: ignore[no-any-return]

    async def trip(self, scope: str, reason_code: str, note: str = "") -> trip_pb2.TripContainmentResponse:
        """Stop a scope and wait for the three moments."""
        request = trip_pb2.TripContainmentRequest(scope=scope, reason_code=reason_code, note=note)
        stub = containment_pb2_grpc.ContainmentServiceStub
        return await self._policy(stub, "TripContainment", request, seconds=TRIP_SECONDS)  # type: ignore[no-any-return]

    async def lift(
        self, scope: str, epoch: int, note: str = "", request_digest: str = ""
    ) -> trip_pb2.LiftContainmentResponse:
        """Lift a scope that stands at `epoch`: the first call answers a digest, another person's call echoes it."""
        request = trip_pb2.LiftContainmentRequest(scope=scope, epoch=epoch, note=note)
        _second(request, request_digest)
        return await self._policy(containment_pb2_grpc.ContainmentServiceStub, "LiftContainment", request)  # type: ignore[no-any-return]

    async def containments(self) -> list[containment_pb2.ContainmentState]:
        """Return every scope that was ever tripped and concerns the tenant."""
        stub = containment_pb2_grpc.ContainmentServiceStub
        answer = await self._policy(stub, "ListContainments", trip_pb2.ListContainmentsRequest(), repeat=True)
        return list(answer.states)

    async def publish(self, documents: Mapping[str, bytes]) -> policy_admin_pb2.PublishPolicyResponse:
        """Publish policy documents (file name -> YAML text) as one immutable snapshot; nothing becomes active."""
        request = policy_admin_pb2.PublishPolicyRequest(
            documents=[policy_admin_pb2.PolicyDocument(name=name, text=text) for name, text in documents.items()]
        )
        stub = policy_admin_pb2_grpc.PolicyAdminServiceStub
        return await self._policy(stub, "PublishPolicy", request, seconds=60.0, repeat=True)  # type: ignore[no-any-return]

    async def activate(self, snapshot_id: str, request_digest: str = "") -> policy_admin_pb2.ActivateSnapshotResponse:
        """Activate a snapshot; two people, except for the first one of an empty environment."""
        request = policy_admin_pb2.ActivateSnapshotRequest(snapshot_id=snapshot_id)
        _second(request, request_digest)
        stub = policy_admin_pb2_grpc.PolicyAdminServiceStub
        return await self._policy(stub, "ActivateSnapshot", request, seconds=60.0, repeat=True)  # type: ignore[no-any-return]

    async def register(self, descriptors: Sequence[bytes], request_digest: str = "") -> tool_pb2.RegisterToolResponse:
        """Register tools by their canonical descriptors, all or none."""
        request = tool_pb2.RegisterToolRequest(descriptors=descriptors)
        _second(request, request_digest)
        return await self._executor(tool_pb2_grpc.ToolServiceStub, "RegisterTool", request, seconds=60.0, repeat=True)  # type: ignore[no-any-return]

    async def tools(self) -> list[tool_pb2.Tool]:
        """Return the tenant's tools by name."""
        found: list[tool_pb2.Tool] = []
        page = ""
        while True:
            request = tool_pb2.ListToolsRequest(page_token=page)
            answer = await self._executor(tool_pb2_grpc.ToolServiceStub, "ListTools", request, repeat=True)
            found.extend(answer.tools)
            page = answer.next_page_token
            if not page:
                return found

    async def plan(self, plan_id: str) -> plan_pb2.GetPlanResponse:
        """Return a plan, by id or digest, with its exact bytes."""
        request = plan_pb2.GetPlanRequest(plan_id=plan_id)
        return await self._executor(plan_pb2_grpc.PlanServiceStub, "GetPlan", request, repeat=True)  # type: ignore[no-any-return]

    async def plans(self, state: str = "") -> list[plan_pb2.Plan]:
        """Return the newest plans of the tenant, one page."""
        request = plan_pb2.ListPlansRequest(state=state)
        answer = await self._executor(plan_pb2_grpc.PlanServiceStub, "ListPlans", request, repeat=True)
        return list(answer.plans)

    async def in_doubt(self) -> list[operator_pb2.InDoubtStep]:
        """Return the steps whose effect is not known."""
        stub = operator_pb2_grpc.OperatorServiceStub
        answer = await self._executor(stub, "ListInDoubt", operator_pb2.ListInDoubtRequest(), repeat=True)
        return list(answer.steps)

    async def grants(self) -> list[grant_admin_pb2.Grant]:
        """Return the newest grants of the tenant, one page."""
        stub = grant_admin_pb2_grpc.GrantAdminServiceStub(self._connection.channel("credentials"))
        answer = await self._call("credentials", stub.ListGrants, grant_admin_pb2.ListGrantsRequest(), repeat=True)
        return list(answer.grants)

    async def entry(
        self, *, index: int | None = None, event_id: str = "", shard: int | None = None
    ) -> reader_pb2.GetEntryResponse:
        """Return one ledger entry of the tenant, by index in a log (the newest) or by event id in any of its logs."""
        request = reader_pb2.GetEntryRequest(shard=shard)
        if index is None:
            request.event_id = event_id
        else:
            request.index = index
        return await self._audit("GetEntry", request)  # type: ignore[no-any-return]

    async def entries(
        self, *, plan_digest: str = "", request_id: str = "", from_index: int = 0, shard: int | None = None
    ) -> list[Any]:
        """Return every ledger entry of a plan or request in one log (the newest), in order."""
        found: list[Any] = []
        page = ""
        while True:
            request = reader_pb2.ListEntriesRequest(
                plan_digest=plan_digest, request_id=request_id, from_index=from_index, page_token=page, shard=shard
            )
            answer = await self._audit("ListEntries", request)
            found.extend(answer.entries)
            page = answer.next_page_token
            if not page:
                return found

    async def trace(self, **by: str) -> reader_pb2.GetTraceResponse:
        """Return everything about one action with proofs; `by` is one field of GetTraceRequest."""
        return await self._audit("GetTrace", reader_pb2.GetTraceRequest(**by))  # type: ignore[no-any-return]

    async def search(self, request: reader_pb2.SearchEntriesRequest) -> reader_pb2.SearchEntriesResponse:
        """Return one page of the entries that a query means."""
        return await self._audit("SearchEntries", request)  # type: ignore[no-any-return]

    async def tail(self, from_index: int, shard: int | None = None) -> AsyncIterator[reader_pb2.TailEntriesResponse]:
        """Yield the tenant's entries from an index of a log on, as they come.

        With a shard, of the logs that continue it, too; without one, of the newest log alone.
        """
        stub = reader_pb2_grpc.LedgerReaderServiceStub(self._connection.channel("audit"))
        request = reader_pb2.TailEntriesRequest(from_index=from_index, shard=shard)
        token = await self._tokens.get()
        async for part in self._connection.stream("audit", stub.TailEntries, request, token=token, seconds=None):
            yield part

    async def reindex(self) -> AsyncIterator[reader_pb2.ReindexLogResponse]:
        """Have the search projection made again and yield how far it is."""
        stub = reader_pb2_grpc.LedgerReaderServiceStub(self._connection.channel("audit"))
        token = await self._tokens.get()
        request = reader_pb2.ReindexLogRequest()
        async for part in self._connection.stream("audit", stub.ReindexLog, request, token=token, seconds=None):
            yield part

    async def checkpoint(self, shard: int | None = None) -> reader_pb2.GetCheckpointResponse:
        """Return the latest signed checkpoint of one of the tenant's logs (the newest)."""
        return await self._audit("GetCheckpoint", reader_pb2.GetCheckpointRequest(shard=shard))  # type: ignore[no-any-return]

    async def inclusion_proof(
        self, index: int, tree_size: int = 0, shard: int | None = None
    ) -> reader_pb2.GetInclusionProofResponse:
        """Return the proof that an entry of a log (the newest) is in the tree of a size, 0: the latest checkpoint's."""
        request = reader_pb2.GetInclusionProofRequest(index=index, tree_size=tree_size, shard=shard)
        return await self._audit("GetInclusionProof", request)  # type: ignore[no-any-return]

    async def export(self, min_size: int = 0, purpose: str = "") -> AsyncIterator[reader_pb2.ExportLogResponse]:
        """Yield the files of the tenant's log, for a standard verifier, once a checkpoint covers `min_size` entries.

        The log records it first; purpose: a code that stands there in clear.
        """
        stub = reader_pb2_grpc.LedgerReaderServiceStub(self._connection.channel("audit"))
        token = await self._tokens.get()
        request = reader_pb2.ExportLogRequest(min_size=min_size, purpose=purpose)
        async for part in self._connection.stream(
            "audit", stub.ExportLog, request, token=token, seconds=EXPORT_SECONDS
        ):
            yield part

    async def record_export(
        self, export_event_id: str, form: str, manifest_digest: str, count: int
    ) -> reader_pb2.RecordExportResponse:
        """Record that rows or a bundle were made of an export of this person's, which its entry names."""
        stub = reader_pb2_grpc.LedgerReaderServiceStub(self._connection.channel("audit"))
        request = reader_pb2.RecordExportRequest(
            export_event_id=export_event_id, format=form, manifest_digest=manifest_digest, count=count
        )
        return await self._call("audit", stub.RecordExport, request)  # type: ignore[no-any-return]

    async def freeze_log(
        self, reason_code: str, request_digest: str = "", *, system: bool = False
    ) -> ledger_admin_pb2.FreezeLogResponse:
        """Close the tenant's log for ever; two people."""
        request = ledger_admin_pb2.FreezeLogRequest(reason_code=reason_code, system=system)
        _second(request, request_digest)
        return await self._ledger_admin("FreezeLog", request)  # type: ignore[no-any-return]

    async def open_shard(
        self, predecessor_checkpoint: bytes = b"", request_digest: str = "", *, system: bool = False
    ) -> ledger_admin_pb2.OpenShardResponse:
        """Begin the log behind one that is frozen or forked; two people."""
        request = ledger_admin_pb2.OpenShardRequest(predecessor_checkpoint=predecessor_checkpoint, system=system)
        _second(request, request_digest)
        return await self._ledger_admin("OpenShard", request)  # type: ignore[no-any-return]

    async def adopt_anchor(
        self, size: int = 0, root_hash: bytes = b"", request_digest: str = "", *, system: bool = False
    ) -> ledger_admin_pb2.AdoptAnchorResponse:
        """Take the log's head for right although its anchor is gone; two people. Size 0 only asks for the head."""
        request = ledger_admin_pb2.AdoptAnchorRequest(size=size, root_hash=root_hash, system=system)
        _second(request, request_digest)
        return await self._ledger_admin("AdoptAnchor", request)  # type: ignore[no-any-return]

    async def rotate_log_key(self, *, system: bool = False) -> ledger_admin_pb2.RotateLogKeyResponse:
        """Make the newest version of the transit key the log's key."""
        return await self._ledger_admin("RotateLogKey", ledger_admin_pb2.RotateLogKeyRequest(system=system))  # type: ignore[no-any-return]

    async def reconcile_receipts(
        self, receipts: Sequence[ledger_admin_pb2.Receipt], *, system: bool = False
    ) -> ledger_admin_pb2.ReconcileReceiptsResponse:
        """Compare at most 1,024 receipts with the log."""
        request = ledger_admin_pb2.ReconcileReceiptsRequest(receipts=receipts, system=system)
        return await self._ledger_admin("ReconcileReceipts", request, repeat=True)  # type: ignore[no-any-return]

    async def _ledger_admin(self, method: str, request: Any, **options: Any) -> Any:
        made = ledger_admin_pb2_grpc.LedgerAdminServiceStub(self._connection.channel("audit"))
        return await self._call("audit", getattr(made, method), request, **options)

    async def _policy(self, stub: Any, method: str, request: Any, **options: Any) -> Any:
        made = stub(self._connection.channel("policy"))
        return await self._call("policy", getattr(made, method), request, **options)

    async def _executor(self, stub: Any, method: str, request: Any, **options: Any) -> Any:
        made = stub(self._connection.channel("executor"))
        return await self._call("executor", getattr(made, method), request, **options)

    async def _audit(self, method: str, request: Any) -> Any:
        made = reader_pb2_grpc.LedgerReaderServiceStub(self._connection.channel("audit"))
        return await self._call("audit", getattr(made, method), request, repeat=True)

    async def _call(self, service: str, method: Any, request: Any, **options: Any) -> Any:
        return await self._connection.call(service, method, request, token=await self._tokens.get(), **options)


def _second(request: Any, request_digest: str) -> None:
    if request_digest:
        request.second_person.request_digest = request_digest
