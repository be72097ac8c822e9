"""Loopback ports that stay the same over restarts where they can."""

import secrets
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST, _COUNT = 15_000, 17_000
"""Below the ports that systems give to outgoing connections: one of those could take the port before its server."""
_TRIES = 100


def free_port() -> int:
    """Return a TCP port that is free on the loopback address at this moment. Raises OSError when none is found."""
    for _ in range(_TRIES):
        port = _LOWEST + secrets.randbelow(_COUNT)
        if is_free(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} from {_LOWEST} to {_LOWEST + _COUNT - 1}")


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
