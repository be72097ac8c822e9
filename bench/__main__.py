"""`python -m bench [--quick] [SCENARIO ...]`: run scenarios, write build/bench/*.json, print the table.

Exit code 0 when every scenario ran, whatever it measured: a shared machine is no judge. `--strict` makes a missed goal
exit 3. A scenario that fails is 1.
"""

import argparse
import asyncio
import importlib
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from bench import report
from bench.settings import Result, Scenario, Settings, Skipped

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench"
SCENARIOS = (
    "interceptor",
    "tracing",
    "memory",
    "ledger",
    "counts",
    "append",
    "proofs",
    "verifier",
    "replicas",
    "governed",
    "explain",
)


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds: shows that scenarios run")
    parser.add_argument("--strict", action="store_true", help="exit 3 when a goal was missed")
    parser.add_argument("--entries", type=int, help="size of the largest log that is filled (proofs, verifier)")
    parser.add_argument("--keep", type=Path, help="keep filled logs here, and go on with those that lie there")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "scenario", nargs="*", choices=[*SCENARIOS, []], help=f"of {', '.join(SCENARIOS)}; default: all"
    )
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run that is told to stop stops what it started
    figures: list[report.Figure] = []
    failed = False
    for name in arguments.scenario or SCENARIOS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        scenario: Scenario = importlib.import_module(f"bench.scenarios.{name}").run
        work = Path(tempfile.mkdtemp(prefix=f"counterseal-bench-{name}-"))
        work.chmod(0o755)
        settings = Settings(work, arguments.quick, arguments.entries, arguments.keep)
        try:
            result: Result = asyncio.run(scenario(settings))
        except Skipped as skipped:
            print(f"{name}: skipped, {skipped}", file=sys.stderr)
            continue
        except Exception:  # noqa: BLE001 (the other scenarios still run)
            failed = True
            traceback.print_exc()
            print(f"{name}: failed; its logs are in {work}", file=sys.stderr)
            continue
        shutil.rmtree(work, ignore_errors=True)
        report.write(arguments.out, name, result.figures, result.comparisons)
        figures += result.figures
    table = report.table(figures)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "table.md").write_text(table)
    print(table)
    if failed:
        return 1
    return 3 if arguments.strict and any(figure.met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
