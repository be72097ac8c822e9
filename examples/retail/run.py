"""`make tau`: the retail workload through the four real services, compared with its reference.

    python -m examples.retail.run --data DIR --tasks FILE[,FILE] --out FILE

Starts a stack of its own, loads the shop, runs every task's calls as governed plans, exports and verifies the ledger.
FILE `--out` is always written. Exit codes: 0 every task equal in both and the ledger verified, 2 usage, else 3.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.retail import exported, report, stack
from examples.retail.catalogue import TARGET, TENANT, descriptors
from examples.retail.database import ShopDatabase
from examples.retail.governed import CallResult, refused_by, run_task
from examples.retail.report import Ledger, TaskResult
from examples.retail.waves import attribute, waves
from examples.retail.workload import Shop, Task, WorkloadError, read_shop, read_tasks, tool_names

from counterseal.client import AgentRequest, Client, IdentityToken
from counterseal.documents.tool import ToolDescriptor
from counterseal.embedded.deployment import Deployment, in_use
from counterseal.embedded.layout import Running
from counterseal.errors import ServiceError

SHARED = "COUNTERSEAL_SHARED"
"""Names the folder that holds `data/tau-retail`; without it, the folder `shared` beside the repository is looked at."""
MARKER = ".counterseal-tau"
WIDTH = 4
"""Tasks at a time, each on customers of its own."""

Begin = Callable[[Client, IdentityToken], AgentRequest]
"""How a task's request is begun; the chaos run begins one that notes what the client is told."""


def begin(agent: Client, token: IdentityToken) -> AgentRequest:
    """Begin a request of the customer whose token it is."""
    return agent.request(token, tenant=TENANT)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the tasks play on: the stack and the loaded shop."""

    deployment: Deployment
    database: ShopDatabase

    @property
    def running(self) -> Running:
        """The stack's addresses and files."""
        return self.deployment.running


@dataclass
class Run:
    """One run: what was asked for, and what is known so far (also when it is interrupted)."""

    shop: Shop
    tasks: Sequence[Task]
    directory: Path
    export: Path
    width: int
    results: list[TaskResult] = field(default_factory=list)
    ledger: Ledger | None = None
    error: str | None = None
    started: float = field(default_factory=time.monotonic)

    async def go(self) -> None:
        """Run everything; raises what goes wrong, after stopping the stack."""
        async with self.stage() as stage:
            await self.play(stage)
            await self.write_ledger(stage.running)

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[Stage]:
        """Start a stack with the shop's policy, tools and data; stop it afterwards."""
        say(f"starting a stack in {self.directory}")
        deployment = stack.deployment(self.directory, {task.user_id for task in self.tasks}, say)
        running = await deployment.start()
        try:
            await stack.prepare(running)
            database = await ShopDatabase.connect(running.targets[TARGET])
            try:
                await database.load(self.shop)
                say(f"the stack is ready after {self.seconds():.0f} s")
                yield Stage(deployment, database)
            finally:
                await database.close()
        finally:
            await deployment.stop()

    async def play(self, stage: Stage, begin: Begin = begin) -> None:
        """Run every task once, each on untouched data."""
        tools = {tool.name.removeprefix("retail."): tool for tool in descriptors()}
        async with Client.open(stage.running.profile(f"agent-{stack.AGENT}")) as agent:
            for wave in waves(self.tasks, self.shop, self.width):
                calls = await asyncio.gather(*(_task(agent, begin, tools, task) for task in wave))
                shares = attribute(await stage.database.changed_rows(), wave, self.shop)
                await stage.database.reset()
                for task, share, made in zip(wave, shares, calls, strict=True):
                    self._done(TaskResult(task, share, made))

    async def write_ledger(self, running: Running) -> None:
        """Export the tenant's log, verify it and look for what the tasks' calls were told."""
        indexes = [index for r in self.results for c in r.calls for index in (c.intent_index, c.outcome_index)]
        client, auditor = stack.person(running, "ida")
        async with client:
            await exported.export(auditor, self.export, 1 + max((i for i in indexes if i is not None), default=0))
        self.ledger = exported.inspect(self.export, [call for result in self.results for call in result.calls])
        say(f"ledger: {self.ledger.size} entries, {self.ledger.verdict}, in {self.export}")

    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def in_order(self) -> list[TaskResult]:
        """Return the results in the order of the task files."""
        place = {id(task): index for index, task in enumerate(self.tasks)}
        return sorted(self.results, key=lambda result: place[id(result.task)])

    def passed(self) -> bool:
        """Whether everything is as the reference has it."""
        return self.error is None and report.passed(self.results, len(self.tasks), self.ledger)

    def _done(self, result: TaskResult) -> None:
        self.results.append(result)
        verdict = "ok" if result.equal else "DIFFERS"
        say(f"[{len(self.results)}/{len(self.tasks)}] {result.task.id} {len(result.calls)} calls {verdict}")
        for call in result.calls:
            if not call.as_reference:
                say(f"    {call.action.tool}: {call.decision} {call.state} {', '.join(call.reason_codes)}")
        if not result.state_equal:
            say("    the changed rows are not the expected ones")


