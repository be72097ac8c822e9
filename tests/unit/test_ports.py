"""Ports for servers on the loopback address."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from counterseal.embedded import ports

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ports are reserved on Linux only")


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


def another_process_gets(port: int) -> bool:
    """Whether `free_port` gives this port to another process, when it may choose no other."""
    script = (
        "from counterseal.embedded import ports\n"
        f"ports._LOWEST, ports._COUNT = {port}, 1\n"
        "try:\n    ports.free_port()\nexcept OSError:\n    print('none')\nelse:\n    print('given')"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return done.stdout == "given\n"


@on_linux
def test_a_port_stays_its_process_s_while_no_server_is_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = ports.free_port()
    assert not another_process_gets(port)
    monkeypatch.setattr(ports, "_LOWEST", port)
    monkeypatch.setattr(ports, "_COUNT", 1)
    with pytest.raises(OSError, match="no free port"):
        ports.free_port()
    file = tmp_path / "port"
    file.write_text(f"{port}\n")
    assert ports.kept_port(file) == port, "the process that has it starts its server again"


@on_linux
def test_only_the_ports_given_out_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_KEPT", 1)
    first, second = ports.free_port(), ports.free_port()
    assert another_process_gets(first)
    assert not another_process_gets(second)
