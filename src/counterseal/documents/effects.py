"""Digests and ids that tie an effect to its plan: computed alike by executor, credentials, audit and verifiers."""

import base64
import hashlib
from typing import Any

from counterseal.canonical import JsonObject, canonical, digest_of, media_type, pae
from counterseal.ids import derived_id

PLAN_COMMITTED = "plan.committed"


def commit_event_id(plan_digest: str) -> str:
    """Return the one event id under which this plan's commit can ever enter a ledger (audit's design, section 4).

    A retry has the same bytes and finds the same entry; a commit made again from a restored database is refused.
    """
    return derived_id(pae(media_type("event-id"), canonical({"plan_digest": plan_digest, "type": PLAN_COMMITTED})))


def effect_key(plan_digest: str, step_id: str, logical_attempt: int, *, undo: bool = False) -> str:
    """Return the deduplication key sent to the target: 52 characters of lower-case base32.

    `logical_attempt` rises only after a definite verdict, so a repeated send carries the same key. An undo has a key
    of its own: it is another effect of the same step.
    """
    document: JsonObject = {
        "plan_digest": plan_digest,
        "step_id": f"{step_id}/undo" if undo else step_id,
        "logical_attempt": logical_attempt,
    }
    raw = hashlib.sha256(pae(media_type("effect-key"), canonical(document))).digest()
    return base64.b32encode(raw).decode().rstrip("=").lower()


def rationale_digest(salt: str, rationale: str) -> str:
    """Return the digest under which a rationale is bound to its plan; the salt makes a guess useless once erased."""
    return digest_of("rationale", {"salt": salt, "rationale": rationale})


def resolved_args_digest(salt: str, args: Any) -> str:
    """Return the digest of the arguments that are really sent (after references were resolved)."""
    return digest_of("resolved-args", {"salt": salt, "args": args})


def output_digest(salt: str, output: Any) -> str:
    """Return the digest of a step's output."""
    return digest_of("output", {"salt": salt, "output": output})


def preview_digest(salt: str, preview: Any) -> str:
    """Return the digest of a preview as it was shown to policy and people."""
    return digest_of("preview", {"salt": salt, "preview": preview})


def step_intent_digest(
    plan_digest: str, step_id: str, attempt_id: str, tool_digest: str, key: str, args_digest: str
) -> str:
    """Return the digest of one step intent: what exactly was about to be sent, by which attempt."""
    return digest_of(
        "step-intent",
        {
            "v": 1,
            "plan_digest": plan_digest,
            "step_id": step_id,
            "attempt_id": attempt_id,
            "tool_digest": tool_digest,
            "effect_key": key,
            "resolved_args_digest": args_digest,
        },
    )
