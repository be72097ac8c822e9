"""`counterseal plan propose|show|list|commit|watch|cancel`: plans through the services."""

import argparse
from typing import Any

from counterseal.canonical import JsonObject, parse_strict
from counterseal.cli import exits
from counterseal.cli.output import emit, say
from counterseal.cli.plan_bytes import read_input
from counterseal.cli.session import as_agent, as_person
from counterseal.cli.views import decision_exit, plan_exit, plan_json, plan_lines
from counterseal.client import AgentRequest, Draft, Person, Post, Proposal, Step, Undo
from counterseal.errors import PlanInvalid

_DRAFT = frozenset(
    {
        "v",
        "objective",
        "steps",
        "constraints",
        "rationale",
        "rejected_alternatives",
        "data_sources",
        "model",
        "confidence_ppm",
        "confidence_method",
        "unverified",
        "deadline_seconds",
        "supersedes",
        "user_request",
        "intent",
    }
)
_STEP = frozenset({"id", "tool", "target", "args", "needs", "undo", "timeout_seconds", "retry", "on_fail", "post"})


def propose(args: argparse.Namespace) -> int:
    """Propose the plan of a JSON file; exit 0 allowed, 5 denied, 6 approval pending."""
    draft = read_draft(parse_strict(read_input(args.file)))

    async def work(request: AgentRequest) -> int:
        proposal = await request.propose(draft, idempotency_key=args.idempotency_key)
        _show_proposal(args, proposal)
        return decision_exit(proposal.plan)

    return as_agent(args, work, agent_version=args.agent_version or "")


def commit(args: argparse.Namespace) -> int:
    """Commit the bytes of a digest; with --wait until the plan has ended."""

    async def work(request: AgentRequest) -> int:
        plan = await request.commit(args.plan_id, args.digest, idempotency_key=args.idempotency_key)
        if args.wait:
            plan = await request.wait(args.plan_id, seconds=args.wait)
        _show(args, plan)
        # A denial at the gate is an answer, not an error: the plan comes back REJECTED.
        return plan_exit(plan) if args.wait or plan.state == "REJECTED" else exits.OK

    return as_agent(args, work)


def watch(args: argparse.Namespace) -> int:
    """Print the plan's events until its end."""

    async def work(request: AgentRequest) -> int:
        async for event in request.watch(args.plan_id, args.after):
            if args.json:
                data = parse_strict(bytes(event.data_json)) if event.data_json else {}
                emit({"seq": event.seq, "type": event.type, "step": event.step_id, "state": event.state, "data": data})
            else:
                say(f"{event.seq:>5}  {event.type:<24} {event.step_id:<8} {event.state}")
        return plan_exit((await request.get(args.plan_id)).plan)

    return as_agent(args, work)


def cancel(args: argparse.Namespace) -> int:
    """Withdraw a plan, or stop and undo it after its commit."""

    async def work(request: AgentRequest) -> int:
        _show(args, await request.cancel(args.plan_id))
        return exits.OK

    return as_agent(args, work)


def show(args: argparse.Namespace) -> int:
    """Print one plan, as a person; with --bytes the exact bytes."""
    import sys

    async def work(person: Person) -> int:
        answer = await person.plan(args.plan_id)
        if args.bytes:
            sys.stdout.buffer.write(answer.canonical_plan)
            return exits.OK
        _show(args, answer.plan)
        return plan_exit(answer.plan)

    return as_person(args, work)


def list_plans(args: argparse.Namespace) -> int:
    """Print the newest plans of the tenant."""

    async def work(person: Person) -> int:
        plans = await person.plans(args.state or "")
        if args.json:
            emit([plan_json(plan) for plan in plans])
        for plan in () if args.json else plans:
            say(f"{plan.plan_id}  {plan.state:<16} {plan.agent:<16} {plan.plan_digest}")
        return exits.OK

    return as_person(args, work)


def read_draft(document: JsonObject) -> Draft:
    """Return the draft of a proposal file; raises PlanInvalid for unknown fields, which would be dropped silently."""
    _known(document, _DRAFT, "")
    steps = document.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise PlanInvalid("/steps: must be a list of objects", pointer="/steps")
    fields: dict[str, Any] = {key: value for key, value in document.items() if key not in ("v", "steps", "model")}
    model = document.get("model")
    if isinstance(model, dict):
        fields["model"] = tuple(str(model.get(key, "")) for key in ("provider", "id", "version"))
    try:
        return Draft(steps=[_step(step, f"/steps/{index}") for index, step in enumerate(steps)], **fields)
    except TypeError:
        raise PlanInvalid("/objective: is missing", pointer="/objective") from None


def _step(document: JsonObject, where: str) -> Step:
    _known(document, _STEP, where)
    fields = dict(document)
    undo, retry, post = fields.pop("undo", None), fields.pop("retry", None), fields.pop("post", None)
    if isinstance(undo, dict):
        _known(undo, frozenset({"tool", "args", "if_exists"}), f"{where}/undo")
        fields["undo"] = Undo(**undo)
    if isinstance(retry, dict):
        fields |= {"retry_max": retry.get("max", 0), "retry_backoff_seconds": retry.get("backoff_seconds", 0)}
    if post is not None:
        fields["post"] = _posts(post, f"{where}/post")
    try:
        return Step(**fields)
    except TypeError:
        raise PlanInvalid(f"{where}: id, tool, target or args is missing", pointer=where) from None


def _posts(listed: Any, where: str) -> list[Post]:
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise PlanInvalid(f"{where}: must be a list of objects", pointer=where)
    found = []
    for index, one in enumerate(listed):
        _known(one, frozenset({"kind", "ref", "value"}), f"{where}/{index}")
        try:
            found.append(Post(**one))
        except TypeError:
            raise PlanInvalid(f"{where}/{index}: ref or value is missing", pointer=f"{where}/{index}") from None
    return found


def _known(document: JsonObject, known: frozenset[str], where: str) -> None:
    for key in document:
        if key not in known:
            raise PlanInvalid(f"{where}/{key}: unknown field", pointer=f"{where}/{key}")


def _show(args: argparse.Namespace, plan: Any) -> None:
    if args.json:
        emit(plan_json(plan))
    else:
        say("\n".join(plan_lines(plan)))


def _show_proposal(args: argparse.Namespace, proposal: Proposal) -> None:
    if args.json:
        emit(plan_json(proposal.plan) | {"canonical_plan": proposal.document or None})
        return
    say("\n".join(plan_lines(proposal.plan)))
    if proposal.outcome == "ALLOW":
        say(f"next      counterseal plan commit {proposal.plan_id} --digest {proposal.plan_digest}")
