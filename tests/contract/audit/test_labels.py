"""What metrics say about calls: method, code and reason out of closed sets, and nothing of anybody's."""

import contextlib

import grpc

from counterseal.api.audit.v1 import ledger_pb2, reader_pb2, reader_pb2_grpc
from counterseal.api.common.v1 import reason_pb2
from counterseal.ids import new_id
from counterseal.rpc.method_table import METHODS
from counterseal.telemetry import RpcMetrics
from support.audit import append_one, audit_server
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement

REASONS = {name.removeprefix("REASON_") for name in reason_pb2.Reason.keys()}  # noqa: SIM118 (an enum wrapper)


class Recording(RpcMetrics):
    """The instruments, and what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[tuple[str, str, str]] = []

    def record(self, method: str, code: str, reason: str, duration_ms: float) -> None:
        self.labels.append((method, code, reason))
        super().record(method, code, reason, duration_ms)


@requirement("tenant:isolated")
async def test_no_label_of_a_metric_holds_anything_of_a_tenant(fresh_database: FreshDatabase) -> None:
    seen = Recording()
    async with audit_server(fresh_database("audit"), publish=False, metrics=seen) as server:
        for tenant in ("acme", "globex"):
            await append_one(server.parts, changed(tenant=tenant, stream=f"plan:of-{tenant}"))
        async with server.channel("cli") as channel, server.channel("svc/executor") as producing:
            stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
            for tenant in ("acme", "globex", "initech"):
                token = (("txn-token", server.token(tenant=tenant)),)
                for request in (
                    reader_pb2.GetEntryRequest(index=1),
                    reader_pb2.GetEntryRequest(tenant="acme", index=1),
                    reader_pb2.GetEntryRequest(event_id=f"{tenant} and free text"),
                    reader_pb2.GetEntryRequest(event_id=new_id()),
                ):
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await stub.GetEntry(request, metadata=token, timeout=10)
                for method in (f"/counterseal.api.{tenant}/Get", f"/{tenant}/{tenant}"):
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await channel.unary_unary(method, bytes, bytes)(b"", metadata=token, timeout=10)
                bad = changed(tenant=tenant)
                bad.stream = tenant
                batch = ledger_pb2.AppendBatchRequest(entries=[bad])
                call = producing.unary_unary(
                    "/counterseal.api.audit.v1.LedgerService/AppendBatch",
                    ledger_pb2.AppendBatchRequest.SerializeToString,
                    ledger_pb2.AppendBatchResponse.FromString,
                )
                await call(batch, timeout=10)
    codes = {code.name for code in grpc.StatusCode}
    assert len(seen.labels) >= 15
    for method, code, reason in seen.labels:
        assert method in METHODS or method == "unlisted", method
        assert code in codes
        assert reason in REASONS or not reason, reason
