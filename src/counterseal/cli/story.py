"""What the log says about one action, as eleven sections in a fixed order, problems first. Pure: entries in, facts out.

A fact that the log does not hold is said to be "not recorded"; what is behind a digest only is "sealed". Nothing is
left out without a count.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterseal.canonical import JsonObject, canonical, parse_strict
from counterseal.errors import NotCanonical
from counterseal.ledger import disclosure
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.places import of_place

SECTIONS: Mapping[str, int] = {
    "problems": 8,
    "asked": 4,
    "intent": 3,
    "plan": 7,
    "decided": 7,
    "approved by": 6,
    "credential": 6,
    "did": 8,
    "undone": 5,
    "final state": 4,
    "proof": 2,
}
"""Section -> the most lines that it takes: 60 in all."""

NOT_RECORDED = "not recorded"
SEALED = "sealed"
_CUT = 120


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a section, and the place of the entry that says so; `index` is None for what no entry says."""

    text: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """One entry of the action by its place, and its sealed fields as far as they were disclosed."""

    index: int
    document: JsonObject
    opened: Mapping[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The event type."""
        return str(self.document.get("type", ""))

    @property
    def data(self) -> JsonObject:
        """The clear part."""
        data = self.document.get("data")
        return data if isinstance(data, dict) else {}

    def get(self, name: str) -> str:
        """Return a header field as text."""
        return str(self.document.get(name, ""))

    def sealed(self, name: str) -> str:
        """Return a sealed field: its value where it was disclosed, else that it is sealed or was never recorded."""
        if name in self.opened:
            value = self.opened[name]
            return _short(value if isinstance(value, str) else canonical({"v": value}).decode()[5:-1])
        return SEALED if "_sd" in self.document else NOT_RECORDED


@dataclass(frozen=True, slots=True)
class Proof:
    """What vouches for the entries: the log, the signed tree, how many of them it holds, and who checked that.

    shard: which of the tenant's logs it is. older: the same of those before it, oldest first.
    """

    origin: str
    tree_size: int
    root: str
    proven_count: int
    how: str
    shard: int = 0
    older: "tuple[Proof, ...]" = ()


@dataclass(frozen=True, slots=True)
class Story:
    """The sections, and the entries that they were read from. shard: the newest; entries of others are named so."""

    entries: Sequence[Told]
    sections: Mapping[str, Sequence[Fact]]
    shard: int = 0

    @property
    def plans(self) -> list[str]:
        """The plans that were proposed, oldest first."""
        return _distinct(one.get("plan_digest") for one in self.entries if one.type == "plan.proposed")

    def lines(self) -> list[str]:
        """Return at most 60 lines for a person; each section begins with its name."""
        lines: list[str] = []
        for name, most in SECTIONS.items():
            facts = self.sections[name]
            kept = facts if len(facts) <= most else facts[: most - 1]
            texts = [fact.text + self._leaf(fact.index) for fact in kept]
            if len(kept) < len(facts):
                texts.append(f"... and {len(facts) - len(kept)} more, see --json")
            lines += [f"{name if n == 0 else '':<12} {text}" for n, text in enumerate(texts)]
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return the story as one JSON document (schemas/explain.schema.json)."""
        plans = self.plans or _distinct(one.get("plan_digest") for one in self.entries)
        return {
            "v": 1,
            "plan_digest": plans[0] if plans else "",
            "plan_digests": plans,
            "request_ids": _distinct(one.get("request_id") for one in self.entries),
            "sections": {
                name.replace(" ", "_"): [
                    {"text": fact.text} if fact.index is None else {"text": fact.text, **self._at(fact.index)}
                    for fact in facts
                ]
                for name, facts in self.sections.items()
            },
            "entries": [
                {
                    **self._at(one.index),
                    "type": one.type,
                    "step": one.get("step"),
                    "event_id": one.get("event_id"),
                    "data": one.data,
                }
                for one in self.entries
            ],
        }

    def _leaf(self, at: int | None) -> str:
        if at is None:
            return ""
        shard, index = of_place(at)
        return f"  [leaf {index}]" if shard == self.shard else f"  [leaf {index} of shard {shard}]"

    def _at(self, at: int) -> dict[str, int]:
        shard, index = of_place(at)
        return {"index": index} if shard == self.shard else {"index": index, "shard": shard}


def told(index: int, entry: bytes, disclosures: Iterable[str] = ()) -> Told:
    """Return the entry of a place with its disclosures; one that the entry does not commit to is left out."""
    try:
        document = parse_strict(entry)
    except NotCanonical:
        return Told(index, {"type": "unreadable"})
    committed = document.get("_sd", ())
    opened: dict[str, Any] = {}
    for text in disclosures:
        try:
            one = disclosure.parse(text)
        except VerificationError:
            continue
        if disclosure.digest(text) in committed:
            opened[one.name] = one.value
    return Told(index, document, opened)


def tell(entries: Sequence[Told], proof: Proof, warnings: Sequence[str] = ()) -> Story:
    """Return the story of entries in order of the index. warnings: what is wrong with the search itself."""
    teller = _Teller(entries)
    sections = {
        "problems": [*map(Fact, warnings), *teller.problems()],
        "asked": teller.asked(),
        "intent": teller.intent(),
        "plan": teller.plan(),
        "decided": teller.decided(),
        "approved by": teller.approved(),
        "credential": teller.credential(),
        "did": teller.did(),
        "undone": teller.undone(),
        "final state": teller.final(),
        "proof": _proof(entries, proof),
    }
    empty = {"problems": "none found", "undone": "nothing was undone"}
    return Story(
        entries,
        {name: facts or [Fact(empty.get(name, NOT_RECORDED))] for name, facts in sections.items()},
        proof.shard,
    )


@dataclass(slots=True)
class _Attempt:
    """One attempt of one step: what was intended and what came of it."""

    intent: Told
    outcome: Told | None = None
    resolved: Told | None = None
    verified: Told | None = None

    @property
    def is_undo(self) -> bool:
        return "undoes" in self.intent.data

    @property
    def verdict(self) -> str:
        if self.resolved is not None:
            return str(self.resolved.data.get("verdict"))
        return str(self.outcome.data.get("outcome")) if self.outcome is not None else "open"

    def fact(self) -> Fact:
        data = self.intent.data
        last = self.verified or self.resolved or self.outcome
        parts = [f"{self.intent.get('step')} {data.get('tool')}@{data.get('version')} on {data.get('target')}:"]
        if self.resolved is not None:
            parts.append(f"unknown, then {self.verdict} by {self.resolved.data.get('method')}")
        else:
            parts.append(self.verdict if self.outcome is not None else "no outcome recorded")
        if self.outcome is not None and (code := self.outcome.data.get("reason_code")):
            parts.append(f"({code})")
        if self.verified is not None:
            parts.append(f"read back {self.verified.data.get('verdict')}")
        if self.outcome is not None and not self.is_undo:
            parts.append(f"external id {self.outcome.data.get('external_id') or self.outcome.sealed('external_id')}")
        return Fact(" ".join(parts), (last or self.intent).index)


class _Teller:
    """Reads the entries once and answers section by section."""

    def __init__(self, entries: Sequence[Told]) -> None:
        self._entries = entries
        self._attempts: dict[str, _Attempt] = {}
        self._grants: dict[str, tuple[Told, Told | None]] = {}
        self._strays: list[Fact] = []
        for one in entries:
            self._take(one)

    def _take(self, one: Told) -> None:
        attempt_id = str(one.data.get("attempt_id", ""))
        if one.type == "step.intent":
            self._attempts.setdefault(attempt_id, _Attempt(one))
        elif one.type in ("step.outcome", "step.resolved", "step.verified"):
            attempt = self._attempts.get(attempt_id)
            if attempt is None:
                self._strays.append(Fact(f"{one.type} of {one.get('step')} without an intent before it", one.index))
            elif one.type == "step.outcome":
                attempt.outcome = one
            elif one.type == "step.resolved":
                attempt.resolved = one
            else:
                attempt.verified = one
        elif one.type == "credential.granted":
            self._grants[str(one.data.get("grant_id"))] = (one, None)
        elif one.type == "credential.revoked":
            granted, _ = self._grants.get(str(one.data.get("grant_id")), (one, None))
            self._grants[str(one.data.get("grant_id"))] = (granted, one)

    def _of(self, *types: str) -> Iterator[Told]:
        return (one for one in self._entries if one.type in types)

    # --- the sections ---

    def problems(self) -> list[Fact]:
        found = [*self._gaps(), *self._strays]
        for attempt in self._attempts.values():
            step = attempt.intent.get("step")
            if attempt.outcome is None:
                found.append(Fact(f"open: the intent of {step} has no outcome", attempt.intent.index))
            elif attempt.verdict == "unknown":
                found.append(Fact(f"unknown: whether {step} took effect is not known", attempt.outcome.index))
            if attempt.verified is not None and attempt.verified.data.get("verdict") == "bad":
                found.append(Fact(f"{step} was read back and is not what was planned", attempt.verified.index))
        for granted, revoked in self._grants.values():
            if not _is_dead(revoked):
                what = f"credential {granted.data.get('purpose')} of {granted.get('step')} is not verified dead"
                found.append(Fact(what, (revoked or granted).index))
        found += self._unfinished()
        found += [
            Fact(f"{one.type} {one.data.get('scope')}: {one.data.get('reason_code', '')}".rstrip(": "), one.index)
            for one in self._of("containment.tripped")
        ]
        found += [
            Fact(f"credential denied: {one.data.get('reason_code')}", one.index)
            for one in self._of("credential.denied")
        ]
        return found

    def asked(self) -> list[Fact]:
        facts = []
        for one in self._of("request.received"):
            model = one.data.get("model", {})
            name = "/".join(filter(None, (model.get("provider"), model.get("id"), model.get("version"))))
            who = f"{one.get('subject') or NOT_RECORDED} through {one.get('agent')}@{one.get('agent_version')}"
            facts.append(Fact(f"{_moment(one)} by {who}, model {name or NOT_RECORDED}", one.index))
            facts.append(Fact(f"request {one.get('request_id')}: {one.sealed('user_request')}", one.index))
        if not facts and (first := next((one for one in self._entries if one.get("agent")), None)):
            facts = [Fact(f"request {first.get('request_id')} by {first.get('subject')}: {NOT_RECORDED}")]
        return facts

    def intent(self) -> list[Fact]:
        facts = [
            Fact(f"{one.data.get('intent_code', 'intent')}: {one.sealed('intent')}", one.index)
            for one in self._of("request.received")
            if "intent_code" in one.data or "intent" in one.opened
        ]
        return facts + [Fact(f"objective: {one.sealed('objective')}", one.index) for one in self._of("plan.proposed")]

    def plan(self) -> list[Fact]:
        facts = []
        for one in self._of("plan.proposed"):
            data = one.data
            tools = ", ".join(f"{tool['name']}@{tool['version']}" for tool in data.get("tools", ())) or NOT_RECORDED
            risk = f"effect {data.get('effect')}, reversibility {data.get('reversibility')}"
            sure = f"confidence {data.get('confidence_ppm', 0) / 10_000:g} %, unverified {data.get('unverified_count')}"
            facts.append(Fact(one.get("plan_digest"), one.index))
            facts.append(
                Fact(f"{data.get('step_count')} steps, {risk}, {sure}{', tainted' if data.get('taint') else ''}")
            )
            facts.append(Fact(f"tools: {_short(tools)}"))
            facts.append(Fact(f"rationale: {one.sealed('rationale')}; rejected: {one.sealed('rejected_alternatives')}"))
        return facts

    def decided(self) -> list[Fact]:
        facts = []
        for one in self._of("plan.decided", "call.decided"):
            data = one.data
            codes = ", ".join(data.get("reason_codes", ())) or NOT_RECORDED
            rules = ", ".join(data.get("rules", ())) or "no rule"
            snapshot = str(data.get("snapshot_id", NOT_RECORDED))[:19]
            where = f"class C{data.get('class_level')}, stage {data.get('stage', NOT_RECORDED)}, snapshot {snapshot}"
            what = f"{data.get('purpose')} {data.get('outcome')}: {codes} by {_short(rules, 60)}; {where}"
            facts.append((one.type == "call.decided", Fact(what, one.index)))
        return [fact for _, fact in sorted(facts, key=lambda pair: pair[0])]

    def approved(self) -> list[Fact]:
        facts = []
        for one in self._of("approval.requested", "approval.recorded", "approval.withdrawn", "approval.expired"):
            data = one.data
            if one.type == "approval.requested":
                roles = ", ".join(data.get("roles", ())) or "any role"
                text = f"asked for {data.get('need')} of {roles}"
            elif one.type == "approval.recorded":
                role = f" ({data['role']})" if "role" in data else ""
                said = {"approve": "approved", "reject": "rejected"}.get(str(data.get("verdict")), "voted")
                text = f"{said} by {data.get('approver')}{role}, {data.get('count')} of {data.get('need')}"
                text += f"{', signed' if data.get('signed') else ''}; comment {one.sealed('comment')}"
            else:
                text = f"{one.type.removeprefix('approval.')}: {data.get('cause', NOT_RECORDED)}"
            facts.append(Fact(text, one.index))
        outcomes = [one.data.get("outcome") for one in self._of("plan.decided", "call.decided")]
        if not facts and outcomes and "REQUIRE_APPROVAL" not in outcomes:
            return [Fact("no approval was demanded")]
        return facts

    def credential(self) -> list[Fact]:
        facts = []
        readers = 0
        for granted, revoked in self._grants.values():
            purpose = granted.data.get("purpose")
            if purpose == "READ" and _is_dead(revoked):
                readers += 1
                continue
            life = f"{purpose} {granted.data.get('role')} for {granted.get('step') or 'the draft'}"
            if granted.type == "credential.granted":
                life += f", at most {granted.data.get('ttl_seconds')} s from {_clock(granted)}"
            facts.append(Fact(f"{life}: {_end(revoked)}", (revoked or granted).index))
        if readers:
            facts.append(Fact(f"READ: {readers} more, all verified dead"))
        return facts

    def did(self) -> list[Fact]:
        facts = [attempt.fact() for attempt in self._attempts.values() if not attempt.is_undo]
        return facts or [Fact("no step was begun")] * bool(self._entries)

    def undone(self) -> list[Fact]:
        facts = [
            Fact(f"started: {one.data.get('cause')}, {one.data.get('step_count')} steps to undo", one.index)
            for one in self._of("compensation.started")
        ]
        facts += [attempt.fact() for attempt in self._attempts.values() if attempt.is_undo]
        facts += [
            Fact(
                f"ended {one.data.get('state')}: {one.data.get('compensated_count')} undone,"
                f" {one.data.get('failed_count')} failed; what remains: {one.sealed('residual_effects')}",
                one.index,
            )
            for one in self._of("compensation.ended")
        ]
        return facts

    def final(self) -> list[Fact]:
        facts = []
        for one in self._of("plan.ended"):
            data = one.data
            why = f" ({data['reason_code']})" if "reason_code" in data else ""
            counts = f"{data.get('applied_count')} of {data.get('step_count')} applied"
            text = f"{_moment(one)} {data.get('state')}{why}: {counts}, {data.get('compensated_count')} undone"
            facts.append(Fact(f"{text}, cost {data.get('cost_minor')}", one.index))
        open_plans = [
            one
            for one in self._of("plan.proposed")
            if not any(end.get("plan_digest") == one.get("plan_digest") for end in self._of("plan.ended"))
        ]
        for one in open_plans:
            changes = [c for c in self._of("plan.changed") if c.get("plan_digest") == one.get("plan_digest")]
            state = changes[-1].data.get("to_state") if changes else "proposed"
            facts.append(Fact(f"not ended: {state}", changes[-1].index if changes else one.index))
        return facts + [
            Fact(
                f"request {one.data.get('outcome')}, {one.data.get('safety')}; answer {one.sealed('final_answer')}",
                one.index,
            )
            for one in self._of("request.completed")
        ]

    # --- what is missing ---

    def _gaps(self) -> Iterator[Fact]:
        due: dict[str, int] = {}
        for one in self._entries:
            stream, seq = one.document.get("stream"), one.document.get("seq")
            if isinstance(stream, str) and isinstance(seq, int):
                wanted = due.get(stream, 1)
                if seq != wanted:
                    yield Fact(f"gap: {stream} goes on with {seq} where {wanted} is due", one.index)
                due[stream] = seq + 1

    def _unfinished(self) -> Iterator[Fact]:
        committed = {one.get("plan_digest"): one for one in self._of("plan.committed")}
        decisions = {str(one.data.get("decision_id")) for one in self._of("plan.decided")}
        intents: dict[str, int] = {}
        for attempt in self._attempts.values():
            digest = attempt.intent.get("plan_digest")
            intents[digest] = intents.get(digest, 0) + 1
        for digest, one in committed.items():
            if str(one.data.get("decision_id")) not in decisions:
                yield Fact("the commit's decision is not among the entries", one.index)
            if not any(end.get("plan_digest") == digest for end in self._of("plan.ended")):
                yield Fact("open: a committed plan that has not ended", one.index)
        for one in self._of("plan.ended"):
            count = intents.get(one.get("plan_digest"), 0)
            if one.data.get("intent_count") != count:
                yield Fact(f"the plan's end counts {one.data.get('intent_count')} intents, here are {count}", one.index)
            if one.data.get("state") == "NEEDS_ATTENTION":
                yield Fact("the plan needs attention", one.index)
        for one in self._of("compensation.ended"):
            if one.data.get("failed_count"):
                yield Fact(f"{one.data['failed_count']} steps could not be undone", one.index)


def _proof(entries: Sequence[Told], proof: Proof) -> list[Fact]:
    proven = proof.proven_count + sum(one.proven_count for one in proof.older)
    missing = len(entries) - proven
    later = f" ({missing} are newer)" if missing else ""
    trees = f"the signed tree of {proof.tree_size}"
    if proof.older:
        sizes = ", ".join(str(one.tree_size) for one in proof.older)
        trees = f"the signed trees of {sizes} and {proof.tree_size}"
    logs = "".join(f"; shard {one.shard} {one.origin}, root {one.root[:32] or NOT_RECORDED}" for one in proof.older)
    covered = f"{proven} of {len(entries)} entries are in {trees}{later}"
    return [
        Fact(f"{covered}, {proof.how}"),
        Fact(f"log {proof.origin}, root {proof.root[:32] or NOT_RECORDED}{logs}"),
    ]


def _is_dead(revoked: Told | None) -> bool:
    return revoked is not None and bool(revoked.data.get("verified_dead") or revoked.data.get("never_redeemed"))


def _end(revoked: Told | None) -> str:
    if revoked is None:
        return "no revocation recorded"
    if revoked.data.get("never_redeemed"):
        return f"never redeemed, gone at {_clock(revoked)}"
    dead = "verified dead" if revoked.data.get("verified_dead") else "revoked, death not verified"
    return f"{dead} at {_clock(revoked)}"


def _moment(one: Told) -> str:
    return _time(one, "%Y-%m-%d %H:%M:%SZ")


def _clock(one: Told) -> str:
    return _time(one, "%H:%M:%SZ")


def _time(one: Told, form: str) -> str:
    value = one.document.get("event_time_ms")
    return time.strftime(form, time.gmtime(value / 1000)) if isinstance(value, int) else NOT_RECORDED


def _short(text: str, most: int = _CUT) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= most else f"{one_line[:most]}[... {len(one_line) - most} more characters]"


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, values)))
