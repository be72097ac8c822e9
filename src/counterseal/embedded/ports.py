"""Loopback ports that stay the same over restarts where they can."""

import os
import secrets
import socket
import sys
from collections import OrderedDict
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST, _COUNT = 15_000, 17_000
"""Below the ports that systems give to outgoing connections: one of those could take the port before its server."""
_TRIES = 100
_KEPT = 256
"""How many of the ports given out last nobody else gets: each costs an open file."""

_reserved: OrderedDict[int, int] = OrderedDict()
"""The open file that reserves each port."""


def free_port() -> int:
    """Return a TCP port that is free on the loopback address and that no other process was given here.

    Raises OSError when none is found. The port stays this process's, in between two servers on it too, until the
    process ends or has asked for 256 more; on Linux only, elsewhere it is free at this moment and no more is said.
    """
    for _ in range(_TRIES):
        port = _LOWEST + secrets.randbelow(_COUNT)
        if port not in _reserved and is_free(port) and _reserve(port):
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
    if file.exists() and (port := int(file.read_text())) and is_free(port) and (port in _reserved or _reserve(port)):
        return port
    port = free_port()
    file.write_text(f"{port}\n")
    return port


def _reserve(port: int) -> bool:
    """Keep a port from other processes that ask here. False when one of them has it.

    A server that is started again leaves its port free for a moment. The reservation is a name among Linux's abstract
    sockets: it ends with the process, however that ends, and leaves nothing behind.
    """
    if not sys.platform.startswith("linux"):
        return True
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0counterseal/port/{port}")
    except OSError:
        name.close()
        return False
    _reserved[port] = name.detach()
    while len(_reserved) > _KEPT:
        os.close(_reserved.popitem(last=False)[1])
    return True
