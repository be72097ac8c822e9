"""`python -m chaos.run --seconds S --seed N`: SIGKILLs under load, then the checker.

Exit 0 when the history holds, else 3.

Every kill of every service comes at a moment that the seed decides. The report names the seed; the same seed gives the
same plans and the same kills, though not the same interleaving.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from chaos import collect
from chaos.checker import check
from chaos.load import ClientLog, agent, auditor
from chaos.schedule import Kill, schedule
from counterseal.embedded.layout import SERVICES
from support.postgres import open_directory
from support.suite import Suite, running_suite

AGENTS = 4
SETTLE_SECONDS = 150.0


def main(argv: list[str] | None = None) -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="chaos", description="SIGKILLs under load, then the checker")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=0, help="0: one from the clock")
    parser.add_argument("--each", type=int, default=0, help="kills per service; 0: one per 10 seconds, at least 2")
    parser.add_argument("--agents", type=int, default=AGENTS, help="plans at a time")
    parser.add_argument("--out", type=Path, default=Path("build/chaos"), help="where report and export go")
    args = parser.parse_args(argv)
    seed = args.seed or time.time_ns() % 1_000_000
    each = args.each or max(2, int(args.seconds / 10))
    kills = schedule(seed, args.seconds, each)
    say(f"seed {seed}: {args.seconds:g} s of load by {args.agents} agents, {each} SIGKILLs of each service")
    with open_directory("counterseal-chaos-") as home, running_suite(home, tapped=False) as suite:
        report = asyncio.run(chaos(suite, kills, seed, args.seconds, args.agents, args.out / "ledger"))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    for finding in report["findings"]:
        say(finding)
    say(f"{len(report['findings'])} contradictions in {report['totals']}; {args.out / 'report.json'}")
    return 3 if report["findings"] else 0


async def chaos(
    suite: Suite, kills: list[Kill], seed: int, seconds: float, agents: int, directory: Path
) -> dict[str, Any]:
    """Load the suite, kill its services, wait until it rests, and return the report."""
    log, stop = ClientLog(), asyncio.Event()
    opening = await collect.balances(suite)
    async with suite.person("omar") as person:
        load = [asyncio.create_task(agent(suite, number, seed, log, stop)) for number in range(agents)]
        load.append(asyncio.create_task(auditor(person, log, stop)))
        struck = await nemesis(suite, kills, seconds)
        stop.set()
        await asyncio.gather(*load)
        for service in SERVICES:
            await suite.ready(service)
        return await settled(suite, person, log, opening, directory, seed, struck)


async def nemesis(suite: Suite, kills: list[Kill], seconds: float) -> list[dict[str, Any]]:
    """Kill at the appointed times; a service that is down at its time is struck while it starts."""
    begun = time.monotonic()
    struck: list[dict[str, Any]] = []
    for kill in kills:
        await asyncio.sleep(max(0.0, begun + kill.after_seconds - time.monotonic()))
        running = suite.deployment.supervisor.pid(kill.service) is not None
        await suite.kill(kill.service)
        struck.append({"service": kill.service, "after_seconds": kill.after_seconds, "running": running})
    await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))
    return struck


async def settled(
    suite: Suite,
    person: Any,
    log: ClientLog,
    opening: dict[str, int],
    directory: Path,
    seed: int,
    struck: list[dict[str, Any]],
) -> dict[str, Any]:
    """Judge until the history holds or the time for coming to rest is over; what contradicts itself then stays."""
    begun = time.monotonic()
    while True:
        made, findings = await collect.history(suite, person, log, opening, directory)
        findings += check(made)
        rested = time.monotonic() - begun
        if not findings or rested > SETTLE_SECONDS:
            break
        await asyncio.sleep(2.0)
    states = Counter(f"{plan.state} {plan.reason_code}".rstrip() for plan in made.plans)
    killed = Counter(item["service"] for item in struck if item["running"])
    return {
        "v": 1,
        "seed": seed,
        "kills": struck,
        "rest_seconds": round(rested, 1),
        "findings": findings,
        "answers": dict(log.answers),
        "plan_states": dict(states),
        "totals": {
            "plans": len(made.plans),
            "acknowledged": len(log.acknowledged),
            "effects": len(made.effects),
            "entries": len(made.entries),
            "receipts": len(log.receipts),
            "checkpoints": len(log.checkpoints),
            "kills": dict(killed),
        },
    }


def say(text: str) -> None:
    """Write a line for people."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
