"""The chain of evidence inside one log: decision, commit, intent, credential, outcome, in this order and each once.

`verify` says that a log is what was written; this says that what was written keeps the suite's promises: no commit
without an allowing decision, no intent without a commit, no writing credential and no outcome without an earlier
intent, no doubt without an end. What contradicts that is `tampered`; what has only not come yet (an action under way
when the log was exported) is `incomplete`.
"""

from dataclasses import dataclass, field

from counterseal.ledger.entry import Entry
from counterseal.ledger.errors import Kind, VerificationError


@dataclass(slots=True)
class _Attempt:
    """One attempt of one step, as the log tells it."""

    intent: int
    plan_digest: str
    step: str
    outcome: str = ""
    resolved: str = ""


@dataclass(slots=True)
class _Plan:
    """One plan: where it was committed, how many intents it had, where it ended."""

    committed: int | None = None
    intents: int = 0
    ended: int | None = None


@dataclass(slots=True)
class Chain:
    """Reads the entries of a log in order with `add`; `findings` says what is broken, then what is still open."""

    _decisions: dict[str, Entry] = field(default_factory=dict)
    _plans: dict[str, _Plan] = field(default_factory=dict)
    _attempts: dict[str, _Attempt] = field(default_factory=dict)
    _writes: dict[str, int] = field(default_factory=dict)
    _tasks: set[str] = field(default_factory=set)
    _broken: list[VerificationError] = field(default_factory=list)

    def add(self, index: int, entry: Entry) -> None:
        """Take the entry at `index`; entries come in order of the index."""
        handler = _HANDLERS.get(entry.type)
        if handler is not None:
            handler(self, index, entry)

    def findings(self) -> list[VerificationError]:
        """Return what contradicts the promises, and then what has not come yet."""
        still_open = [
            _finding(one.intent, f"the intent of attempt {attempt} has no outcome yet", "incomplete")
            for attempt, one in self._attempts.items()
            if not one.outcome
        ]
        still_open += [
            _finding(one.intent, f"the outcome of attempt {attempt} is unknown and not resolved yet", "incomplete")
            for attempt, one in self._attempts.items()
            if one.outcome == "unknown" and not one.resolved
        ]
        still_open += [
            _finding(index, f"the writing credential {grant} is not verified dead yet", "incomplete")
            for grant, index in self._writes.items()
        ]
        return [*self._broken, *still_open]

    def decided(self, _index: int, entry: Entry) -> None:
        """`plan.decided`: remember it."""
        self._decisions[entry.data["decision_id"]] = entry

    def requested(self, _index: int, entry: Entry) -> None:
        """`approval.requested`: remember the task."""
        self._tasks.add(entry.data["task_id"])

    def voted(self, index: int, entry: Entry) -> None:
        """`approval.recorded`: a vote on a task that was asked for."""
        if entry.data["task_id"] not in self._tasks:
            self._break(index, f"a vote on task {entry.data['task_id']}, which nobody requested before")

    def committed(self, index: int, entry: Entry) -> None:
        """`plan.committed`: under an earlier COMMIT decision that allowed this plan."""
        digest = entry.document["plan_digest"]
        decision = self._decisions.get(entry.data["decision_id"])
        if decision is None:
            self._break(index, f"the commit of {digest} names a decision that is not in the log before it")
        elif (decision.document["plan_digest"], decision.data["purpose"], decision.data["outcome"]) != (
            digest,
            "COMMIT",
            "ALLOW",
        ):
            self._break(index, f"the commit of {digest} names a decision that does not allow it")
        self._plan(digest).committed = index

    def intended(self, index: int, entry: Entry) -> None:
        """`step.intent`: of a committed plan that has not ended, once per attempt."""
        digest, attempt = entry.document["plan_digest"], entry.data["attempt_id"]
        plan = self._plan(digest)
        plan.intents += 1
        if plan.committed is None:
            self._break(index, f"an intent of {digest}, which was not committed before")
        if plan.ended is not None:
            self._break(index, f"an intent of {digest}, which had ended at entry {plan.ended}")
        if attempt in self._attempts:
            self._break(index, f"a second intent of attempt {attempt}")
            return
        self._attempts[attempt] = _Attempt(index, digest, entry.document["step"])

    def granted(self, index: int, entry: Entry) -> None:
        """`credential.granted`: a credential that can write needs the intent of its attempt before it."""
        if entry.data["purpose"] != "WRITE":
            return
        attempt = self._attempts.get(entry.data["attempt_id"])
        if attempt is None:
            self._break(index, f"a writing credential for attempt {entry.data['attempt_id']} without an earlier intent")
        elif attempt.outcome:
            self._break(index, f"a writing credential for attempt {entry.data['attempt_id']} after its outcome")
        self._writes[entry.data["grant_id"]] = index

    def revoked(self, _index: int, entry: Entry) -> None:
        """`credential.revoked`: dead when it is verified, or when its wrapper never left the broker."""
        if entry.data["verified_dead"] or entry.data["never_redeemed"]:
            self._writes.pop(entry.data["grant_id"], None)

    def ended_step(self, index: int, entry: Entry) -> None:
        """`step.outcome`: once, of an attempt whose intent stands before it."""
        attempt = self._known(index, entry, "an outcome")
        if attempt is None:
            return
        if attempt.outcome:
            self._break(index, f"a second outcome of attempt {entry.data['attempt_id']}")
        attempt.outcome = entry.data["outcome"]

    def resolved(self, index: int, entry: Entry) -> None:
        """`step.resolved`: ends a doubt that the log knows."""
        attempt = self._known(index, entry, "a resolution")
        if attempt is None:
            return
        if attempt.outcome != "unknown":
            self._break(index, f"attempt {entry.data['attempt_id']} is resolved, but was not in doubt")
        attempt.resolved = entry.data["verdict"]

    def verified(self, index: int, entry: Entry) -> None:
        """`step.verified`: a read-back of something that was applied."""
        attempt = self._known(index, entry, "a read-back")
        if attempt is not None and "applied" not in (attempt.outcome, attempt.resolved):
            self._break(index, f"a read-back of attempt {entry.data['attempt_id']}, which was not applied")

    def ended_plan(self, index: int, entry: Entry) -> None:
        """`plan.ended`: it counts the intents that the log holds."""
        digest = entry.document["plan_digest"]
        plan = self._plan(digest)
        plan.ended = index
        if entry.data["intent_count"] != plan.intents:
            self._break(
                index, f"the end of {digest} counts {entry.data['intent_count']} intents, the log has {plan.intents}"
            )

    def _known(self, index: int, entry: Entry, what: str) -> _Attempt | None:
        attempt = self._attempts.get(entry.data["attempt_id"])
        if attempt is None:
            self._break(index, f"{what} of attempt {entry.data['attempt_id']} without an earlier intent")
        elif (attempt.plan_digest, attempt.step) != (entry.document["plan_digest"], entry.document["step"]):
            self._break(
                index, f"{what} of attempt {entry.data['attempt_id']} names another plan or step than its intent"
            )
        return attempt

    def _plan(self, digest: str) -> _Plan:
        return self._plans.setdefault(digest, _Plan())

    def _break(self, index: int, message: str) -> None:
        self._broken.append(_finding(index, message))


_HANDLERS = {
    "plan.decided": Chain.decided,
    "approval.requested": Chain.requested,
    "approval.recorded": Chain.voted,
    "plan.committed": Chain.committed,
    "step.intent": Chain.intended,
    "credential.granted": Chain.granted,
    "credential.revoked": Chain.revoked,
    "step.outcome": Chain.ended_step,
    "step.resolved": Chain.resolved,
    "step.verified": Chain.verified,
    "plan.ended": Chain.ended_plan,
}


def _finding(index: int, message: str, kind: Kind = "tampered") -> VerificationError:
    return VerificationError(message, kind=kind, where=f"entry {index}")
