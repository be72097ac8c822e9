"""Judges a run: each rule is a function of the history that yields what contradicts it.

Rules and where they come from: intent before effect (I1), once (I3), truthful ends (I4), nothing left (I5),
acknowledged kept (I6), one accepted commit (I3), by a lent login and none that was called dead (I5), and the books
balance: what the target says happened is what its rows say.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from chaos.history import Effect, History, Logged, PlanEnd, StepEnd, by_grant, grant_of

UNDECIDED = {"IN_DOUBT", "UNDO_IN_DOUBT", "INTENT", "UNDO_INTENT"}
"""Step states that promise nothing about the effect."""

STANDS = {"APPLIED", "VERIFIED", "KEPT", "MISAPPLIED", "UNDO_READY", "UNDO_FAILED"}
"""Step states that say: the forward effect is at the target and is not undone."""

NEVER = {"PENDING", "READY", "NOT_APPLIED", "SKIPPED"}
"""Step states that say: no effect."""

UNDONE = {"UNDONE_UNVERIFIED", "COMPENSATED"}

ENDED = {
    "SUCCEEDED",
    "ROLLED_BACK",
    "FAILED_NO_EFFECT",
    "REJECTED",
    "EXPIRED",
    "WITHDRAWN",
    "CANCELLED",
    "RESOLVED",
    "NEEDS_ATTENTION",
}
"""Plan states in which a plan may rest: the terminal ones, and the one that asks for a person."""

NO_EFFECT_ENDS = {"FAILED_NO_EFFECT", "REJECTED", "EXPIRED", "WITHDRAWN", "CANCELLED", "ROLLED_BACK"}


def check(history: History) -> list[str]:
    """Return every contradiction, as sentences; empty when the history holds."""
    return [f"{name}: {finding}" for name, rule in RULES.items() for finding in rule(history)]


def intent_first(history: History) -> Iterator[str]:
    """No effect without a `step.intent` of its attempt that the ledger had received before."""
    intents = _intents(history)
    for effect in history.effects:
        intent = intents.get(effect.attempt_id)
        if intent is None:
            yield f"effect {effect.effect_key} of attempt {effect.attempt_id} has no intent in the ledger"
        elif intent.receive_time_ms > effect.begin_ms:
            yield f"effect {effect.effect_key} began {intent.receive_time_ms - effect.begin_ms} ms before its intent"


def lent(history: History) -> Iterator[str]:
    """Each effect's login is of one write grant for its attempt, which the ledger had before and called dead after."""
    granted, revoked = by_grant(history.entries, "credential.granted"), by_grant(history.entries, "credential.revoked")
    for effect in history.effects:
        where = f"effect {effect.effect_key} by {effect.login}"
        grant = next(iter(granted.get(grant_of(effect.login), [])), None)
        if grant is None:
            yield f"{where}: the ledger knows no grant of that login"
            continue
        if (grant.data["purpose"], grant.data["attempt_id"]) != ("WRITE", effect.attempt_id):
            yield f"{where}: that grant is {grant.data['purpose']} for attempt {grant.data['attempt_id']}"
        if grant.receive_time_ms > effect.begin_ms:
            yield f"{where}: the ledger had the grant {grant.receive_time_ms - effect.begin_ms} ms later"
        for dead in revoked.get(grant_of(effect.login), []):
            if dead.receive_time_ms < effect.end_ms:
                yield f"{where}: committed {effect.end_ms - dead.receive_time_ms} ms after that login was called dead"


def deaths_told(history: History) -> Iterator[str]:
    """Each grant that the ledger knows has one end there."""
    granted, revoked = by_grant(history.entries, "credential.granted"), by_grant(history.entries, "credential.revoked")
    for grant, entries in granted.items():
        if len(entries) != 1 or len(revoked.get(grant, [])) != 1:
            yield f"grant {grant} was granted {len(entries)} and ended {len(revoked.get(grant, []))} times"


