"""gRPC ignores an option that it does not know: each of ours must be one of its own names."""

from importlib import resources

import pytest

from counterseal.rpc import server, tls
from counterseal.rpc.server import ServerConfig


@pytest.fixture(scope="module")
def library() -> bytes:
    folder = resources.files("grpc") / "_cython"
    return next(file for file in folder.iterdir() if file.name.startswith("cygrpc") and ".so" in file.name).read_bytes()


def test_every_option_of_servers_and_channels_is_one_that_grpc_reads(library: bytes) -> None:
    names = [name for name, _ in (*server._options(ServerConfig("127.0.0.1:0")), *tls.CHANNEL_OPTIONS)]
    assert "grpc.http2.min_ping_interval_without_data_ms" in names  # else idle channels are cut off by too_many_pings
    assert [name for name in names if name.encode() + b"\0" not in library] == []
