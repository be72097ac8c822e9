"""What the run leaves behind: one JSON file, written also when the run failed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.retail.governed import CallResult
from examples.retail.workload import Task, same_rows


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task: its calls and the rows that differ afterwards."""

    task: Task
    changed_rows: Mapping[str, Mapping[str, Any]]
    calls: Sequence[CallResult]

    @property
    def state_equal(self) -> bool:
        """Whether exactly the expected rows differ, in exactly the expected way (amounts as cents)."""
        return same_rows(self.changed_rows, self.task.expected)

    @property
    def refused_as_reference(self) -> bool:
        """Whether exactly the calls were refused that must be, each with a reason, and all others were done."""
        return len(self.calls) == len(self.task.actions) and all(call.as_reference for call in self.calls)

    @property
    def equal(self) -> bool:
        """Whether the task is as the reference in both."""
        return self.state_equal and self.refused_as_reference


@dataclass(frozen=True, slots=True)
class Ledger:
    """The exported log and its verdict. `writes_found`: done write calls whose intent and outcome it holds."""

    directory: str
    verdict: str
    size: int
    writes_found: int


def document(
    results: Sequence[TaskResult], wanted_tasks: int, ledger: Ledger | None, seconds: float, error: str | None
) -> dict[str, Any]:
    """Return the report. A task that never ran counts in `totals.tasks` and nowhere else."""
    calls = [call for result in results for call in result.calls]
    totals: dict[str, Any] = {
        "tasks": wanted_tasks,
        "equal": sum(result.equal for result in results),
        "state_equal": sum(result.state_equal for result in results),
        "refused_as_reference": sum(result.refused_as_reference for result in results),
        "calls": len(calls),
        "refused": sum(call.refused for call in calls),
        "writes": sum(call.done and call.action.write for call in calls),
        "seconds": round(seconds, 1),
    }
    if ledger is not None:
        totals |= {
            "ledger_verdict": ledger.verdict,
            "ledger_size": ledger.size,
            "writes_in_ledger": ledger.writes_found,
        }
    if error is not None:
        totals["error"] = error
    return {
        "v": 1,
        "tasks": [_task(result) for result in results],
        "totals": totals,
        "ledger": ledger.directory if ledger is not None else None,
    }


def passed(results: Sequence[TaskResult], wanted_tasks: int, ledger: Ledger | None) -> bool:
    """Whether every task is equal in both, and the exported ledger verifies and holds every write."""
    writes = sum(call.done and call.action.write for result in results for call in result.calls)
    return (
        len(results) == wanted_tasks
        and all(result.equal for result in results)
        and ledger is not None
        and ledger.verdict == "verified"
        and ledger.writes_found == writes
    )


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report in one move, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(report, indent=1) + "\n", encoding="ascii")  # ids may be any text, encodable or not
    draft.replace(path)


def _task(result: TaskResult) -> dict[str, Any]:
    return {
        "id": result.task.id,
        "state_equal": result.state_equal,
        "refused_as_reference": result.refused_as_reference,
        "changed_rows": result.changed_rows,
        "calls": [
            {
                "tool": call.action.tool,
                "decision": call.decision,
                "reason_codes": list(call.reason_codes),
                "plan_digest": call.plan_digest,
                "refused": call.refused,
                "intent_index": call.intent_index,
                "outcome_index": call.outcome_index,
            }
            for call in result.calls
        ],
    }