def once(history: History) -> Iterator[str]:
    """No effect key twice, no attempt twice, and no step (or its undo) with two effects under different keys."""
    for what, counted in (
        ("effect key", Counter(effect.effect_key for effect in history.effects)),
        ("attempt", Counter(effect.attempt_id for effect in history.effects)),
    ):
        for value, count in counted.items():
            if count > 1:
                yield f"{what} {value} took effect {count} times"
    for (digest, step, undo), effects in _by_step(history).items():
        if len(effects) > 1:
            yield f"step {step} of {digest}{' (undo)' if undo else ''} took effect {len(effects)} times"


def acknowledged_kept(history: History) -> Iterator[str]:
    """Every receipt is in the export, at its index; every kept checkpoint is a prefix of the export."""
    at = {entry.index: entry.event_id for entry in history.entries}
    for receipt in history.receipts:
        found = at.get(receipt.index)
        if found is None:
            yield f"acknowledged entry {receipt.index} ({receipt.event_id}) is not in the export"
        elif found != receipt.event_id:
            yield f"entry {receipt.index} was acknowledged as {receipt.event_id}, the export has {found}"
    for kept in history.checkpoints:
        if history.roots.get(kept.size) != kept.root:
            yield f"the export's first {kept.size} entries are not those of a checkpoint that a client kept"


def one_commit(history: History) -> Iterator[str]:
    """One `plan.committed` per plan, and one for every commit that a client was told of."""
    committed = Counter(entry.plan_digest for entry in history.entries if entry.type == "plan.committed")
    for digest, count in committed.items():
        if count > 1:
            yield f"{digest} was committed {count} times"
    for plan in history.plans:
        if plan.acknowledged and not committed[plan.plan_digest]:
            yield f"the commit of {plan.plan_digest} was acknowledged and is not in the ledger"


def outcomes_told(history: History) -> Iterator[str]:
    """Each intent has one outcome; the outcome (after a resolution) is what the target shows."""
    present = {effect.attempt_id for effect in history.effects}
    outcomes: dict[str, list[str]] = defaultdict(list)
    resolved: dict[str, str] = {}
    for entry in history.entries:
        if entry.type == "step.outcome":
            outcomes[entry.data["attempt_id"]].append(entry.data["outcome"])
        elif entry.type == "step.resolved":
            resolved[entry.data["attempt_id"]] = entry.data["verdict"]
    for attempt, intent in _intents(history).items():
        told = outcomes.get(attempt, [])
        where = f"attempt {attempt} of step {intent.step} of {intent.plan_digest}"
        if len(told) != 1:
            yield f"{where} has {len(told)} outcomes"
            continue
        verdict = resolved.get(attempt, told[0]) if told[0] == "unknown" else told[0]
        reads = intent.data.get("effect") == "E0"
        if reads and attempt in present:
            yield f"{where} only reads; the target has an effect of it"
        if verdict == "applied" and attempt not in present and not reads:
            yield f"{where} is told as applied; the target has no such effect"
        if verdict in ("not_applied", "not_sent") and attempt in present:
            yield f"{where} is told as {verdict}; the target has the effect"
        if told[0] != "unknown" and attempt in resolved:
            yield f"{where} was resolved although its outcome was {told[0]}"
    for attempt in outcomes.keys() - _intents(history).keys():
        yield f"attempt {attempt} has an outcome and no intent"


def truthful_ends(history: History) -> Iterator[str]:
    """Every plan rests in a state that is true of the target, step by step, and whoever waits for a person says so."""
    effects = _by_step(history)
    for plan in history.plans:
        rests_in_doubt = plan.state == "HALTED" and plan.reason_code == "IN_DOUBT"
        if plan.state not in ENDED and not rests_in_doubt and not (plan.state == "PROPOSED" and not plan.acknowledged):
            yield f"{plan.plan_digest} did not end: {plan.state} {plan.reason_code}".rstrip()
        if plan.told not in ("", plan.state):
            yield f"{plan.plan_digest} is {plan.state}, a client was told that it ended {plan.told}"
        for step in plan.steps:
            forward = len(effects.get((plan.plan_digest, step.id, False), ()))
            undone = len(effects.get((plan.plan_digest, step.id, True), ()))
            yield from _step_is_true(plan, step, forward, undone)


