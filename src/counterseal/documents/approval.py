"""A person's vote on one plan under one decision card, and what the person's own key may sign of it.

    approval  v task_id plan_digest card_digest decision_id approver roles verdict reason expire_time_ms nonce
    vote      card_digest plan_digest verdict

The *approval* is the whole statement; its digest goes into the decision and the ledger. The *vote* is the part that
an approver's own key signs, PAE(kind `vote`, ..): it names bytes and card, so a signature serves no other plan.
`reason` is absent when the person gave none. Source: the policy design, section 6.
"""

import re
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import canonical, digest, media_type, pae, parse_canonical
from counterseal.documents.fields import DIGEST, Fields
from counterseal.errors import InputInvalid

KIND = "approval"
VOTE_KIND = "vote"
VERDICTS = ("APPROVE", "REJECT")
MAX_REASON = 2000

_NONCE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Approval:
    """One vote as its bytes say it. `approver` is the person's id; `expire_time_ms` ends an approval's use."""

    task_id: str
    plan_digest: str
    card_digest: str
    decision_id: str
    approver: str
    roles: tuple[str, ...]
    verdict: str
    reason: str | None
    expire_time_ms: int
    nonce: str
    body: bytes = b""
    digest: str = ""


def build_approval(approval: Approval) -> Approval:
    """Return the same vote with its canonical bytes and digest filled in. Raises InputInvalid."""
    document: dict[str, Any] = {
        "v": 1,
        "task_id": approval.task_id,
        "plan_digest": approval.plan_digest,
        "card_digest": approval.card_digest,
        "decision_id": approval.decision_id,
        "approver": approval.approver,
        "roles": list(approval.roles),
        "verdict": approval.verdict,
        "expire_time_ms": approval.expire_time_ms,
        "nonce": approval.nonce,
    }
    if approval.reason is not None:
        document["reason"] = approval.reason
    return parse_approval(canonical(document))


def parse_approval(body: bytes) -> Approval:
    """Read canonical approval bytes. Raises NotCanonical, or InputInvalid with a JSON pointer."""
    fields: Fields[Any] = Fields(parse_canonical(body), "", InputInvalid)
    fields.integer("v", least=1, most=1)
    fields.raw("roles")
    approval = Approval(
        task_id=fields.text("task_id", most=64),
        plan_digest=fields.text("plan_digest", pattern=DIGEST),
        card_digest=fields.text("card_digest", pattern=DIGEST),
        decision_id=fields.text("decision_id", most=64),
        approver=fields.text("approver", most=256),
        roles=fields.texts("roles", most=64),
        verdict=fields.one_of("verdict", VERDICTS),
        reason=fields.text("reason", None, most=MAX_REASON),
        expire_time_ms=fields.integer("expire_time_ms"),
        nonce=fields.text("nonce", pattern=_NONCE),
        body=body,
        digest=digest(KIND, body),
    )
    fields.done()
    return approval


def vote_signing_input(card_digest: str, plan_digest: str, verdict: str) -> bytes:
    """Return the bytes that an approver's own key signs: PAE(kind `vote`, {card_digest, plan_digest, verdict})."""
    document = {"card_digest": card_digest, "plan_digest": plan_digest, "verdict": verdict}
    return pae(media_type(VOTE_KIND), canonical(document))
