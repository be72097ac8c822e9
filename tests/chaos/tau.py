"""`python -m chaos.tau --data DIR --seed N`: the retail workload while its services are killed. Exit 0 when it holds.

The workload's own report is the judge: every task's rows are the reference's (so no effect was lost, happened twice or
stood where the plan said that it did not), every call of a task has its intent and outcome in the export, at the places
that the client was told, and the export verifies. Kills go by the supervisor's pid files, from outside.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from counterseal.embedded.layout import SERVICES

ROOT = Path(__file__).resolve().parents[2]


def main(argv: list[str] | None = None) -> int:
    """Run the workload, strike while it runs, and judge."""
    parser = argparse.ArgumentParser(prog="chaos.tau", description="the retail workload under SIGKILLs")
    parser.add_argument("--data", type=Path, required=True, help="folder of users, orders, products, tools, tasks")
    parser.add_argument("--tasks", default="", help="task files, comma separated; default: all of the data folder")
    parser.add_argument("--seed", type=int, default=0, help="0: one from the clock")
    parser.add_argument("--each", type=int, default=10, help="kills of every service")
    parser.add_argument("--pause", type=float, default=4.0, help="mean seconds between two kills")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "chaos-tau", help="where report and stack go")
    args = parser.parse_args(argv)
    seed = args.seed or time.time_ns() % 1_000_000
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    report, stack = out / "report.json", out / "stack"
    command = [sys.executable, "-m", "examples.retail.run", "--data", str(args.data.resolve())]
    command += ["--out", str(report), "--stack", str(stack)] + (["--tasks", args.tasks] if args.tasks else [])
    say(f"seed {seed}: {args.each} SIGKILLs of each service, one every {args.pause:g} s or so")
    with subprocess.Popen(command, cwd=ROOT) as run:
        struck = nemesis(run, stack, random.Random(seed), args.each, args.pause)
        code = run.wait()
    tasks = json.loads(report.read_text())["tasks"]
    equal = sum(task["state_equal"] and task["refused_as_reference"] for task in tasks)
    say(f"{equal} of {len(tasks)} tasks equal after {dict(struck)} kills; exit code {code}; {report}")
    return code


def nemesis(
    run: "subprocess.Popen[bytes]", stack: Path, chance: random.Random, each: int, pause: float
) -> Counter[str]:
    """Kill in a shuffled order, from when all services run until the kills or the run are over."""
    order = [service for service in SERVICES for _ in range(each)]
    chance.shuffle(order)
    struck: Counter[str] = Counter()
    while run.poll() is None and not all((stack / "run" / f"{service}.pid").exists() for service in SERVICES):
        time.sleep(0.2)
    time.sleep(10)  # the shop is being loaded and its policy activated: not yet the workload
    while order and run.poll() is None:
        time.sleep(chance.uniform(0.5, 1.5) * pause)
        if run.poll() is None and strike(stack, order[-1]):
            struck[order.pop()] += 1
    return struck


def strike(stack: Path, service: str) -> bool:
    """Send SIGKILL to the service whose command line names this stack; tell whether there was one."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((stack / "run" / f"{service}.pid").read_text())
        if str(stack / "config" / f"{service}.toml").encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def say(text: str) -> None:
    """Write a line for people."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
