"""Loopback ports that stay the same over restarts where they can."""

import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port that is free on the loopback address at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def kept_port(file: Path) -> int:
    """Return the port written in `file` if it is still free, else a new one, and write it there."""
    if file.exists() and (port := int(file.read_text())) and is_free(port):
        return port
    port = free_port()
    file.write_text(f"{port}\n")
    return port
