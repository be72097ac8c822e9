"""Runs the demo: prepares the suite, plays the scenes, says what held."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from counterseal.cli import exits
from counterseal.cli.demo import shop, world
from counterseal.cli.demo.proxy import HoldingProxy
from counterseal.cli.demo.scenes import SCENES, Scene
from counterseal.cli.demo.stage import SceneFailed, Stage, prepare
from counterseal.cli.output import complain, emit, say
from counterseal.client import Client
from counterseal.embedded.deployment import AlreadyRunning, Deployment
from counterseal.embedded.ports import LOOPBACK, kept_port
from counterseal.embedded.stack import StackFailed
from counterseal.embedded.supervisor import ServiceFailed
from counterseal.errors import ServiceError

ENVIRONMENT = "prod"


async def show(home: Path, *, only: Sequence[int] | None = None, as_json: bool = False) -> int:
    """Play the scenes and return the exit code: 0 when all hold, 3 when one does not, 1 when nothing started."""
    begun = time.monotonic()
    proxy = HoldingProxy(kept_port(home / "proxy-port"))
    address = {"kind": "postgres", "host": LOOPBACK, "port": proxy.port, "database": "shop"}
    wanted = world.wanted(ENVIRONMENT, {"executor": {"lease_seconds": 3.0, "targets": {shop.ALIAS: address}}})
    deployment = Deployment(home, wanted, lambda text: complain(f"  {text} ..."))
    await proxy.start()
    try:
        running = await deployment.start()
    except (AlreadyRunning, StackFailed, ServiceFailed) as error:
        await proxy.stop()
        print(error, file=sys.stderr)
        return exits.INTERNAL
    try:
        proxy.upstream = (running.target_cluster.host, running.target_cluster.port)
        names = (f"agent-{world.AGENT}", "cli", "operator")
        agent, cli, operator = (Client.open(running.profile(name)) for name in names)
        stage = Stage(deployment, running, proxy, agent, cli, operator)
        try:
            complain("  publishing policy, registering tools ...")
            await prepare(stage)
            complain(f"  ready after {time.monotonic() - begun:.0f} s")
            return await _play(stage, only, as_json=as_json)
        finally:
            await stage.close()
    finally:
        await deployment.stop()
        await proxy.stop()


async def _play(stage: Stage, only: Sequence[int] | None, *, as_json: bool) -> int:
    results = []
    for number, scene in enumerate(SCENES, start=1):
        if only and number not in only:
            continue
        begun = time.monotonic()
        lines, failure = await _one(stage, scene)
        seconds = time.monotonic() - begun
        ok = failure is None
        results.append(
            {
                "scene": number,
                "title": scene.title,
                "ok": ok,
                "lines": lines,
                "failure": failure,
                "seconds": round(seconds, 1),
            }
        )
        if not as_json:
            say(f"[{number}/{len(SCENES)}] {scene.title} ... {'ok' if ok else 'FAILED'}")
            for line in lines if ok else [failure or ""]:
                say(f"      {line}")
    failed = [result for result in results if not result["ok"]]
    if as_json:
        emit({"scenes": results, "ledger": str(stage.running.data_dir / "ledger")})
    elif failed:
        complain(f"{len(failed)} of {len(results)} scenes failed; logs: {stage.running.logs}")
    else:
        say(f"all {len(results)} scenes hold; the ledger is in {stage.running.data_dir / 'ledger'}")
    return exits.REFUSED if failed else exits.OK


async def _one(stage: Stage, scene: Scene) -> tuple[list[str], str | None]:
    try:
        return await scene.play(stage), None
    except SceneFailed as error:
        return [], str(error)
    except ServiceError as error:
        return [], f"{error.reason}: {error.message}"
    except TimeoutError:
        return [], "it did not end in time"
    except Exception as error:  # noqa: BLE001 (the next scene, and the stop of the suite, must still run)
        return [], f"{type(error).__name__}: {error}"
