"""`python -m chaos.run --seconds S --seed N`: SIGKILLs while agents move money at the bank, then the checker.

Exit 0 when the history holds, else 3.

The seed decides which service is killed when. The report names it; the same seed gives the same plans and the same
kills, though not the same interleaving.
"""

import argparse
import asyncio
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from chaos import collect, judge
from chaos.load import ClientLog, agent, auditor
from chaos.nemesis import all_serving, strike
from chaos.schedule import Kill, schedule
from chaos.targets import Bank
from support.postgres import open_directory
from support.suite import Suite, running_suite

AGENTS = 4


def main(argv: list[str] | None = None) -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="chaos", description="SIGKILLs under load, then the checker")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the load lasts, at least")
    parser.add_argument("--seed", type=int, default=0, help="0: one from the clock")
    parser.add_argument("--each", type=int, default=0, help="kills per service; 0: one per 10 seconds, at least 2")
    parser.add_argument("--agents", type=int, default=AGENTS, help="plans at a time")
    parser.add_argument("--out", type=Path, default=Path("build/chaos"), help="where report, export and logs go")
    args = parser.parse_args(argv)
    judge.end_tidily()
    seed = args.seed or time.time_ns() % 1_000_000
    each = args.each or max(2, int(args.seconds / 10))
    kills = schedule(seed, args.seconds, each)
    judge.say(f"seed {seed}: {args.seconds:g} s of load by {args.agents} agents, {each} SIGKILLs of each service")
    with open_directory("counterseal-chaos-") as home, running_suite(home, tapped=False) as suite:
        report = asyncio.run(chaos(suite, kills, seed, args.seconds, args.agents, args.out / "ledger"))
        shutil.copytree(suite.running.logs, args.out / "logs", dirs_exist_ok=True)
    return judge.finish(report, args.out)


async def chaos(
    suite: Suite, kills: list[Kill], seed: int, seconds: float, agents: int, directory: Path
) -> dict[str, Any]:
    """Load the suite, kill its services, wait until it rests, and return the report."""
    log, stop, target, begun = ClientLog(), asyncio.Event(), Bank(), time.monotonic()
    opening = await target.balances(suite)
    async with suite.person("omar") as person, asyncio.TaskGroup() as load:
        for number in range(agents):
            load.create_task(agent(suite, number, seed, log, stop))
        load.create_task(auditor(person, log, stop))
        load.create_task(collect.lookout(suite, target, log, stop))
        struck = await strike(kills, suite.deployment.supervisor, log)
        await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))
        stop.set()
    await all_serving(suite.deployment.supervisor)
    async with suite.person("omar") as person:
        verdict = await judge.settled(suite, target, person, log, opening, directory)
    return judge.report(seed, struck, log, verdict)


if __name__ == "__main__":
    sys.exit(main())
