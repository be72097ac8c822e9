"""An empty unary call with the whole interceptor against none, on the same server configuration (goal: >= 0.80).

Both servers: own process, mTLS, the suite's channel options. The subject checks peer, method table, token (cached by
its bytes, expiry on every call), body and deadline, counts, and writes its access log to a file.
"""

from collections.abc import Sequence
from typing import Any

from bench.children import child
from bench.material import NAME, Material
from bench.measure import compare
from bench.report import figure_of
from bench.settings import Result, Settings
from counterseal.api.executor.v1 import plan_pb2, plan_pb2_grpc
from counterseal.rpc.tls import open_channel

GOAL = 0.80
CALLERS = (64, 1)


class EmptyCall:
    """The empty unary call against one server."""

    def __init__(self, name: str, port: int, pid: int, material: Material) -> None:
        self.name = name
        self.pids: Sequence[int] = (pid,)
        self.channel = open_channel(f"127.0.0.1:{port}", material.agent, NAME)
        stub: Any = plan_pb2_grpc.PlanServiceStub(self.channel)
        self._method = stub.GetPlan
        self._request = plan_pb2.GetPlanRequest()
        self._metadata = (("txn-token", material.token),)

    async def call(self, worker: int) -> object:
        """One call, with a deadline as every client sets one."""
        return await self._method(self._request, timeout=10, metadata=self._metadata)


async def run(settings: Settings) -> Result:
    """Compare at 64 callers (throughput) and at one (latency)."""
    work = settings.folder("interceptor")
    material = Material.make(work)
    result = Result()
    async with (
        child(work / "nothing.log", "bench.empty_server", str(work), "--with", "nothing") as bare,
        child(work / "interceptor.log", "bench.empty_server", str(work), "--with", "interceptor") as whole,
    ):
        floor = EmptyCall("no interceptor", bare[1], bare[0], material)
        subject = EmptyCall("interceptor", whole[1], whole[0], material)
        async with floor.channel, subject.channel:
            for callers in CALLERS:
                comparison = await compare("interceptor against none", floor, subject, settings.load(callers))
                result.comparisons.append(comparison)
                result.figures.append(figure_of(comparison, GOAL))
    return result
