"""LedgerAdminService: who may do what to which log, and that two people said so."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.api.audit.v1 import ledger_admin_pb2 as pb
from counterseal.api.audit.v1 import ledger_admin_pb2_grpc
from counterseal.api.common.v1 import containment_pb2
from counterseal.canonical import JsonObject
from counterseal.errors import InputInvalid
from counterseal.identity import Caller, current_caller
from counterseal.ids import is_id
from counterseal.ledger.registry import SYSTEM_TENANT
from counterseal.ledger.tree import HASH_SIZE, leaf_hash
from counterseal_audit.admin.operations import Operations
from counterseal_audit.append.convert import timestamp
from counterseal_audit.append.store import AppendStore, Stored
from counterseal_audit.logs.store import Log
from counterseal_audit.second_person import Confirmed, SecondPerson, Waiting, person_with

MAX_RECEIPTS = 1024
_REASON = re.compile(r"[A-Z][A-Z0-9_]{2,63}")


@dataclass(slots=True)
class LedgerAdminServicer(ledger_admin_pb2_grpc.LedgerAdminServiceServicer):
    """See the proto."""

    operations: Operations
    store: AppendStore
    second_person: SecondPerson
    operator_roles: frozenset[str]
    platform_operator_roles: frozenset[str]

    async def FreezeLog(  # noqa: N802
        self,
        request: pb.FreezeLogRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.FreezeLogResponse:
        """Close the log for ever."""
        caller, one = await self._log(system=request.system)
        if not _REASON.fullmatch(request.reason_code):
            raise InputInvalid("reason_code must be capitals, digits and _, 3 to 64 characters")
        content = {"method": "FreezeLog", "origin": one.origin, "reason_code": request.reason_code}
        asked = await self._confirm(caller, content, request)
        if isinstance(asked, Waiting):
            return pb.FreezeLogResponse(origin=one.origin, second_person=_second(asked))
        size = await self.operations.freeze(one, request.reason_code, asked.people)
        return pb.FreezeLogResponse(size=size, origin=one.origin)

    async def OpenShard(  # noqa: N802
        self,
        request: pb.OpenShardRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.OpenShardResponse:
        """Begin the next log."""
        caller, one = await self._log(system=request.system)
        predecessor = await self.operations.citation(one, request.predecessor_checkpoint)
        content = {"method": "OpenShard", "origin": one.origin, "predecessor": predecessor}
        asked = await self._confirm(caller, content, request)
        if isinstance(asked, Waiting):
            return pb.OpenShardResponse(predecessor=predecessor, second_person=_second(asked))
        made = await self.operations.continue_behind(one, predecessor, asked.people)
        return pb.OpenShardResponse(shard=made.shard, origin=made.origin, vkey=made.vkey, predecessor=predecessor)

    async def AdoptAnchor(  # noqa: N802
        self,
        request: pb.AdoptAnchorRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.AdoptAnchorResponse:
        """Take the log as it stands for right."""
        caller, one = await self._log(system=request.system)
        head = await self.operations.adoptable(one)
        if not request.size:
            return pb.AdoptAnchorResponse(size=head.frontier.size, root_hash=head.root)
        if len(request.root_hash) != HASH_SIZE:
            raise InputInvalid(f"root_hash: expected {HASH_SIZE} bytes")
        root = request.root_hash.hex()
        content = {"method": "AdoptAnchor", "origin": one.origin, "size": request.size, "root": root}
        asked = await self._confirm(caller, content, request)
        if isinstance(asked, Waiting):
            return pb.AdoptAnchorResponse(size=request.size, root_hash=request.root_hash, second_person=_second(asked))
        time_ms = await self.operations.adopt(one, request.size, request.root_hash)
        await self.operations.record_adoption(one, asked.people)
        return pb.AdoptAnchorResponse(size=request.size, root_hash=request.root_hash, adopt_time=timestamp(time_ms))

    async def RotateLogKey(  # noqa: N802
        self,
        request: pb.RotateLogKeyRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.RotateLogKeyResponse:
        """Make the newest version of the transit key the log's key."""
        _, one = await self._log(system=request.system)
        rotated = await self.operations.rotate(one)
        return pb.RotateLogKeyResponse(index=rotated.index, vkey=rotated.key.vkey, version=rotated.version)

    async def ReconcileReceipts(  # noqa: N802
        self,
        request: pb.ReconcileReceiptsRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.ReconcileReceiptsResponse:
        """Compare receipts with the tenant's logs."""
        _, one = await self._log(system=request.system)
        if len(request.receipts) > MAX_RECEIPTS:
            raise InputInvalid(f"{len(request.receipts)} receipts; at most {MAX_RECEIPTS} are compared at once")
        for receipt in request.receipts:
            if not is_id(receipt.event_id) or len(receipt.leaf_hash) != HASH_SIZE or receipt.index < 0:
                raise InputInvalid("a receipt is an event id, an index and a leaf hash", event_id=receipt.event_id[:64])
        found = await self._found(one, [receipt.event_id for receipt in request.receipts])
        problems = [
            pb.ReceiptProblem(receipt=receipt, problem=problem)
            for receipt in request.receipts
            if (problem := _problem(receipt, found.get(receipt.event_id)))
        ]
        last = await self.operations.checkpoints.latest(one.log_id)
        answer = pb.ReconcileReceiptsResponse(
            matched_count=len(request.receipts) - len(problems),
            problems=problems,
            size=(await self.operations.ledger.stored_head(one)).frontier.size,
            signed_size=last.size if last else 0,
        )
        if last is not None:
            answer.signed_time.CopyFrom(timestamp(last.publish_time_ms))
        return answer

    async def _found(self, one: Log, event_ids: list[str]) -> Mapping[str, Stored]:
        """Return what is in the tenant's logs, the newest first."""
        found: dict[str, Stored] = {}
        for shard in await self.operations.logs.shards(one.tenant, one.environment):
            found |= await self.store.find(shard.log_id, event_ids)
        return found

    async def _log(self, *, system: bool) -> tuple[Caller, Log]:
        caller = person_with(current_caller(), self.platform_operator_roles if system else self.operator_roles)
        return caller, await self.operations.newest(SYSTEM_TENANT if system else caller.tenant)

    async def _confirm(self, caller: Caller, content: JsonObject, request: Any) -> Waiting | Confirmed:
        return await self.second_person.confirm(caller, content, request.second_person.request_digest)


def _problem(receipt: pb.Receipt, stored: Stored | None) -> str:
    """Return what is wrong with a receipt, nothing when the log bears it out."""
    if stored is None:
        return "missing"
    if stored.leaf_hash != leaf_hash(stored.entry):
        return "stored hash"
    if stored.leaf_hash != receipt.leaf_hash:
        return "altered"
    return "moved" if stored.index != receipt.index else ""


def _second(waiting: Waiting) -> containment_pb2.SecondPerson:
    return containment_pb2.SecondPerson(
        request_digest=waiting.request_digest, expire_time=timestamp(waiting.expire_time_ms)
    )
