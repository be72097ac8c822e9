"""The durable record of a decision: the row's bytes and the ledger entry. Pure but for ids and salts given in.

Clear in the ledger: ids, outcome, codes, rules. Sealed: the facts judged, each rule's verdict, the card.
"""

from collections.abc import Callable, Mapping
from typing import Any

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import JsonObject, canonical, digest_of, parse_strict
from counterseal.identity import Caller
from counterseal.rpc.ledger_wire import caller_texts, new_entry
from counterseal_policy.decisions.card import facts_document
from counterseal_policy.decisions.outcome import Evaluation, Owed
from counterseal_policy.rules.condition import ENGINE

MAX_NAMES = 256


def verdicts_document(evaluation: Evaluation) -> JsonObject:
    """Return every step's verdicts: what `Explain` and `Replay` compare."""
    return {
        "v": 1,
        "steps": [
            {
                "id": step.id,
                "undo": step.undo,
                "tool": step.tool,
                "outcome": step.outcome,
                "reason_codes": list(step.reason_codes),
                "class_level": step.class_level,
                "class_source": step.class_source,
                "stage": step.stage,
                "rules": [
                    {
                        "rule": item.name,
                        "scope": item.scope,
                        "effect": item.effect,
                        "verdict": item.verdict,
                        "cause": item.cause,
                        "shadow": item.shadow,
                    }
                    for item in step.verdicts
                ],
            }
            for step in evaluation.steps
        ],
    }


def inputs_document(caller: Caller, evaluation: Evaluation, message: str) -> JsonObject:
    """Return what was judged: identity facts, each step's facts, and in words what was wrong with the input."""
    return {
        "v": 1,
        "subject": caller.subject,
        "subject_roles": sorted(caller.roles or caller.subject_roles),
        "constraints": dict(caller.constraints),
        "message": message,
        "steps": [{"id": step.id, "undo": step.undo, "facts": facts_document(step)} for step in evaluation.steps],
    }


def steps_body(evaluation: Evaluation) -> bytes:
    """Return class and obligations per step, in plan order: what the signed statement says of them."""
    classes: dict[str, int] = {}
    owed: dict[str, list[Owed]] = {}
    for step in evaluation.steps:
        classes[step.id] = max(step.class_level, classes.get(step.id, 0))
        mine = owed.setdefault(step.id, [])
        mine += [item for item in step.obligations if item not in mine]
    return canonical(
        {
            "steps": [
                {
                    "id": name,
                    "class": level,
                    "obligations": [{"type": o.type, "properties": dict(o.properties)} for o in owed[name]],
                }
                for name, level in classes.items()
            ]
        }
    )


def decided_entry(
    kind: str,
    caller: Caller,
    evaluation: Evaluation,
    *,
    event_id: str,
    event_time_ms: int,
    environment: str,
    decision_id: str,
    purpose: str,
    plan_digest: str,
    snapshot_id: str | None,
    taint: bool,
    card: bytes | None,
    card_digest: str | None,
    salt: Callable[[int], bytes],
) -> ledger_pb2.NewEntry:
    """Return the `plan.decided` or `call.decided` entry."""
    needed = max((need.need for need in evaluation.requirements), default=0)
    data: dict[str, Any] = {
        "decision_id": decision_id,
        "purpose": purpose,
        "outcome": evaluation.outcome,
        "reason_codes": list(evaluation.reason_codes)[:MAX_NAMES],
        "rules": list(evaluation.rules)[:MAX_NAMES],
        "snapshot_id": snapshot_id,
        "engine": ENGINE,
        "class_level": evaluation.class_level,
        "stage": f"S{evaluation.stage}",
        "obligations": sorted({owed.type for owed in evaluation.obligations}),
        "card_digest": card_digest,
        "approvals_needed": needed,
        "taint": taint,
    }
    sealed: dict[str, Any] = {
        "inputs": inputs_document(caller, evaluation, evaluation.message),
        "verdicts": verdicts_document(evaluation),
    }
    if card is not None:
        sealed["card"] = parse_strict(card)
    if caller.constraints:
        salted = {"salt": salt(16).hex(), "constraints": dict(caller.constraints)}
        sealed["inputs"]["constraints_salt"] = salted["salt"]
        data["constraints_digest"] = digest_of("constraints", salted)
    texts: dict[str, Any] = caller_texts(caller)
    return new_entry(
        kind,
        data,
        event_id=event_id,
        event_time_ms=event_time_ms,
        tenant=caller.tenant,
        environment=environment,
        plan_digest=plan_digest,
        sealed=sealed,
        **texts,
    )


def record_body(caller: Caller, evaluation: Evaluation, context: Mapping[str, Any]) -> bytes:
    """Return the row's own record: inputs, verdicts and the versions they were made by."""
    return canonical(
        {
            "v": 1,
            "engine": ENGINE,
            "inputs": inputs_document(caller, evaluation, evaluation.message),
            "verdicts": verdicts_document(evaluation),
            "context": dict(context),
        }
    )