async def _task(agent: Client, begin: Begin, tools: dict[str, ToolDescriptor], task: Task) -> list[CallResult]:
    try:
        # Logging in blocks for some milliseconds, so it has a thread of its own.
        with ThreadPoolExecutor(1) as pool:
            login = asyncio.get_running_loop().run_in_executor(pool, stack.login, agent.profile, task.user_id)
            token = await login
    except ServiceError as error:  # nobody of that id can sign in
        return [refused_by(action, error) for action in task.actions]
    return await run_task(begin(agent, token), tools, task)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the workload and return the exit code."""
    args = _arguments(argv)
    if args.skip_if_absent and not args.data.exists():
        say(f"skipped: {args.data} does not exist (make tau DATA=dir TASKS=file[,file] OUT=file)")
        return 0
    out: Path = args.out.resolve()
    try:
        report.write(out, report.document([], 0, None, 0.0, "the run did not end"))  # whatever ends it
    except OSError as error:
        say(f"the report cannot be written to {out}: {error.strerror}")
        return 3
    try:
        run = prepared(args.data, args.tasks, out, args.stack, args.width)
    except (WorkloadError, OSError) as error:
        say(str(error))
        report.write(out, report.document([], 0, None, 0.0, str(error)))
        return 3
    try:
        asyncio.run(_until_signal(run))
    except KeyboardInterrupt:
        run.error = "interrupted"
    except ServiceError as error:
        run.error = f"{error.reason}: {error.message}"
    except Exception as error:  # noqa: BLE001 (the report is written whatever happened)
        run.error = f"{type(error).__name__}: {error}"
    finally:
        report.write(out, report.document(run.in_order(), len(run.tasks), run.ledger, run.seconds(), run.error))
    if run.error is not None:
        say(f"failed: {run.error}; the services' logs are in {run.directory / 'logs'}")
    equal = sum(result.equal for result in run.results)
    say(f"{equal} of {len(run.tasks)} tasks equal in {run.seconds():.0f} s; report: {out}")
    return 0 if run.passed() else 3


def say(line: str) -> None:
    """Tell a person how far it is."""
    print(line, file=sys.stderr, flush=True)


def prepared(data: Path, names: str, out: Path, directory: Path, width: int = WIDTH) -> Run:
    """Read the data and the task files (comma separated; none: all) and make room. Raises WorkloadError, OSError."""
    if not data.is_dir():
        raise WorkloadError(f"{data} does not exist or is no folder")
    shop = read_shop(data)
    missing = {f"retail.{name}" for name in tool_names(data)} - {tool.name for tool in descriptors()}
    if missing:
        raise WorkloadError(f"{data / 'tools.json'} names tools that are not here: {', '.join(sorted(missing))}")
    files = names.split(",") if names else sorted(path.name for path in data.glob("tasks-*.json"))
    tasks = [task for name in files if name for task in read_tasks(_task_file(data, name))]
    if not tasks:
        raise WorkloadError("there are no tasks")
    export = out.with_name(f"{out.stem if out.suffix != '.ledger' else out.name}.ledger")
    exported.clear(export)
    _fresh(directory.resolve())
    return Run(shop, tasks, directory.resolve(), export, width)


def _task_file(data: Path, name: str) -> Path:
    return Path(name) if Path(name).exists() else data / name


def _fresh(directory: Path) -> None:
    """Every run has a stack of its own: remove the one that an earlier run left, and nothing else."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER).exists():
            raise WorkloadError(f"{directory} holds something else; name another folder by --stack")
        if in_use(directory):
            raise WorkloadError(f"another run uses {directory}; wait for its end or name another folder by --stack")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARKER).touch()


async def _until_signal(run: Run) -> None:
    """Run, and end tidily on SIGTERM as on Ctrl-C."""
    task = asyncio.create_task(run.go())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def default_data() -> Path:
    """Return where the workload's data is looked for when nobody names a folder."""
    repository = Path(__file__).resolve().parents[2]
    return Path(os.environ.get(SHARED, repository.parent / "shared")) / "data" / "tau-retail"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make tau", description="Run the retail workload through the services.")
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of users, orders, products, tools")
    parser.add_argument("--tasks", default="", help="task files, comma separated; default: all of the data folder")
    parser.add_argument("--out", type=Path, default=Path("build/tau.json"), help="the report")
    parser.add_argument("--stack", type=Path, default=Path("build/tau"), help="folder of the stack, made afresh")
    parser.add_argument("--width", type=int, default=WIDTH, help="tasks at a time, each on customers of its own")
    parser.add_argument("--skip-if-absent", action="store_true", help="exit 0 where the data is not there")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
