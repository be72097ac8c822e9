"""Metrics arrive at a collector over TLS: a real export into a real gRPC server that speaks OTLP."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc

from counterseal.clock import system_clock
from counterseal.embedded import selfsigned
from counterseal.telemetry import RPC_COUNT, TelemetryConfig, TelemetryError, export_metrics

# A process of its own: the SDK's provider is global and can be set once.
EXPORTER = """
import sys
from pathlib import Path
from counterseal.telemetry import RpcMetrics, TelemetryConfig, export_metrics
flush = export_metrics(
    TelemetryConfig(otlp_endpoint=sys.argv[1], otlp_ca_file=Path(sys.argv[2])),
    {"service": "policy", "environment": "prod"},
)
RpcMetrics().record("/counterseal.api.policy.v1.DecisionService/Decide", "OK", "", 1.5)
flush()
"""


class Collector(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (the method of the proto)
        self.requests.append(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[Collector, str, Path]]:
    files = selfsigned.ensure(tmp_path, "collector", system_clock)
    credentials = grpc.ssl_server_credentials([(files.key.read_bytes(), files.certificate.read_bytes())])
    server, service = grpc.server(futures.ThreadPoolExecutor(2)), Collector()
    add: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
    add(service, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield service, f"https://localhost:{port}", files.certificate
    server.stop(None).wait()


def test_a_call_is_counted_at_the_collector_under_the_services_name(
    collector: tuple[Collector, str, Path],
) -> None:
    service, endpoint, ca_file = collector
    subprocess.run([sys.executable, "-c", EXPORTER, endpoint, str(ca_file)], check=True, timeout=60)
    (resource,) = service.requests[0].resource_metrics
    names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert (names["service.name"], names["deployment.environment.name"]) == ("counterseal-policy", "prod")
    counted = [metric for scope in resource.scope_metrics for metric in scope.metrics if metric.name == RPC_COUNT]
    assert counted[0].sum.data_points[0].as_int == 1


def test_a_collector_that_is_away_costs_its_metrics_and_nothing_else(tmp_path: Path) -> None:
    ca_file = selfsigned.ensure(tmp_path, "nobody", system_clock).certificate
    command = [sys.executable, "-c", EXPORTER, "https://127.0.0.1:9", str(ca_file)]
    assert subprocess.run(command, check=False, timeout=60, capture_output=True).returncode == 0


def test_a_collector_that_nothing_vouches_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be https"):
        TelemetryConfig(otlp_endpoint="http://collector:4317", otlp_ca_file=tmp_path)
    with pytest.raises(ValueError, match="with otlp_ca_file"):
        TelemetryConfig(otlp_endpoint="https://collector:4317")
    missing = TelemetryConfig(otlp_endpoint="https://collector:4317", otlp_ca_file=tmp_path / "absent")
    with pytest.raises(TelemetryError, match="otlp_ca_file"):
        export_metrics(missing, {"service": "policy", "environment": "prod"})
