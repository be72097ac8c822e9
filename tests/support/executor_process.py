"""An executor's workers in a process of their own, to be killed at any moment: `-m support.executor_process JSON`."""

import asyncio
import sys
from pathlib import Path
from typing import Any, cast

import grpc
from sqlalchemy.ext.asyncio import create_async_engine

from counterseal.canonical import parse_strict
from counterseal.rpc.runtime import Runtime
from counterseal_executor.config import ExecutorConfig
from counterseal_executor.connectors.base import Target
from counterseal_executor.main import assemble
from support.executor import FakeBroker, Keys, SmallRuntime


async def work(arguments: dict[str, Any]) -> None:
    channels = {name: grpc.aio.insecure_channel(at) for name, at in arguments["addresses"].items()}
    runtime = SmallRuntime(
        create_async_engine(arguments["database"]), channels, Keys(bytes.fromhex(arguments["public_key"]))
    )
    config = ExecutorConfig(
        targets={"shop": Target("shop", "sim", {"path": str(Path(arguments["world"]))})},
        lease_seconds=1.0,
        recovery_seconds=0.1,
    )
    await assemble(cast("Runtime", runtime), config, FakeBroker())
    await runtime.stopping.wait()


if __name__ == "__main__":
    asyncio.run(work(parse_strict(sys.argv[1])))
