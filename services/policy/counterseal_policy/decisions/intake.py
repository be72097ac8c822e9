"""From plan bytes and the documents that come beside them to the steps that are judged. Pure.

Everything beside the bytes is bound by a digest inside them: a descriptor, preview or rationale that does not match is
INPUT_INVALID. Identity comes from the token alone; the plan's own word about it must agree.
"""

import re
from collections.abc import Mapping, Sequence

from counterseal.canonical import digest, parse_canonical
from counterseal.documents.plan import Content, Draft, Plan, Step, Undo
from counterseal.documents.tool import ToolDescriptor, parse_tool
from counterseal.errors import ContextMismatch, InputInvalid, NotCanonical
from counterseal.identity import Caller
from counterseal_policy.decisions.assembler import Request, StepInput

Descriptors = Mapping[str, ToolDescriptor]
MAX_CLAIM = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def descriptors(bodies: Sequence[bytes]) -> Descriptors:
    """Parse descriptors and return them by `name@version`. Raises InputInvalid for two of one name."""
    found: dict[str, ToolDescriptor] = {}
    for body in bodies:
        try:
            tool = parse_tool(body)
        except NotCanonical as error:
            raise InputInvalid(f"a tool descriptor is not canonical: {error.message}") from None
        if found.setdefault(tool.reference, tool).digest != tool.digest:
            raise InputInvalid(f"two descriptors of {tool.reference} were sent")
    return found


def plan_steps(plan: Plan, tools: Descriptors) -> tuple[StepInput, ...]:
    """Return the plan's steps, each followed by its undo. Raises InputInvalid."""
    return tuple(item for step in plan.steps for item in _with_undo(step, tools, draft=False))


def draft_steps(draft: Draft, tools: Descriptors) -> tuple[StepInput, ...]:
    """Return a draft's steps: digests are those of the descriptors sent, observed facts are not known yet."""
    return tuple(item for step in draft.content.steps for item in _with_undo(step, tools, draft=True))


def request_of(caller: Caller, content: Content, *, taint: bool) -> Request:
    """Return who asks under what: identity and constraints from the token, claims from the bytes."""
    owner = next((str(actor["owner"]) for actor in caller.chain if actor.get("owner")), "")
    return Request(
        subject=caller.subject,
        subject_roles=tuple(sorted(caller.roles or caller.subject_roles)),
        agent=caller.agent or "",
        agent_version=caller.agent_version or "",
        agent_owner=owner,
        tenant=caller.tenant,
        environment=caller.environment,
        constraints=caller.constraints,
        model=content.model.id if content.model else None,
        confidence_ppm=content.confidence_ppm or 0,
        unverified=tuple(_shown(text) for text in content.unverified),
        taint=taint,
    )


def _shown(claim: str) -> str:
    """Return an agent's free text as rules may see it: short, control characters replaced. It can only tighten."""
    return _CONTROL.sub("\ufffd", claim[:MAX_CLAIM])


def check_actor(plan: Plan, caller: Caller) -> None:
    """The caller must be the plan's own subject and agent. Raises ContextMismatch.

    Tenant and environment are judged by the decision, so that a foreign plan leaves a record.
    """
    if (plan.actor.subject, plan.actor.agent or "") != (caller.subject, caller.agent or ""):
        raise ContextMismatch("the plan was proposed by another subject or agent than the token's")


def check_beside(plan: Plan, previews: Sequence[bytes], rationale: bytes) -> str | None:
    """Previews and rationale must be those that the plan names by digest; returns the rationale's text.

    Raises InputInvalid.
    """
    named = {step.preview_digest for step in plan.steps}
    if any(digest("preview", body) not in named for body in previews):
        raise InputInvalid("a preview is not one that the plan names")
    if not rationale:
        return None
    if digest("rationale", rationale) != plan.rationale_digest:
        raise InputInvalid("the rationale is not the one that the plan names")
    try:
        text = parse_canonical(rationale).get("rationale")
    except NotCanonical as error:
        raise InputInvalid(f"the rationale is not canonical: {error.message}") from None
    return text if isinstance(text, str) else None


def _with_undo(step: Step, tools: Descriptors, *, draft: bool) -> list[StepInput]:
    observed = None if draft else {item.ref: item.value for item in step.pre if item.kind == "tool_state"}
    forward = _descriptor(step.tool, step.tool_digest, tools, draft=draft)
    if step.target not in forward.targets:
        raise InputInvalid(f"step {step.id}: {step.tool} has no target {step.target!r}")
    undo = step.undo if isinstance(step.undo, Undo) else None
    items = [
        StepInput(
            id=step.id,
            tool=step.tool,
            tool_digest=forward.digest,
            target=step.target,
            args=step.args,
            observed=observed,
            effect=forward.effect,
            reversibility=forward.reversibility,
            compensable=undo is not None,
        )
    ]
    if undo is not None:
        back = _descriptor(undo.tool, undo.tool_digest, tools, draft=draft)
        items.append(
            StepInput(
                id=step.id,
                tool=undo.tool,
                tool_digest=back.digest,
                target=step.target,
                args=undo.args,
                observed={},
                effect=back.effect,
                reversibility=back.reversibility,
                compensable=False,
                undo=True,
            )
        )
    return items


def _descriptor(reference: str, wanted: str | None, tools: Descriptors, *, draft: bool) -> ToolDescriptor:
    tool = tools.get(reference)
    if tool is None:
        raise InputInvalid(f"the descriptor of {reference} was not sent")
    if not draft and tool.digest != wanted:
        raise InputInvalid(f"the descriptor of {reference} is not the one whose digest the plan names")
    return tool
