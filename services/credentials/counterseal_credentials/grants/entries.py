"""The ledger entries of a grant's life."""

from typing import Any

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.documents.decision import Statement
from counterseal.identity import Caller
from counterseal.ids import IdSource
from counterseal.rpc.ledger_wire import caller_texts, new_entry
from counterseal_credentials.containment.engine import SYSTEM_TENANT, ScopeState, tenant_of
from counterseal_credentials.grants.engine import Asked
from counterseal_credentials.grants.store import Grant


class Entries:
    """Makes entries of one environment; no secret and no accessor is in any of them."""

    def __init__(self, environment: str, clock: Clock, new_id: IdSource) -> None:
        self._environment, self._clock, self._new_id = environment, clock, new_id

    def granted(self, grant: Grant) -> ledger_pb2.NewEntry:
        """`credential.granted`: a wrapper is about to leave."""
        data = {**_common(grant), "ttl_seconds": grant.ttl_seconds}
        return self._of_grant("credential.granted", grant, data)

    def revoked(self, grant: Grant, *, never_redeemed: bool) -> ledger_pb2.NewEntry:
        """`credential.revoked`: verified dead, or never handed out."""
        data = {
            **_common(grant),
            "never_redeemed": never_redeemed,
            "verified_dead": not never_redeemed,
            "reason_code": grant.revoke_reason or "DONE",
        }
        return self._of_grant("credential.revoked", grant, data)

    def denied(self, caller: Caller, asked: Asked, decision: Statement | None, reason: str) -> ledger_pb2.NewEntry:
        """`credential.denied`: a grant was asked for and refused."""
        texts = caller_texts(caller)
        if decision is not None:
            texts["plan_digest"] = decision.plan_digest
        data: dict[str, object] = {"purpose": asked.purpose, "reason_code": reason, "attempt_id": asked.attempt_id}
        return self._entry("credential.denied", data, caller.tenant, texts)

    def scope_revoked(self, state: ScopeState, credential_count: int) -> ledger_pb2.NewEntry:
        """`containment.revoked`: n of n credentials of a stopped scope are verified dead."""
        data = {
            "scope": state.scope,
            "epoch": state.epoch,
            "revoked_count": credential_count,
            "credential_count": credential_count,
            "drill": False,
        }
        return self._entry("containment.revoked", data, tenant_of(state.scope) or SYSTEM_TENANT, {})

    def _of_grant(self, kind: str, grant: Grant, data: dict[str, object]) -> ledger_pb2.NewEntry:
        texts = {
            "request_id": grant.request_id,
            "txn": grant.txn,
            "subject": grant.subject,
            "agent": grant.agent,
            "plan_digest": grant.plan_digest,
            "step": grant.step,
        }
        return self._entry(kind, data, grant.tenant, {name: text for name, text in texts.items() if text})

    def _entry(self, kind: str, data: dict[str, object], tenant: str, texts: dict[str, Any]) -> ledger_pb2.NewEntry:
        return new_entry(
            kind,
            data,
            event_id=self._new_id(),
            event_time_ms=self._clock(),
            tenant=tenant,
            environment=self._environment,
            **texts,
        )


def _common(grant: Grant) -> dict[str, object]:
    return {
        "grant_id": grant.grant_id,
        "attempt_id": grant.attempt_id,
        "purpose": grant.purpose,
        "role": f"{grant.action}--{grant.mode}--{grant.tier}",
    }
