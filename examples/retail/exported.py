"""The run's ledger: exported, verified as any auditor would, and searched for every write of the run."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from examples.retail.governed import CallResult
from examples.retail.report import Ledger
from examples.retail.workload import WorkloadError

from counterseal.cli.audit_pins import read_vkey
from counterseal.cli.audit_sources import Directory
from counterseal.client.export import write_export
from counterseal.client.person import Person
from counterseal.ledger import entry, tiles
from counterseal.ledger.verify import verify_log

PARTS = {"vkey", "checkpoint", "tile"}
"""What lies in an export's folder."""


async def export(auditor: Person, directory: Path, min_size: int) -> None:
    """Write the tenant's log, signed over at least `min_size` entries, in the C2SP layout plus `vkey`."""
    clear(directory)
    await write_export(auditor.export(min_size), directory)


def inspect(directory: Path, calls: Iterable[CallResult]) -> Ledger:
    """Verify the export and find each done write's intent and outcome at the indexes that the services named."""
    report = verify_log(Directory(directory), read_vkey(str(directory / "vkey")))
    entries: list[bytes] = []
    for tile in tiles.bundles_of(report.size):
        data = Directory(directory).read(tile.path)
        entries += tiles.parse_bundle(tile, data) if data is not None else []
    found = sum(call.done and call.action.write and _holds(entries, call) for call in calls)
    return Ledger(str(directory), report.verdict or "verified", report.size, found)


def _holds(entries: list[bytes], call: CallResult) -> bool:
    return _is(entries, call.intent_index, "step.intent", call.plan_digest) and _is(
        entries, call.outcome_index, "step.outcome", call.plan_digest
    )


def _is(entries: list[bytes], index: int | None, kind: str, plan_digest: str) -> bool:
    if index is None or not 0 <= index < len(entries):
        return False
    found = entry.parse(entries[index])
    return found.type == kind and found.document.get("plan_digest") == plan_digest


def clear(directory: Path) -> None:
    """Remove an earlier export; raises WorkloadError when the folder is something else."""
    if not directory.exists():
        return
    if not {path.name for path in directory.iterdir()} <= PARTS:
        raise WorkloadError(f"{directory} is no export of an earlier run; name another OUT")
    shutil.rmtree(directory)