def _step_is_true(plan: PlanEnd, step: StepEnd, forward: int, undone: int) -> Iterator[str]:
    where = f"step {step.id} of {plan.plan_digest} ({plan.state})"
    if not step.writes:
        if forward or undone:
            yield f"{where} only reads, and has an effect"
        return
    if step.state in NEVER and forward:
        yield f"{where} is {step.state}; the target has its effect"
    if step.state in STANDS and (forward != 1 or undone):
        yield f"{where} is {step.state}; the target has {forward} effects and {undone} undone"
    if step.state in UNDONE and (forward != 1 or undone != 1):
        yield f"{where} is {step.state}; the target has {forward} effects and {undone} undone"
    if step.state in UNDECIDED and plan.state in ENDED - {"NEEDS_ATTENTION", "RESOLVED"}:
        yield f"{where} is {step.state} and the plan says {plan.state}"
    if plan.state == "SUCCEEDED" and (forward != 1 or undone):
        yield f"{where}: SUCCEEDED, and the target has {forward} effects and {undone} undone"
    if plan.state in NO_EFFECT_ENDS and forward != undone:
        yield f"{where}: {plan.state}, and the target has {forward} effects and {undone} undone"


def ends_logged(history: History) -> Iterator[str]:
    """A plan that ended after its commit has one `plan.ended` with that state."""
    ended: dict[str, list[str]] = defaultdict(list)
    for entry in history.entries:
        if entry.type == "plan.ended":
            ended[entry.plan_digest].append(entry.data["state"])
    for plan in history.plans:
        told = ended.get(plan.plan_digest, [])
        if len(told) > 1:
            yield f"{plan.plan_digest} ended {len(told)} times in the ledger"
        elif told and told[0] != plan.state:
            yield f"{plan.plan_digest} is {plan.state}, the ledger says {told[0]}"
        elif not told and plan.acknowledged and plan.state in ENDED - {"NEEDS_ATTENTION"}:
            yield f"{plan.plan_digest} is {plan.state}, the ledger has no end of it"


def nothing_left(history: History) -> Iterator[str]:
    """At rest no lease, login, session or grant lives; and the look for each has seen one while the run lasted."""
    left, seen = history.leftovers, history.seen_alive
    for what, names, before in (
        ("lease", left.leases, seen.leases),
        ("login", left.logins, seen.logins),
        ("session", left.sessions, seen.sessions),
        ("grant", left.grants, seen.grants),
    ):
        for name in names:
            yield f"{what} {name} is still alive"
        if not before:
            yield f"no {what} was ever seen alive: that there is none now says nothing"


def books_balance(history: History) -> Iterator[str]:
    """Each account moved by the sum of its effects: no write went past the list of effects."""
    moved: dict[str, int] = defaultdict(int)
    for effect in history.effects:
        for account, amount in effect.moves.items():
            moved[account] += amount
    for account in history.opening.keys() | history.closing.keys() | moved.keys():
        opening, closing = history.opening.get(account), history.closing.get(account)
        if opening is None or closing != opening + moved[account]:
            yield f"account {account} holds {closing} instead of {opening} {moved[account]:+d}"


RULES: dict[str, Callable[[History], Iterator[str]]] = {
    "intent-first": intent_first,
    "lent": lent,
    "deaths-told": deaths_told,
    "once": once,
    "acknowledged-kept": acknowledged_kept,
    "one-commit": one_commit,
    "outcomes-told": outcomes_told,
    "truthful-ends": truthful_ends,
    "ends-logged": ends_logged,
    "nothing-left": nothing_left,
    "books-balance": books_balance,
}


def _intents(history: History) -> dict[str, Logged]:
    return {entry.data["attempt_id"]: entry for entry in history.entries if entry.type == "step.intent"}


def _by_step(history: History) -> dict[tuple[str, str, bool], list[Effect]]:
    """Group effects by (plan digest, step, whether it is an undo), by way of their intents."""
    intents = _intents(history)
    grouped: dict[tuple[str, str, bool], list[Effect]] = defaultdict(list)
    for effect in history.effects:
        intent = intents.get(effect.attempt_id)
        if intent is not None:
            grouped[intent.plan_digest, intent.step, bool(intent.data.get("undoes"))].append(effect)
    return grouped
