"""The hammer in short: two replicas, writers of both kinds, readers, one SIGKILL; everything holds afterwards.

The long form is `make hammer HAMMER="--goal 100000 --replicas 3 --kills 100 --kill-every 1"`.
"""

import pytest
from bench.hammer.run import Settings, hammer

from support.postgres import open_directory
from support.requirements import requirement

SHORT = Settings(
    streams=2, unary=2, batch=8, window=2, goal=400, kills=1, kill_every=0.5, duplicates=0.1, reuses=0.02, durable=False
)


@requirement("ledger:acknowledged-kept", "ledger:one-entry-per-event")
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_what_was_acknowledged_under_load_and_a_kill_is_there_once_and_provable() -> None:
    with open_directory("counterseal-hammer-") as work:
        report = await hammer(SHORT, work)
    assert report["contradictions"] == []
    assert report["entries"] >= SHORT.goal
    assert report["size"] > report["entries"], "genesis, and what credentials wrote for the auditor"
    assert report["kills"] == 1
    assert min(report[name] for name in ("answered_as_duplicate", "other_content_refused", "exports_verified")) > 0
