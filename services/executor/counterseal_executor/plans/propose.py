"""From a client's draft to canonical bytes that policy has judged.

What was read is judged before it is shown: on DENY the caller gets ids, a digest and reason codes, and nothing that a
target said, so proposing is no oracle. A proposal is stored before policy judges it, so a repetition of the call under
the same key takes up where the first one ended.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.executor.v1 import plan_pb2
from counterseal.canonical import canonical, digest, digest_of
from counterseal.documents.plan import Actor, Condition, Draft, Plan, ServerFields, StepFill, build_plan, parse_plan
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import DecisionInvalid, IdempotencyKeyReused, InputInvalid, PlanInvalid
from counterseal.identity import Caller
from counterseal_executor import database as db
from counterseal_executor.config import ExecutorConfig
from counterseal_executor.decisions import Key, check_draft, open_decision, while_it_lives
from counterseal_executor.events import Event, Header, build_entry
from counterseal_executor.peers import PREVIEW, Answer, Policy
from counterseal_executor.plans import store
from counterseal_executor.plans.convert import decision_view
from counterseal_executor.plans.draft import draft_of
from counterseal_executor.plans.lint import highest, lint, scopes_of
from counterseal_executor.plans.reading import Reader, Subject
from counterseal_executor.plans.rows import PlanRow
from counterseal_executor.plans.size import check_size
from counterseal_executor.plans.unit import Maker, Unit, change, lock


@dataclass(frozen=True, slots=True)
class Proposal:
    """Everything about a proposal before its bytes exist. `tools`: `name@version` -> descriptor."""

    request: plan_pb2.ProposePlanRequest
    caller: Caller
    draft: Draft
    tools: Mapping[str, ToolDescriptor]
    plan_id: str


class Proposer:
    """Makes plans."""

    def __init__(
        self,
        engine: AsyncEngine,
        maker: Maker,
        config: ExecutorConfig,
        policy: Policy,
        reader: Reader,
        key: Key,
        randomness: Callable[[int], bytes],
    ) -> None:
        self._engine = engine
        self._maker = maker
        self._config = config
        self._policy = policy
        self._reader = reader
        self._key = key
        self._randomness = randomness

    async def propose(self, request: plan_pb2.ProposePlanRequest, caller: Caller) -> PlanRow:
        """Return the plan that the request made, now or under the same key before."""
        draft = draft_of(request)
        fingerprint = _fingerprint(request, draft, caller)
        async with db.transaction(self._engine, caller.tenant) as conn:
            known = await store.by_key(conn, caller.tenant, request.idempotency_key)
            references = [s.tool for s in draft.steps] + [
                s.undoable.tool for s in draft.steps if s.undoable is not None
            ]
            tools = await store.descriptors(conn, caller.tenant, references)
        if known is not None:
            return await self._again(known, fingerprint, caller)
        self._check(draft, tools)
        proposal = Proposal(request, caller, draft, tools, self._maker.new_id())
        refusal, observed, snapshot = await self._observe(proposal)
        plan, rationale = self._build(proposal, observed, snapshot)
        row = await self._store(proposal, plan, rationale, fingerprint, refusal)
        if row.plan_id != plan.plan_id:  # the same key was faster
            return await self._again(row, fingerprint, caller)
        return row if refusal is not None else await self.judge(row, caller)

    async def judge(self, row: PlanRow, caller: Caller) -> PlanRow:
        """Ask policy about a stored plan and keep the answer; DENY ends the plan and withholds its bytes."""
        plan = parse_plan(row.body)
        async with db.transaction(self._engine, row.tenant) as conn:
            pinned = await store.pinned(conn, plan)
        tools = [tool for tool, _ in pinned.values()]
        answer = await self._policy.authorize(
            row.body, row.plan_digest, PREVIEW, tools, row.rationale, caller.token or ""
        )
        async with change(self._engine, self._maker, row.tenant, row.plan_id) as unit:
            keep_answer(unit, answer)
        self._maker.outbox.wake()
        if answer.outcome == "DENY":
            self._reader.give_back(row.plan_id)
        return unit.plan

    async def _again(self, known: PlanRow, fingerprint: str, caller: Caller) -> PlanRow:
        if known.request_digest != fingerprint:
            raise IdempotencyKeyReused("the key was used for another proposal")
        if known.decision is None and known.state == "PROPOSED":
            return await self.judge(known, caller)
        return known

    def _check(self, draft: Draft, tools: Mapping[str, ToolDescriptor]) -> None:
        lint(draft, tools, {alias: target.kind for alias, target in self._config.targets.items()})
        now, content = self._maker.clock(), draft.content
        if content.expire_time_ms is not None and content.expire_time_ms <= now:
            raise PlanInvalid("/expire_time: lies in the past", pointer="/expire_time")
        if (content.not_before_time_ms or 0) >= (content.expire_time_ms or now + 86_400_000):
            raise PlanInvalid("/not_before_time: lies after the plan's end", pointer="/not_before_time")

    async def _observe(self, proposal: Proposal) -> tuple[Answer | None, dict[str, tuple[Condition, ...]], str | None]:
        """Read preconditions under a PREVIEW decision on the draft; returns (refusal, values by step, snapshot)."""
        draft, caller = proposal.draft, proposal.caller
        steps = self._reader.needs_reading(draft.steps, proposal.tools)
        if not steps:
            return None, {}, None
        tools = list(proposal.tools.values())
        answer = await self._policy.decide(draft.body, draft.digest, tools, caller.token or "")
        if answer.outcome == "DENY":
            return answer, {}, None
        if answer.signed is None:
            raise DecisionInvalid("policy permitted the preview without signing it")
        decision = await open_decision(answer.signed, self._key, self._maker.environment, self._maker.clock)
        check_draft(decision, draft.digest, caller.tenant)
        subject = Subject(caller.tenant, self._context(caller))
        with while_it_lives(decision, self._maker.clock, "propose again under the same key"):
            values = await self._reader.observe(
                proposal.plan_id, steps, proposal.tools, subject, draft.body, decision, caller.token or ""
            )
        return None, values, decision.statement.snapshot_id

    def _build(
        self, proposal: Proposal, observed: Mapping[str, tuple[Condition, ...]], snapshot: str | None
    ) -> tuple[Plan, bytes | None]:
        caller, tools = proposal.caller, proposal.tools
        rationale = None
        if proposal.request.rationale:
            salt = self._randomness(16).hex()
            rationale = canonical({"salt": salt, "rationale": proposal.request.rationale})
        server = ServerFields(
            plan_id=proposal.plan_id,
            nonce=self._randomness(16).hex(),
            tenant=caller.tenant,
            environment=self._maker.environment,
            request_id=caller.request_id,
            actor=Actor(
                caller.subject,
                caller.agent,
                caller.agent_version,
                tuple({key: str(value) for key, value in actor.items()} for actor in caller.chain),
            ),
            taint=False,
            rationale_digest=None if rationale is None else digest("rationale", rationale),
            policy_snapshot=snapshot,
            steps={
                step.id: StepFill(
                    tools[step.tool].digest,
                    observed.get(step.id, ()),
                    None,
                    None if step.undoable is None else tools[step.undoable.tool].digest,
                )
                for step in proposal.draft.steps
            },
        )
        return build_plan(proposal.draft, server), rationale

    async def _store(
        self, proposal: Proposal, plan: Plan, rationale: bytes | None, fingerprint: str, refusal: Answer | None
    ) -> PlanRow:
        caller = proposal.caller
        proposed = _proposed(proposal, plan)
        check_size(len(plan.body), proposed.sealed)
        names = {tool.name for tool in proposal.tools.values()}
        scopes = scopes_of(caller.tenant, plan.environment, caller.agent, caller.request_id, names)
        new = store.NewPlan(
            plan=plan,
            nonce_digest=digest_of("event-id", {"nonce": plan.nonce}),
            rationale=rationale,
            idempotency_key=proposal.request.idempotency_key,
            request_digest=fingerprint,
            txn=caller.txn,
            scopes=(*scopes, f"plan:{plan.digest}"),
            create_ms=self._maker.clock(),
            effects={step.id: proposal.tools[step.tool].effect for step in plan.steps},
        )
        async with db.transaction(self._engine, caller.tenant) as conn:
            first = not await store.request_seen(conn, caller.tenant, caller.request_id)
            if not await store.insert(conn, new):
                known = await store.by_key(conn, caller.tenant, new.idempotency_key)
                if known is None:
                    raise InputInvalid("the idempotency key is in use")
                return known
            if first:
                await self._record_request(conn, proposal)
            unit = await lock(conn, self._maker, plan.plan_id)
            unit.record(proposed)
            if refusal is not None:
                keep_answer(unit, refusal)
            if plan.content.supersedes is not None:
                await self._withdraw(conn, plan.content.supersedes, caller)
            await unit.flush()
        self._maker.outbox.wake()
        return unit.plan

    async def _withdraw(self, conn: AsyncConnection, plan_id: str, caller: Caller) -> None:
        old = await store.get(conn, caller.tenant, plan_id)
        if old is None or (old.subject, old.agent) != (caller.subject, caller.agent):
            raise PlanInvalid("/supersedes: there is no such plan", pointer="/supersedes")
        unit = await lock(conn, self._maker, plan_id)
        unit.move_plan("supersede")
        await unit.flush()

    async def _record_request(self, conn: AsyncConnection, proposal: Proposal) -> None:
        request, caller, content = proposal.request, proposal.caller, proposal.draft.content
        sealed: dict[str, object] = {}
        for name in ("user_request", "intent"):
            if value := getattr(request, name):
                sealed[name] = value
        if content.data_sources:
            sealed["data_sources"] = list(content.data_sources)
        if caller.constraints:
            sealed["constraints"] = dict(caller.constraints)
        data: dict[str, object] = {}
        model = content.model
        # The clear part of an entry holds identifiers only; a model named in free text stays in the plan.
        if model is not None and all(_is_word(text) for text in (model.provider, model.id, model.version)):
            data["model"] = {"provider": model.provider, "id": model.id, "version": model.version}
        event = Event("request.received", data, sealed)
        header = Header(
            caller.tenant,
            self._maker.environment,
            caller.request_id,
            caller.txn,
            caller.subject,
            caller.agent or "",
            caller.agent_version or "",
        )
        entry = build_entry(event, header, self._maker.new_id(), self._maker.clock(), 0, self._randomness)
        await self._maker.outbox.put(conn, entry)

    def _context(self, caller: Caller) -> dict[str, object]:
        return {
            "subject": caller.subject,
            "tenant": caller.tenant,
            "environment": self._maker.environment,
            "agent": caller.agent,
            "request_id": caller.request_id,
        }


def keep_answer(unit: Unit, answer: Answer) -> None:
    """Keep policy's answer for readers; DENY rejects a plan that is still proposed and withholds its bytes."""
    disclosed = unit.plan.disclosed or answer.outcome != "DENY"
    unit.set_plan(decision=decision_view(answer), disclosed=disclosed)
    if answer.outcome == "DENY" and unit.plan.state == "PROPOSED":
        codes = list(answer.view.reason_codes)
        unit.move_plan("deny", reason_code=codes[0] if codes else "DENIED_BY_RULE")


