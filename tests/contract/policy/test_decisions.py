"""Decisions on a real database: recorded before they are told, signed last, bound to exact bytes."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest

from counterseal.api.common.v1 import decision_pb2 as common
from counterseal.api.policy.v1 import decision_pb2 as pb
from counterseal.canonical import canonical, digest, parse_strict
from counterseal.documents.decision import Statement, open_statement, parse_statement
from counterseal.documents.plan import parse_draft
from counterseal.errors import (
    ContainmentStale,
    ContextMismatch,
    LedgerUnavailable,
    PlanDigestMismatch,
    ServiceError,
    SnapshotMismatch,
)
from counterseal.ledger import entry as entries
from counterseal.rpc.interceptor import Refusal
from counterseal_policy.decisions.decider import Answer
from counterseal_policy.decisions.service import DecisionService
from support.documents import draft_document, tool
from support.policy_service import DOCUMENTS, TOOL, UNDO, Service, agent, plan, policy_service, verify
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.signer import LocalSigner


def statement(service: Service, answer: Answer) -> Statement:
    assert answer.signed is not None
    assert answer.signed.key == service.signer.kid
    return open_statement(answer.signed.statement, answer.signed.signature, service.signer.public_key, verify)


@requirement("decision:durable-first")
async def test_an_allowed_plan_is_in_the_ledger_and_signed(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = plan()
        answer = await service.authorize(asked, "COMMIT")
        assert (answer.evaluation.outcome, answer.evaluation.reason_codes) == ("ALLOW", ("ALLOWED_BY_RULE",))
        signed = statement(service, answer)
        signed.require(audience="executor", environment="prod", now_ms=signed.issue_time_ms)
        assert (signed.plan_digest, signed.purpose, signed.subject) == (asked.digest, "COMMIT", "user:ana")
        assert signed.act == {"sub": "refund-bot", "version": "3.2.1", "owner": "user:olga"}
        assert {scope.partition(":")[0] for scope in signed.epochs} == {
            "environment",
            "tenant",
            "agent",
            "tool",
            "plan",
            "request",
        }
        assert "tool:acme/shop.unrefund" in signed.epochs
        entry = entries.parse(service.ledger.log[-1]).document
        assert (entry["type"], entry["data"]["decision_id"]) == ("plan.decided", answer.decision_id)
        assert entry["plan_digest"] == asked.digest


async def test_a_denied_plan_is_recorded_and_never_signed(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        answer = await service.authorize(plan(500_000), "COMMIT")
        assert (answer.evaluation.outcome, answer.evaluation.reason_codes) == ("DENY", ("TOO_MUCH",))
        assert answer.signed is None
        entry = entries.parse(service.ledger.log[-1]).document
        assert entry["data"]["reason_codes"] == ["TOO_MUCH"]
        assert entry["data"]["rules"] == ["shop/huge"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tenant": "globex"}, "TENANT_MISMATCH"),
        ({"environment": "staging"}, "ENVIRONMENT_MISMATCH"),
    ],
)
async def test_a_plan_of_another_tenant_or_environment_is_denied_on_record(
    fresh_database: FreshDatabase, change: dict[str, Any], code: str
) -> None:
    async with policy_service(fresh_database) as service:
        answer = await service.authorize(plan(**change), "COMMIT")
        assert (answer.evaluation.reason_codes, answer.signed) == ((code,), None)
        assert entries.parse(service.ledger.log[-1]).document["data"]["reason_codes"] == [code]


@requirement("decision:errors-never-allow")
async def test_without_an_active_policy_everything_is_denied(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database, active=False) as service:
        answer = await service.authorize(plan(), "COMMIT")
        assert (answer.evaluation.reason_codes, answer.signed) == (("NO_ACTIVE_POLICY",), None)


async def test_changed_bytes_another_proposer_and_another_snapshot_are_errors(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        before = len(service.ledger.log)
        with pytest.raises(PlanDigestMismatch):
            await service.authorize(plan(), body=plan(1501).body)
        with pytest.raises(ContextMismatch):
            await service.authorize(plan(), caller=agent(subject="user:bob"))
        with pytest.raises(ContextMismatch):
            await service.authorize(plan(), caller=agent(agent="other-bot"))
        with pytest.raises(SnapshotMismatch):
            await service.authorize(plan(), snapshot_id="sha256:" + "0" * 64)
        with pytest.raises(ServiceError):
            await service.authorize(replace(plan(), body=b"{}", digest=digest("plan", b"{}")))
        assert len(service.ledger.log) == before
        assert await service.sql("SELECT 1 FROM decision") == []


@pytest.mark.parametrize("sent", [[], [TOOL.body], [TOOL.body, UNDO.body, b"{}"], [tool().body, UNDO.body]])
async def test_descriptors_beside_the_bytes_must_be_those_that_the_bytes_name(
    fresh_database: FreshDatabase, sent: list[bytes]
) -> None:
    async with policy_service(fresh_database) as service:
        answer = await service.authorize(plan(), "COMMIT", descriptors=sent)
        assert (answer.evaluation.reason_codes, answer.signed) == (("INPUT_INVALID",), None)


async def test_a_preview_or_rationale_that_the_bytes_do_not_name_is_invalid(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        for change in ({"previews": [b"{}"]}, {"rationale": canonical({"rationale": "trust me", "salt": "00"})}):
            answer = await service.authorize(plan(), "COMMIT", **change)
            assert answer.evaluation.reason_codes == ("INPUT_INVALID",)


async def test_a_broken_constraint_of_the_token_denies_before_any_rule(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        answer = await service.authorize(plan(), "COMMIT", agent(constraints={"read_only": True}))
        assert answer.evaluation.reason_codes == ("CONSTRAINT_VIOLATED",)
        assert "constraints_digest" in entries.parse(service.ledger.log[-1]).document["data"]


@requirement("decision:durable-first")
async def test_with_the_ledger_down_nothing_is_signed_and_the_record_arrives_later(
    fresh_database: FreshDatabase,
) -> None:
    async with policy_service(fresh_database) as service:
        before = len(service.ledger.log)
        service.ledger.down = True
        for _ in range(5):
            with pytest.raises(LedgerUnavailable):
                await service.authorize(plan(), "COMMIT")
        assert service.signer.signed == 0
        service.ledger.down = False
        await asyncio.sleep(0.4)  # younger rows are left to those who wait for them
        await service.outbox.relay_once()
        decided = [e for e in map(entries.parse, service.ledger.log[before:]) if e.type == "plan.decided"]
        assert len(decided) == 5
        assert len({e.event_id for e in decided}) == 5


async def test_until_both_barriers_are_known_nothing_is_allowed(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database, adopted=False) as service:
        with pytest.raises(ContainmentStale):
            await service.authorize(plan(), "COMMIT")
        await service.adoption._once("executor")
        with pytest.raises(ContainmentStale):
            await service.authorize(plan(), "COMMIT")
        await service.adoption._once("credentials")
        assert (await service.authorize(plan(), "COMMIT")).evaluation.outcome == "ALLOW"


async def test_an_undo_is_allowed_only_for_a_plan_that_was_allowed_to_commit(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        refused = await service.authorize(plan(), "COMPENSATE")
        assert (refused.evaluation.reason_codes, refused.signed) == (("APPROVAL_OUT_OF_SCOPE",), None)
        await service.authorize(plan(), "COMMIT")
        allowed = await service.authorize(plan(), "COMPENSATE")
        signed = statement(service, allowed)
        assert (signed.purpose, signed.outcome, signed.step("s1").action_class) == ("COMPENSATE", "ALLOW", 2)


async def test_an_undo_stays_allowed_when_the_policy_became_stricter(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await service.authorize(plan(), "COMMIT")
        strict = DOCUMENTS["rules.yaml"].replace(b"amount_minor > 100000", b"amount_minor > 0")
        await service.activate(await service.publish({**DOCUMENTS, "rules.yaml": strict}))
        assert (await service.authorize(plan(), "COMMIT")).evaluation.outcome == "DENY"
        assert (await service.authorize(plan(), "COMPENSATE")).evaluation.outcome == "ALLOW"


async def test_a_draft_is_decided_for_reading_only(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        document = draft_document(
            steps=[{"id": "s1", "tool": TOOL.reference, "target": "shop", "args": {"amount_minor": 5000}}]
        )
        draft = parse_draft(document)
        answer = await service.decider.decide_draft(agent(), draft.body, draft.digest, [TOOL.body], frozenset())
        signed = statement(service, answer)
        assert (signed.purpose, signed.outcome, signed.plan_digest) == ("PREVIEW", "REQUIRE_APPROVAL", draft.digest)
        assert entries.parse(service.ledger.log[-1]).type == "call.decided"
        assert await service.sql("SELECT 1 FROM approval_task") == []


async def test_the_record_keeps_every_verdict_and_the_sealed_part_every_fact(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await service.authorize(plan(), "COMMIT")
        ((record,),) = await service.sql("SELECT record FROM decision")
        document = parse_strict(bytes(record))
        forward = document["verdicts"]["steps"][0]
        assert {rule["rule"] for rule in forward["rules"]} == {
            "floor/tenants-decide",
            "shop/small",
            "shop/huge",
            "shop/large",
        }
        assert document["inputs"]["steps"][0]["facts"]["num"] == {"amount_minor": 1500}
        names = {parse_disclosed(text) for text in service.ledger.requests[-1].disclosures}
        assert names == {"inputs", "verdicts"}
        assert b"user:ana" not in service.ledger.log[-1]


def parse_disclosed(text: str) -> str:
    body = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return str(parse_strict(b'{"x":' + body + b"}")["x"][1])


async def test_whatever_is_signed_is_in_the_ledger_already(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        plain = LocalSigner.sign
        unrecorded: list[str] = []

        async def watched(message: bytes) -> tuple[bytes, str]:
            body = message[message.index(b"{") :]
            wanted = parse_strict(body)["decision_id"]
            logged = [e.document["data"].get("decision_id") for e in map(entries.parse, service.ledger.log)]
            unrecorded.extend([] if wanted in logged else [wanted])
            return await plain(service.signer, message)

        service.signer.sign = watched
        signed = 0
        for round_number in range(6):
            service.ledger.lose_answers = round_number % 3
            plans = [plan(nonce=f"{round_number:016x}{n:016x}") for n in range(8)]
            answers = await asyncio.gather(*(service.authorize(of, "COMMIT") for of in plans), return_exceptions=True)
            signed += sum(isinstance(answer, Answer) and answer.signed is not None for answer in answers)
        assert signed > 0
        assert unrecorded == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"canonical_plan": b"{}"}, "PLAN_DIGEST_MISMATCH"),
        ({"canonical_plan": b"\xff", "plan_digest": digest("plan", b"\xff")}, "NOT_CANONICAL"),
        ({"canonical_plan": b"{}", "plan_digest": digest("plan", b"{}")}, "PLAN_INVALID"),
        ({"snapshot_id": "sha256:" + "0" * 64}, "SNAPSHOT_MISMATCH"),
    ],
)
async def test_a_question_that_cannot_be_judged_is_an_error_and_on_record(
    fresh_database: FreshDatabase, change: dict[str, Any], reason: str
) -> None:
    async with policy_service(fresh_database) as service:
        refused: list[Refusal] = []

        async def on_refused(refusal: Refusal) -> None:
            refused.append(refusal)

        handler = DecisionService(service.decider, on_refused)
        fields: dict[str, Any] = {
            "canonical_plan": plan().body,
            "plan_digest": plan().digest,
            "purpose": common.DECISION_PURPOSE_COMMIT,
            "tool_descriptors": [TOOL.body, UNDO.body],
            **change,
        }
        with pytest.raises(ServiceError) as caught:
            await service.call(agent(), handler.AuthorizePlan, pb.AuthorizePlanRequest(**fields))
        assert caught.value.reason == reason
        assert [(item.reason, item.tenant, item.agent) for item in refused] == [(reason, "acme", "refund-bot")]
        assert await service.sql("SELECT 1 FROM decision") == []


async def test_the_wire_answer_says_what_the_statement_says(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:

        async def on_refused(_: Refusal) -> None:
            raise AssertionError("nothing was refused")

        handler = DecisionService(service.decider, on_refused)
        asked = pb.AuthorizePlanRequest(
            canonical_plan=plan().body,
            plan_digest=plan().digest,
            purpose=common.DECISION_PURPOSE_COMMIT,
            tool_descriptors=[TOOL.body, UNDO.body],
        )
        answer = await service.call(agent(), handler.AuthorizePlan, asked)
        told, signed = answer.decision, parse_statement(answer.signed_decision.statement)
        assert told.outcome == common.DECISION_OUTCOME_ALLOW
        assert (told.decision_id, told.snapshot_id) == (signed.decision_id, signed.snapshot_id)
        assert told.expire_time.ToMilliseconds() == signed.expire_time_ms
        assert [(step.step_id, step.class_level) for step in told.steps] == [("s1", 2)]
        assert list(told.rules) == ["floor/tenants-decide", "shop/small"]


async def test_what_an_agent_writes_about_its_doubts_asks_a_person_whatever_the_characters(
    fresh_database: FreshDatabase,
) -> None:
    async with policy_service(fresh_database) as service:
        doubts = {"unverified": ["line one\nline two \u2028 \x1b[31m", "\u20ac" * 4000] + ["x" * 4000] * 60}
        answer = await service.authorize(plan(document=doubts), "COMMIT")
        assert answer.evaluation.reason_codes == ("UNVERIFIED_INPUT",)
