"""A server process whose handlers do nothing, on the suite's own server configuration: the floor of every RPC.

`python -m bench.empty_server DIR --with interceptor|tracing|nothing` reads its certificate and the token key from DIR,
prints its port and serves until it is ended. `GetPlan`, `AppendEntry` and `GetInclusionProof` are the empty unary calls
of an agent, of a service that writes and of one that reads; `AppendStream` answers each batch emptily. `tracing` is the
interceptor with spans for one call in a hundred, which end in an exporter that drops them: what the calls pay, not what
a collector costs. With `--commits DSN` an `AppendEntry` commits COMMITS rows first, one after the other, and does no
more.
"""

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc

from bench.material import DOMAIN, ENVIRONMENT, KID, Material
from counterseal import telemetry
from counterseal.api.audit.v1 import ledger_pb2, reader_pb2
from counterseal.api.executor.v1 import plan_pb2
from counterseal.clock import system_clock
from counterseal.identity import audience
from counterseal.rpc.interceptor import Interceptor
from counterseal.rpc.keys import UnknownKey
from counterseal.rpc.runtime import keep_loaded
from counterseal.rpc.server import ServerConfig, _options
from counterseal.rpc.tls import ServerIdentity
from counterseal.rpc.tracing import Tracing, tracing_over
from counterseal.rpc.txn_token import TokenVerifier
from counterseal.telemetry import TelemetryConfig, TracesConfig

COMMITS = 3


async def get_plan(request: Any, context: Any) -> plan_pb2.GetPlanResponse:
    """An agent's empty unary call."""
    return plan_pb2.GetPlanResponse()


async def append_entry(request: Any, context: Any) -> ledger_pb2.AppendEntryResponse:
    """A service's empty unary call, which reads an entry."""
    return ledger_pb2.AppendEntryResponse()


async def get_inclusion_proof(request: Any, context: Any) -> reader_pb2.GetInclusionProofResponse:
    """A reader's empty unary call."""
    return reader_pb2.GetInclusionProofResponse()


async def append_stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    """An empty answer to each message."""
    async for _ in requests:
        yield ledger_pb2.AppendStreamResponse()


HANDLERS = {
    "counterseal.api.executor.v1.PlanService": {
        "GetPlan": grpc.unary_unary_rpc_method_handler(
            get_plan, plan_pb2.GetPlanRequest.FromString, plan_pb2.GetPlanResponse.SerializeToString
        ),
    },
    "counterseal.api.audit.v1.LedgerReaderService": {
        "GetInclusionProof": grpc.unary_unary_rpc_method_handler(
            get_inclusion_proof,
            reader_pb2.GetInclusionProofRequest.FromString,
            reader_pb2.GetInclusionProofResponse.SerializeToString,
        ),
    },
    "counterseal.api.audit.v1.LedgerService": {
        "AppendEntry": grpc.unary_unary_rpc_method_handler(
            append_entry, ledger_pb2.AppendEntryRequest.FromString, ledger_pb2.AppendEntryResponse.SerializeToString
        ),
        "AppendStream": grpc.stream_stream_rpc_method_handler(
            append_stream, ledger_pb2.AppendStreamRequest.FromString, ledger_pb2.AppendStreamResponse.SerializeToString
        ),
    },
}


def committing(connection: Any) -> Any:
    """The handler of an `AppendEntry` that commits COMMITS rows, each by itself, and answers emptily."""

    async def append_entry(request: Any, context: Any) -> ledger_pb2.AppendEntryResponse:
        for _ in range(COMMITS):
            await connection.execute("INSERT INTO bench_commits (at) VALUES (now())")
        return ledger_pb2.AppendEntryResponse()

    return grpc.unary_unary_rpc_method_handler(
        append_entry, ledger_pb2.AppendEntryRequest.FromString, ledger_pb2.AppendEntryResponse.SerializeToString
    )


async def serve(folder: Path, interceptors: str, commits: str) -> None:
    """Serve until SIGTERM. commits: the database to commit to, empty for none."""
    material = Material.load(folder)

    async def key(kid: str) -> bytes:
        if kid != KID:
            raise UnknownKey(kid)
        return material.public_key

    verifier = TokenVerifier(key, audience=audience(DOMAIN, ENVIRONMENT), clock=system_clock)
    ours = Interceptor(
        trust_domain=DOMAIN,
        environment=ENVIRONMENT,
        verify=verifier.verify,
        clock=system_clock,
        tracing=_tracing() if interceptors == "tracing" else None,
    )
    config = ServerConfig(listen="127.0.0.1:0")
    server = grpc.aio.server(interceptors=[] if interceptors == "nothing" else [ours], options=_options(config))
    handlers: dict[str, dict[str, Any]] = {service: dict(methods) for service, methods in HANDLERS.items()}
    if commits:
        connection = await asyncpg.connect(commits)
        await connection.execute("CREATE TABLE IF NOT EXISTS bench_commits (at timestamptz NOT NULL)")
        handlers["counterseal.api.audit.v1.LedgerService"]["AppendEntry"] = committing(connection)
    for service, methods in handlers.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_secure_port(config.listen, ServerIdentity(material.server).credentials())
    await server.start()
    keep_loaded()
    print(port, flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1)


def _tracing() -> Tracing:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Dropped(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    return tracing_over(Dropped(), {"service": "executor", "environment": ENVIRONMENT}, TracesConfig().ratio)


def main() -> None:
    """Parse and serve; logs, the access log included, go to standard error as in production."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--with", dest="interceptors", choices=("interceptor", "tracing", "nothing"), required=True)
    parser.add_argument(
        "--commits", default="", metavar="DSN", help="commit three times before an AppendEntry is answered"
    )
    arguments = parser.parse_args()
    telemetry.configure(TelemetryConfig(), {"service": "executor", "environment": ENVIRONMENT})
    asyncio.run(serve(arguments.folder, arguments.interceptors, arguments.commits))


if __name__ == "__main__":
    main()
