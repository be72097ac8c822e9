"""`PolicyAdminService`: publish, activate, look."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.api.policy.v1 import policy_admin_pb2 as pb
from counterseal.api.policy.v1 import policy_admin_pb2_grpc
from counterseal.clock import Clock
from counterseal.errors import InputInvalid, NotFound, RoleRequired
from counterseal.identity import Caller, current_caller
from counterseal.ids import IdSource
from counterseal.rpc import paging
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal_policy import second_person
from counterseal_policy.config import PolicyConfig
from counterseal_policy.containment.service import second_wire
from counterseal_policy.database import EVERY_TENANT, transaction
from counterseal_policy.paging import SNAPSHOTS, position_of
from counterseal_policy.rules.compile import Policy
from counterseal_policy.rules.condition import ConditionEngine
from counterseal_policy.snapshots import store
from counterseal_policy.snapshots.active import ActivePolicies
from counterseal_policy.snapshots.engine import PLATFORM, compile_documents, snapshot_id, warnings
from counterseal_policy.suites import Report, run_stepwise

ACTIVE = "active"


@dataclass(slots=True)
class PolicyAdminService(policy_admin_pb2_grpc.PolicyAdminServiceServicer):
    """See the proto. Platform documents need a platform author once the environment has a policy."""

    engine: AsyncEngine
    outbox: Outbox
    policies: ActivePolicies
    rules: ConditionEngine
    config: PolicyConfig
    environment: str
    clock: Clock
    new_id: IdSource

    async def PublishPolicy(self, request: pb.PublishPolicyRequest, context: Any) -> pb.PublishPolicyResponse:
        """Compile, lint and test, then store; nothing becomes active. The same documents are one snapshot."""
        caller = self._author()
        texts = [(document.name, document.text) for document in request.documents]
        if len({name for name, _ in texts}) != len(texts):
            raise InputInvalid("two documents have the same name")
        policy = compile_documents(texts, self.rules)
        findings = warnings(policy, await _tested(policy))
        name = snapshot_id(policy.files)
        sources = dict(texts)
        stored = [(file, sources[file.file_name]) for file in policy.files]
        entries: list[ledger_pb2.NewEntry] = []
        async with transaction(self.engine, caller.tenant) as connection:
            known = await store.read(connection, caller.tenant, name)
            if known is None:
                platform = {file.digest for file in policy.files if file.scope == "platform"}
                await self._check_platform(connection, caller, platform)
                if await store.insert(connection, caller.tenant, name, stored, caller.subject):
                    entries.append(self._published(caller, name, stored))
            await self.outbox.put(connection, *entries)
            snapshot = await self._read(connection, caller.tenant, name)
        if entries:
            await self.outbox.send(*entries)
        shown = [pb.Finding(severity=f.severity, where=f.where, code=f.code, message=f.message) for f in findings]
        return pb.PublishPolicyResponse(snapshot=snapshot, findings=shown)

    async def ActivateSnapshot(self, request: pb.ActivateSnapshotRequest, context: Any) -> pb.ActivateSnapshotResponse:
        """Make a snapshot active: two people, unless the environment has none yet. Already active: no change."""
        caller = self._author()
        async with transaction(self.engine, caller.tenant) as connection:
            await store.lock_activation(connection)
            row = await store.read(connection, caller.tenant, request.snapshot_id)
            if row is None:
                raise NotFound("no such snapshot")
            before = await store.active(connection, caller.tenant)
            scopes = [PLATFORM if scope == "platform" else caller.tenant for scope in row.scopes]
            if all(scope in before and before[scope].snapshot_id == row.snapshot_id for scope in scopes):
                return pb.ActivateSnapshotResponse(
                    snapshot=await self._read(connection, caller.tenant, row.snapshot_id)
                )
            await self._check_platform(
                connection, caller, await store.platform_digests(connection, row.tenant, row.documents)
            )
            people = [caller.subject]
            if before:
                content = {"method": "ActivateSnapshot", "snapshot_id": row.snapshot_id}
                echo = request.second_person.request_digest
                asked = await second_person.confirm(connection, caller, content, echo)
                if isinstance(asked, second_person.Waiting):
                    return pb.ActivateSnapshotResponse(second_person=second_wire(asked))
                people = [asked.first, caller.subject]
            await self._compiles(row, before, caller.tenant)
            for scope in scopes:
                await store.activate(connection, caller.tenant, scope, row.snapshot_id, people, bootstrap=not before)
            old = before.get(caller.tenant) or before.get(PLATFORM)
            data = {
                "from_snapshot_id": old.snapshot_id if old else None,
                "to_snapshot_id": row.snapshot_id,
                "activated_by": people,
                "bootstrap": not before,
            }
            entry = self._entry(caller, "policy.activated", data)
            await self.outbox.put(connection, entry)
            snapshot = await self._read(connection, caller.tenant, row.snapshot_id)
        await self.outbox.send(entry)
        return pb.ActivateSnapshotResponse(snapshot=snapshot)

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: Any) -> pb.GetSnapshotResponse:
        """Return one snapshot with its documents."""
        caller = _reader()
        async with transaction(self.engine, caller.tenant) as connection:
            wanted = request.snapshot_id
            if wanted == ACTIVE:
                active = await store.active(connection, caller.tenant)
                mine = active.get(caller.tenant)
                if mine is None:
                    raise NotFound("no snapshot of yours is active")
                wanted = mine.snapshot_id
            snapshot = await self._read(connection, caller.tenant, wanted)
            row = await store.read(connection, caller.tenant, wanted)
            found = await store.documents(connection, caller.tenant, row.documents if row else ())
        for document in found:
            snapshot.documents.add(name=document.file_name, text=document.source)
        return pb.GetSnapshotResponse(snapshot=snapshot)

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Any) -> pb.ListSnapshotsResponse:
        """List the tenant's snapshots, newest first."""
        caller = _reader()
        size = paging.size(request.page_size)
        before = position_of(paging.read(request, caller.tenant, SNAPSHOTS))
        async with transaction(self.engine, caller.tenant) as connection:
            rows = await store.listed(connection, caller.tenant, before, size + 1)
            active = {item.snapshot_id for item in (await store.active(connection, caller.tenant)).values()}
        token = ""
        if len(rows) > size:
            token = paging.make(f"{rows[size - 1].create_time_ms} {rows[size - 1].snapshot_id}", request, caller.tenant)
        return pb.ListSnapshotsResponse(
            snapshots=[_wire(row, row.snapshot_id in active) for row in rows[:size]],
            next_page_token=token,
        )

    def _author(self) -> Caller:
        caller = current_caller()
        wanted = {*self.config.author_roles, *self.config.platform_author_roles}
        if caller.chain or not caller.roles & wanted:
            raise RoleRequired(f"needs one of the roles {', '.join(sorted(wanted))}")
        return caller

    async def _check_platform(self, connection: AsyncConnection, caller: Caller, documents: set[str]) -> None:
        """The platform's rules bind every tenant: after the bootstrap only platform authors change them.

        documents: digests of the platform's documents in the snapshot. Sending those that are active is no change.
        """
        if not documents or caller.roles & set(self.config.platform_author_roles):
            return
        active = await store.active(connection, caller.tenant)
        if not active:
            return
        if PLATFORM in active:
            async with transaction(self.engine, EVERY_TENANT) as everyone:
                row = await store.read(everyone, active[PLATFORM].tenant, active[PLATFORM].snapshot_id)
                if row and documents == await store.platform_digests(everyone, row.tenant, row.documents):
                    return
        raise RoleRequired(f"changing platform documents needs one of {', '.join(self.config.platform_author_roles)}")

    async def _compiles(self, row: store.SnapshotRow, before: dict[str, store.Active], tenant: str) -> None:
        """What would be active together must compile together; else the old set goes on serving."""
        new = store.Active("", row.tenant, row.snapshot_id)
        platform = new if "platform" in row.scopes else before.get(PLATFORM)
        own = new if "tenant" in row.scopes else before.get(tenant)
        await self.policies.compile(platform, own)

    async def _read(self, connection: AsyncConnection, tenant: str, name: str) -> pb.Snapshot:
        row = await store.read(connection, tenant, name)
        if row is None:
            raise NotFound("no such snapshot")
        active = await store.active(connection, tenant)
        return _wire(row, any(item.snapshot_id == name for item in active.values()))

    def _published(self, caller: Caller, name: str, stored: Sequence[tuple[Any, bytes]]) -> ledger_pb2.NewEntry:
        data = {
            "snapshot_id": name,
            "documents": [file.digest for file, _ in stored],
            "published_by": caller.subject,
        }
        bundle = {file.file_name: source.decode() for file, source in stored}
        return self._entry(caller, "policy.published", data, {"bundle": bundle})

    def _entry(
        self, caller: Caller, kind: str, data: dict[str, Any], sealed: dict[str, Any] | None = None
    ) -> ledger_pb2.NewEntry:
        return new_entry(
            kind,
            data,
            event_id=self.new_id(),
            event_time_ms=self.clock(),
            tenant=caller.tenant,
            environment=self.environment,
            request_id=caller.request_id,
            subject=caller.subject,
            sealed=sealed,
        )


async def _tested(policy: Policy) -> Report:
    """Run the suites, letting decisions and heartbeats through between the cases."""
    run = run_stepwise(policy)
    while True:
        try:
            next(run)
        except StopIteration as done:
            report: Report = done.value
            return report
        await asyncio.sleep(0)


def _reader() -> Caller:
    caller = current_caller()
    if not caller.roles:
        raise RoleRequired("needs a role")
    return caller


def _wire(row: store.SnapshotRow, active: bool) -> pb.Snapshot:
    created = Timestamp()
    created.FromMilliseconds(row.create_time_ms)
    return pb.Snapshot(snapshot_id=row.snapshot_id, create_time=created, active=active)
