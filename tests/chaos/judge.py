"""The verdict on a run: its history once it has come to rest, the rules' findings, and the report."""

import asyncio
import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos import collect
from chaos.checker import check
from chaos.history import History
from chaos.load import ClientLog
from chaos.targets import Target
from counterseal.client import Person
from counterseal.vault import VaultUnavailable
from support.behind import Behind

SETTLE_SECONDS = 150.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The last look at a run: what contradicts itself then, stays. rested: seconds after the load."""

    history: History
    findings: list[str]
    rested: float


async def settled(
    behind: Behind, target: Target, person: Person, log: ClientLog, opening: Mapping[str, int], directory: Path
) -> Verdict:
    """Look until the history holds, or the time for coming to rest is over. `directory` takes the export, afresh."""
    shutil.rmtree(directory, ignore_errors=True)
    begun = time.monotonic()
    while True:
        rested = time.monotonic() - begun
        try:
            made, findings = await collect.history(behind, target, person, log, opening, directory)
        except (VaultUnavailable, OSError, TimeoutError):
            if rested > SETTLE_SECONDS:
                raise
        else:
            findings += check(made)
            if not findings or rested > SETTLE_SECONDS:
                return Verdict(made, findings, rested)
        await asyncio.sleep(2.0)


def report(
    seed: int, struck: Sequence[Mapping[str, Any]], log: ClientLog, verdict: Verdict, **more: Any
) -> dict[str, Any]:
    """Return the run's report. more: what a load adds of its own."""
    made = verdict.history
    findings = list(verdict.findings)
    if len(made.effects) < len(struck):
        findings.append(f"thin: {len(made.effects)} effects under {len(struck)} kills say little")
    return {
        "v": 1,
        "seed": seed,
        "kills": list(struck),
        "rest_seconds": round(verdict.rested, 1),
        "findings": findings,
        "answers": dict(log.answers),
        "plan_states": dict(Counter(f"{plan.state} {plan.reason_code}".rstrip() for plan in made.plans)),
        "totals": {
            "plans": len(made.plans),
            "acknowledged": len(log.acknowledged),
            "ends_told": len(log.ends),
            "effects": len(made.effects),
            "undone": sum(entry.type == "step.intent" and "undoes" in entry.data for entry in made.entries),
            "write_grants": sum(
                entry.type == "credential.granted" and entry.data["purpose"] == "WRITE" for entry in made.entries
            ),
            "entries": len(made.entries),
            "receipts": len(log.receipts),
            "checkpoints": len(log.checkpoints),
            "kills": dict(Counter(kill["service"] for kill in struck)),
            "kills_while_plans_ran": sum(kill["in_flight"] > 0 for kill in struck),
        },
        **more,
    }


def finish(made: Mapping[str, Any], directory: Path) -> int:
    """Write the report, say what it says, and return the exit code: 0 when the history holds, else 3."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    for finding in made["findings"]:
        say(finding)
    say(f"{len(made['findings'])} contradictions in {made['totals']}; {directory / 'report.json'}")
    return 3 if made["findings"] else 0


def end_tidily() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what it started is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def say(text: str) -> None:
    """Write a line for people."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
