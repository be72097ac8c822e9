"""Ports for servers on the loopback address."""

import socket

import pytest

from counterseal.embedded import ports


def test_no_port_is_one_that_an_outgoing_connection_may_have() -> None:
    assert max(ports.free_port() for _ in range(50)) < 32_768


def test_a_port_with_a_server_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST", taken)
        monkeypatch.setattr(ports, "_COUNT", 1)
        with pytest.raises(OSError, match="no free port"):
            ports.free_port()
