"""Load and correctness together against a real stack. Exit code 0: everything held; 3: a contradiction.

make hammer HAMMER="--goal 200000"              write 200,000 entries, then verify everything
make hammer HAMMER="--goal 100000 --replicas 3 --kills 100 --kill-every 1"
make hammer HAMMER="--rate 500 --seconds 600"   a steady load for ten minutes
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bench.hammer.run import Settings, hammer
from bench.report import machine

DEFAULTS = Settings()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="hammer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--replicas", type=int, default=DEFAULTS.replicas, help="audit processes over one database")
    add("--streams", type=int, default=DEFAULTS.streams, help="writers on streams")
    add("--unary", type=int, default=DEFAULTS.unary, help="lock-step writers, one entry a call")
    add("--batch", type=int, default=DEFAULTS.batch, help="entries a stream message")
    add("--window", type=int, default=DEFAULTS.window, help="messages in flight on a stream")
    add("--rate", type=float, help="entries a second of all writers together; default: no limit")
    add("--goal", type=int, default=0, help="stop after so many acknowledged entries, and verify")
    add("--seconds", type=float, default=DEFAULTS.seconds, help="without a goal: how long to write")
    add("--kills", type=int, default=0, help="SIGKILLs of replicas, each then started again")
    add("--kill-every", type=float, default=DEFAULTS.kill_every, metavar="S", help="seconds between two kills")
    add("--duplicates", type=float, default=DEFAULTS.duplicates, help="share of requests that were sent before")
    add("--reuses", type=float, default=DEFAULTS.reuses, help="share of requests that misuse an earlier event id")
    add("--random-readers", type=int, default=DEFAULTS.random_readers)
    add("--no-full-reader", action="store_true", help="verify no whole exports beside the load, only the last one")
    add("--seed", type=int, default=DEFAULTS.seed, help="decides traffic and kills, though not how they interleave")
    add("--no-fsync", action="store_true", help="do not wait for the disk: processes are killed, not the machine")
    add("--json", type=Path, metavar="FILE", help="write the report there too")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run, report, judge."""
    args = parser().parse_args(argv)
    settings = Settings(
        replicas=args.replicas,
        streams=args.streams,
        unary=args.unary,
        random_readers=args.random_readers,
        full_readers=not args.no_full_reader,
        batch=args.batch,
        window=args.window,
        rate=args.rate,
        goal=args.goal,
        seconds=args.seconds,
        kills=args.kills,
        kill_every=args.kill_every,
        duplicates=args.duplicates,
        reuses=args.reuses,
        seed=args.seed,
        durable=not args.no_fsync,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run that is told to stop stops what it started
    work = Path(tempfile.mkdtemp(prefix="counterseal-hammer-"))
    work.chmod(0o755)
    report = asyncio.run(hammer(settings, work))
    text = json.dumps({**report, "machine": machine()}, indent=1) + "\n"
    print(text, end="")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)
    if report["contradictions"]:
        print(f"contradictions; data and logs are left in {work}", file=sys.stderr)
        return 3
    shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
