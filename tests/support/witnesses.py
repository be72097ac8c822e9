"""Witnesses as processes on loopback: the real command, and one that dies at a named point."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from counterseal.canonical import parse_strict
from counterseal.cli import main
from counterseal.cli.witness_server import WitnessKey
from counterseal.ledger.note import VerifierKey

COMMAND = "import sys; from counterseal.cli import main; sys.exit(main(sys.argv[1:]))"

DYING = """
import os, signal, sys
from counterseal.cli import audit_witness, main, witness_server
point = sys.argv.pop(1)

class DyingState(witness_server.State):
    def store(self, head, note):
        if point == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().store(head, note)
        os.kill(os.getpid(), signal.SIGKILL)

witness_server.State = DyingState
sys.exit(main(sys.argv[1:]))
"""
"""The command with a state that kills the process before or after a head is on disk, before the answer leaves."""


@dataclass
class RunningWitness:
    """A witness that serves. `ask` posts a request's bytes; None when the connection died without an answer."""

    process: subprocess.Popen[bytes]
    url: str
    key: VerifierKey

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])

    def ask(
        self, body: bytes, path: str = "/add-checkpoint", method: str = "POST"
    ) -> tuple[int, dict[str, str], bytes] | None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        except OSError:
            return None
        finally:
            connection.close()


def make_key(folder: Path, name: str) -> tuple[Path, VerifierKey]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name.replace('/', '_')}.key"
    if not file.exists():
        assert main(["audit", "witness", "keygen", str(file), "--name", name]) == 0
    return file, WitnessKey.read(file).key


@contextmanager
def witness(
    folder: Path, logs: Sequence[VerifierKey], *, name: str = "w1.example", dies: str = "", more: Sequence[str] = ()
) -> Iterator[RunningWitness]:
    """A witness over `folder`: its key, its state, the logs that it knows. dies: "before" or "after" a head is kept."""
    file, key = make_key(folder, name)
    listed = folder / "logs"
    listed.write_text("".join(f"{log.vkey}\n" for log in logs))
    start = [sys.executable, "-c", DYING, dies] if dies else [sys.executable, "-c", COMMAND]
    argv = ["audit", "witness", "serve", str(file), "--state", str(folder / "state"), "--logs", str(listed)]
    argv += ["--listen", "127.0.0.1:0", "--json", *more]
    with subprocess.Popen([*start, *argv], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "the witness did not start"
            yield RunningWitness(process, str(parse_strict(line)["url"]), key)
        finally:
            process.kill()
