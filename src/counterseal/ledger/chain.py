"""The chain of evidence inside one log: decision, votes, commit, intent, credential, outcome, each in its place.

`verify` says that a log is what was written; this says that what was written keeps the suite's promises: every effect
has an intent, a decision that allowed it under a snapshot that the log shows, the votes that were demanded, a
credential, and an outcome, all of one plan digest; every doubt is resolved, every credential verified dead, every
compensation points back at what it undoes. What contradicts that is `tampered`; what has only not come yet (an action
under way when the log was exported) is `incomplete`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from counterseal.canonical import digest_of
from counterseal.ledger.entry import Entry
from counterseal.ledger.errors import Kind, VerificationError


@dataclass(slots=True)
class _Attempt:
    """One attempt of one step, as the log tells it."""

    intent: int
    plan_digest: str
    step: str
    writes: bool
    undoes: str = ""
    outcome: str = ""
    resolved: str = ""
    granted: bool = False

    @property
    def is_applied(self) -> bool:
        return "applied" in (self.outcome, self.resolved)


@dataclass(slots=True)
class _Plan:
    """One plan: where it was committed, how many intents it had, where its compensation began and it ended."""

    committed: int | None = None
    intents: int = 0
    compensating: bool = False
    ended: int | None = None


@dataclass(frozen=True, slots=True)
class _Decision:
    """What a `plan.decided` said."""

    plan_digest: str
    purpose: str
    outcome: str
    snapshot_id: str
    approvals_needed: int
    card_digest: str


@dataclass(frozen=True, slots=True)
class _Vote:
    """An approving vote that stands."""

    task_id: str
    plan_digest: str
    card_digest: str
    approver: str


class Chain:
    """Reads the entries of a log in order with `add`; `findings` says what is broken, then what is still open.

    platform: snapshot ids that the log of the platform's policy shows, where that is another log (`snapshots`).
    """

    def __init__(self, platform: Iterable[str] = ()) -> None:
        self.snapshots: set[str] = set()
        self._platform = set(platform)
        self._effective: set[str] = set()
        self._decisions: dict[str, _Decision] = {}
        self._plans: dict[str, _Plan] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._grants: dict[str, int] = {}
        self._tasks: dict[str, tuple[str, str]] = {}
        self._votes: dict[str, _Vote] = {}
        self._broken: list[VerificationError] = []
        self._unknown: list[VerificationError] = []

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
            _finding(one.intent, f"attempt {attempt} was applied, but no credential of it is in the log", "incomplete")
            for attempt, one in self._attempts.items()
            if one.is_applied and not one.granted and not one.writes
        ]
        still_open += [
            _finding(index, f"the credential {grant} is not verified dead yet", "incomplete")
            for grant, index in self._grants.items()
        ]
        return [*self._broken, *self._unknown, *still_open]

    # --- policy ---

    def activated(self, _index: int, entry: Entry) -> None:
        """`policy.activated`, `policy.rolled_back`: what decides from now on, alone or with what else is active."""
        self.snapshots.add(entry.data["to_snapshot_id"])
        for platform in (*self.snapshots, *self._platform, ""):
            for tenant in (*self.snapshots, ""):
                self._effective.add(_effective(platform, tenant))

    def decided(self, _index: int, entry: Entry) -> None:
        """`plan.decided`: remember it."""
        data = entry.data
        self._decisions[data["decision_id"]] = _Decision(
            entry.document["plan_digest"],
            data["purpose"],
            data["outcome"],
            data.get("snapshot_id", ""),
            data["approvals_needed"],
            data.get("card_digest", ""),
        )

    def requested(self, _index: int, entry: Entry) -> None:
        """`approval.requested`: remember the task, and what people are shown."""
        self._tasks[entry.data["task_id"]] = (entry.document["plan_digest"], entry.data["card_digest"])

    def voted(self, index: int, entry: Entry) -> None:
        """`approval.recorded`: a vote on a task that was asked for, on its plan and its card."""
        data, digest = entry.data, entry.document["plan_digest"]
        task = self._tasks.get(data["task_id"])
        if task is None:
            self._break(index, f"a vote on task {data['task_id']}, which nobody requested before")
        elif task != (digest, data["card_digest"]):
            self._break(index, f"a vote on task {data['task_id']} names another plan or card than was asked about")
        if data["verdict"] == "approve":
            vote = _Vote(data["task_id"], digest, data["card_digest"], data["approver"])
            self._votes[data["approval_digest"]] = vote

    def withdrawn(self, _index: int, entry: Entry) -> None:
        """`approval.withdrawn`, `approval.expired`: votes that no longer stand; without a name all of the task."""
        who = entry.data.get("approver", "")
        for digest, vote in list(self._votes.items()):
            if vote.task_id == entry.data["task_id"] and who in ("", vote.approver):
                del self._votes[digest]

    def committed(self, index: int, entry: Entry) -> None:
        """`plan.committed`: under an earlier COMMIT decision that allowed this plan, with the votes it demanded."""
        digest = entry.document["plan_digest"]
        decision = self._decisions.get(entry.data["decision_id"])
        if decision is None:
            self._break(index, f"the commit of {digest} names a decision that is not in the log before it")
        elif (decision.plan_digest, decision.purpose, decision.outcome) != (digest, "COMMIT", "ALLOW"):
            self._break(index, f"the commit of {digest} names a decision that does not allow it")
        else:
            self._check_snapshot(index, entry, decision)
            self._check_votes(index, entry, decision)
        self._plan(digest).committed = index

    def _check_snapshot(self, index: int, entry: Entry, decision: _Decision) -> None:
        named = entry.data.get("snapshot_id", "")
        if named != decision.snapshot_id:
            self._break(index, "the commit names another snapshot than its decision")
        elif named not in self._effective:
            self._unknown.append(
                _finding(
                    index,
                    f"the decision was made under {named or 'no snapshot'}, which no policy.activated of this log "
                    "explains; name the platform's log",
                    "incomplete",
                )
            )

    def _check_votes(self, index: int, entry: Entry, decision: _Decision) -> None:
        digests = entry.data.get("approvals", [])
        votes = [self._votes.get(one) for one in digests]
        standing = [vote for vote in votes if vote is not None]
        about = (decision.plan_digest, decision.card_digest)
        if len(standing) != len(digests):
            self._break(index, "the commit names a vote that is not in the log before it, or does not stand")
        elif any((vote.plan_digest, vote.card_digest) != about for vote in standing):
            self._break(index, "the commit names a vote on another plan or card")
        elif len({vote.approver for vote in standing}) < decision.approvals_needed:
            self._break(
                index,
                f"the decision demands {decision.approvals_needed} approvals, the commit names those of "
                f"{len({vote.approver for vote in standing})} people",
            )

    # --- steps ---

    def intended(self, index: int, entry: Entry) -> None:
        """`step.intent`: of a committed plan that has not ended, once per attempt; an undo points back."""
        digest, data = entry.document["plan_digest"], entry.data
        plan, attempt = self._plan(digest), data["attempt_id"]
        plan.intents += 1
        if plan.committed is None:
            self._break(index, f"an intent of {digest}, which was not committed before")
        if plan.ended is not None:
            self._break(index, f"an intent of {digest}, which had ended at entry {plan.ended}")
        if attempt in self._attempts:
            self._break(index, f"a second intent of attempt {attempt}")
            return
        step, undoes = entry.document["step"], data.get("undoes", "")
        if undoes:
            self._check_undo(index, plan, (digest, step), undoes)
        self._attempts[attempt] = _Attempt(index, digest, step, data["effect"] != "E0", undoes)

    def _check_undo(self, index: int, plan: _Plan, place: tuple[str, str], undoes: str) -> None:
        undone = self._attempts.get(undoes)
        if undone is None or (undone.plan_digest, undone.step) != place:
            self._break(index, f"a compensation of attempt {undoes}, which this step did not make before")
        elif not (undone.is_applied or undone.outcome == "unknown"):
            self._break(index, f"a compensation of attempt {undoes}, which was not applied")
        if not plan.compensating:
            self._break(index, f"a compensation of attempt {undoes} before compensation.started")

    def granted(self, index: int, entry: Entry) -> None:
        """`credential.granted`: a credential that can write needs the intent of its attempt before it."""
        data = entry.data
        attempt = self._attempts.get(data["attempt_id"])
        self._grants[data["grant_id"]] = index
        if attempt is not None:
            attempt.granted = attempt.granted or data["purpose"] == "WRITE" or not attempt.writes
        if data["purpose"] != "WRITE":
            return
        if attempt is None:
            self._break(index, f"a writing credential for attempt {data['attempt_id']} without an earlier intent")
        elif attempt.outcome not in ("", "not_sent"):
            # After `not_sent` it may come: the broker's answer was lost, nothing was sent, and the credential must die.
            self._break(index, f"a writing credential for attempt {data['attempt_id']} after its outcome")
        elif entry.document.get("plan_digest", attempt.plan_digest) != attempt.plan_digest:
            self._break(index, f"a writing credential for attempt {data['attempt_id']} under another plan")

    def revoked(self, _index: int, entry: Entry) -> None:
        """`credential.revoked`: dead when it is verified, or when its wrapper never left the broker."""
        if entry.data["verified_dead"] or entry.data["never_redeemed"]:
            self._grants.pop(entry.data["grant_id"], None)

    def ended_step(self, index: int, entry: Entry) -> None:
        """`step.outcome`: once, of an attempt whose intent stands before it."""
        attempt = self._known(index, entry, "an outcome")
        if attempt is None:
            return
        if attempt.outcome:
            self._break(index, f"a second outcome of attempt {entry.data['attempt_id']}")
        attempt.outcome = entry.data["outcome"]
        if attempt.outcome == "applied" and attempt.writes and not attempt.granted:
            self._break(index, f"attempt {entry.data['attempt_id']} had an effect without a writing credential before")

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
        if attempt is not None and not attempt.is_applied:
            self._break(index, f"a read-back of attempt {entry.data['attempt_id']}, which was not applied")

    def compensating(self, index: int, entry: Entry) -> None:
        """`compensation.started`: of a committed plan that has not ended."""
        plan = self._plan(entry.document["plan_digest"])
        plan.compensating = True
        if plan.committed is None or plan.ended is not None:
            self._break(index, f"a compensation of {entry.document['plan_digest']}, which is not under way")

    def compensated(self, index: int, entry: Entry) -> None:
        """`compensation.ended`: of one that had started."""
        if not self._plan(entry.document["plan_digest"]).compensating:
            self._break(index, "the end of a compensation that had not started")

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
    "approval.withdrawn": Chain.withdrawn,
    "approval.expired": Chain.withdrawn,
    "policy.activated": Chain.activated,
    "policy.rolled_back": Chain.activated,
    "plan.committed": Chain.committed,
    "compensation.started": Chain.compensating,
    "compensation.ended": Chain.compensated,
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


def _effective(platform: str, tenant: str) -> str:
    """Return the id under which decisions are made while these two snapshots are active (either may be absent)."""
    named = {"platform": platform, "tenant": tenant}
    return digest_of("policy-snapshot", {"v": 1, "effective": {k: v for k, v in named.items() if v}})
