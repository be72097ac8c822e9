"""A service without methods of its own, run as a process by test_runtime: it proves what every main gets."""

import asyncio
import gc
import signal
import sys
from collections.abc import Sequence

import sqlalchemy as sa

from counterseal.rpc.runtime import Registration, Runtime, run_service


async def build(runtime: Runtime) -> Sequence[Registration]:
    async with runtime.engine.connect() as connection:
        user = await connection.scalar(sa.text("SELECT current_user"))
    signature, kid = await runtime.signer("decision").sign(b"message")
    sys.stdout.write(f"database={user} signature={len(signature)} kid={kid} own={runtime.config}\n")
    sys.stdout.flush()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, say_unfit, runtime)
    if runtime.config.get("crash"):
        runtime.spawn("crash", crash())
    return []


def say_unfit(runtime: Runtime) -> None:
    sys.stdout.write(f"kept={gc.get_freeze_count()} looked at={len(gc.get_objects())}\n")
    sys.stdout.flush()
    runtime.unfit.set()


async def crash() -> None:
    await asyncio.sleep(0.2)
    raise RuntimeError("password=hunter2")


if __name__ == "__main__":
    sys.exit(run_service("policy", build))
