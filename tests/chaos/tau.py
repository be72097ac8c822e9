"""`python -m chaos.tau --data DIR --seed N`: SIGKILLs while the retail workload runs, then the checker.

Exit 0 when the history holds and every task is as its reference, else 3; 2 for data that is none, 0 with a word where
nobody names any and none is found.

The tasks are played again and again until all kills have struck. Two judges must be content: the workload's own report
(each task's rows are the reference's, each write has its intent and outcome in the export where the client was told),
and the checker, which compares what a recorder inside the shop's database saw with ledger and clients.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.retail import exported, stack
from examples.retail.run import Run, Stage, default_data, prepared
from examples.retail.workload import WorkloadError

from chaos import collect, judge
from chaos.load import ClientLog, Watched, auditor
from chaos.nemesis import all_serving, strike
from chaos.schedule import Kill, schedule
from chaos.targets import Shop
from counterseal.client import Client, Person
from counterseal.embedded.layout import SERVICES, Running
from support.behind import Behind

ROOT = Path(__file__).resolve().parents[2]
PAUSE_SECONDS = 6.0


def main(argv: list[str] | None = None) -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="chaos.tau", description="the retail workload under SIGKILLs")
    parser.add_argument("--data", type=Path, help="folder of users, orders, products, tools, tasks")
    parser.add_argument("--tasks", default="", help="task files, comma separated; default: all of the data folder")
    parser.add_argument("--seed", type=int, default=0, help="0: one from the clock")
    parser.add_argument("--each", type=int, default=10, help="kills of every service")
    parser.add_argument("--pause", type=float, default=PAUSE_SECONDS, help="mean seconds of peace before a kill")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "chaos-tau", help="where report and stack go")
    args = parser.parse_args(argv)
    data = args.data or default_data()
    if args.data is None and not data.exists():
        judge.say(f"skipped: {data} does not exist (make chaos-tau DATA=dir)")
        return 0
    seed = args.seed or time.time_ns() % 1_000_000
    kills = schedule(seed, args.pause * args.each * len(SERVICES), args.each)
    judge.say(f"seed {seed}: {args.each} SIGKILLs of each service under the retail workload")
    out: Path = args.out.resolve()
    try:
        run = prepared(data, args.tasks, out / "ledger", out / "stack")
    except WorkloadError as error:
        judge.say(str(error))
        return 2
    judge.end_tidily()
    report = asyncio.run(chaos(run, kills, seed, out / "ledger"))
    return judge.finish(report, out)


async def chaos(run: Run, kills: list[Kill], seed: int, directory: Path) -> dict[str, Any]:
    """Play the tasks, kill the services, wait until all rests, and return the report."""
    async with run.stage() as stage:
        log, target, behind = ClientLog(), Shop(), Behind(stage.running)
        await target.record(behind)
        opening = await target.balances(behind)
        rounds, struck = await played(run, stage, kills, log)
        await all_serving(stage.deployment.supervisor)
        async with auditing(stage.running) as person:
            verdict = await judge.settled(behind, target, person, log, opening, directory)
    verdict.findings.extend(differences(rounds, directory))
    tasks = [result for done in rounds for result in done.results]
    return judge.report(
        seed,
        struck,
        log,
        verdict,
        tasks={
            "rounds": len(rounds),
            "played": len(tasks),
            "equal": sum(task.equal for task in tasks),
            "calls": sum(len(task.calls) for task in tasks),
            "writes": sum(call.done and call.action.write for task in tasks for call in task.calls),
        },
    )


async def played(run: Run, stage: Stage, kills: list[Kill], log: ClientLog) -> tuple[list[Run], list[dict[str, Any]]]:
    """Play whole rounds of the tasks until every kill has struck."""
    behind, target, stop = Behind(stage.running), Shop(), asyncio.Event()
    rounds: list[Run] = []
    async with auditing(stage.running) as person, asyncio.TaskGroup() as around:
        around.create_task(auditor(person, log, stop))
        around.create_task(collect.lookout(behind, target, log, stop))
        nemesis = around.create_task(strike(kills, stage.deployment.supervisor, log))
        while not nemesis.done():
            rounds.append(replace(run, results=[]))
            await rounds[-1].play(stage, lambda agent, token: Watched(agent, token, target.tenant, log))
        stop.set()
    return rounds, nemesis.result()


@asynccontextmanager
async def auditing(running: Running) -> AsyncIterator[Person]:
    """Act as an auditor for as long as a run lasts: whoever logged in once at its begin would be nobody at its end."""
    async with Client.open(running.profile("cli")) as client:

        async def login() -> str:
            return await asyncio.get_running_loop().run_in_executor(None, stack.login, client.profile, "ida")

        yield client.person(login, tenant=Shop.tenant)


def differences(rounds: Sequence[Run], directory: Path) -> list[str]:
    """Return what the workload's own report would hold against the run."""
    results = [result for done in rounds for result in done.results]
    found = [
        f"tasks: {result.task.id} of round {number} is not as its reference"
        for number, done in enumerate(rounds, 1)
        for result in done.results
        if not result.equal
    ]
    calls = [call for result in results for call in result.calls]
    writes = sum(call.done and call.action.write for call in calls)
    ledger = exported.inspect(directory, calls)
    if ledger.writes_found != writes:
        found.append(f"tasks: {writes} writes, {ledger.writes_found} in the export where the clients were told")
    return found


if __name__ == "__main__":
    sys.exit(main())