def _proposed(proposal: Proposal, plan: Plan) -> Event:
    content = plan.content
    tools = sorted(proposal.tools.values(), key=lambda tool: tool.reference)
    steps = [proposal.tools[step.tool] for step in plan.steps]
    data = {
        **highest(steps),
        "tools": [{"name": tool.name, "version": tool.version, "digest": tool.digest} for tool in tools],
        "confidence_ppm": content.confidence_ppm or 0,
        "step_count": len(plan.steps),
        "unverified_count": len(content.unverified),
        "taint": plan.taint,
    }
    sealed: dict[str, object] = {"plan": plan.body.decode(), "objective": content.objective}
    for name in ("constraints", "rejected_alternatives", "unverified"):
        if values := getattr(content, name):
            sealed[name] = list(values)
    if proposal.request.rationale:
        sealed["rationale"] = proposal.request.rationale
    return Event("plan.proposed", data, sealed)


def _fingerprint(request: plan_pb2.ProposePlanRequest, draft: Draft, caller: Caller) -> str:
    """Return what makes two proposals the same: the draft, the texts beside it, and who asks."""
    document = {
        "draft": draft.digest,
        "rationale": request.rationale,
        "user_request": request.user_request,
        "intent": request.intent,
        "subject": caller.subject,
        "agent": caller.agent,
    }
    return digest_of("plan-draft", document)


def _is_word(text: str) -> bool:
    return 0 < len(text) <= 128 and all(c.isascii() and (c.isalnum() or c in "_.:/-") for c in text)
