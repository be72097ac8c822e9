"""A relay between the services and OpenBao that keeps every secret that passes, so that a test can look for them.

It shows OpenBao's own certificate on another port, so that services reach it by configuration alone, and changes
nothing on the way. What it keeps lives in the test's memory only.
"""

import base64
import http.client
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterseal.canonical import parse_strict
from counterseal.errors import NotCanonical

SECRET_KEYS = {
    "password": "database password",
    "client_token": "Vault token",
    "token": "wrapping token",
    "accessor": "accessor",
    "wrapped_accessor": "accessor",
    "secret_id": "AppRole secret id",
    "private_key": "private key",
    "lease_id": "lease id",
}
Gate = Callable[[str, str, str], int | None]
"""Called with `before` or `after`, method and path of each call; what it raises ends the caller's connection there, a
status that it returns before a call is the answer, and Vault is not asked."""

MIN_LENGTH = 12
"""Shorter values would be found everywhere; no secret of the suite is that short."""


@dataclass
class Seen:
    """What passed: secret -> what it is."""

    secrets: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, value: object, kind: str) -> None:
        if isinstance(value, str) and len(value) >= MIN_LENGTH:
            with self._lock:
                self.secrets.setdefault(value, kind)

    def document(self, body: bytes) -> dict[str, Any]:
        """Keep every secret of a JSON body, and return it."""
        try:
            document = parse_strict(body) if body else {}
        except NotCanonical:
            return {}
        for key, value in _leaves(document):
            if key in SECRET_KEYS:
                self.note(value, SECRET_KEYS[key])
        return document

    def signature(self, path: str, asked: Mapping[str, Any], answered: Mapping[str, Any]) -> None:
        """Rebuild a txn-token out of what the `ctx` key was asked to sign and its signature."""
        signature = answered.get("data", {}).get("signature") if isinstance(answered.get("data"), dict) else None
        if "/sign/ctx-" not in path or not isinstance(signature, str) or not isinstance(asked.get("input"), str):
            return
        raw = base64.b64decode(signature.rsplit(":", 1)[-1])
        signed = base64.b64decode(asked["input"]).decode()
        self.note(f"{signed}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}", "txn-token")


class VaultTap:
    """Listens at once; connects to the server below `home` (its `port`, `openbao.crt`, `openbao.key`) when called."""

    def __init__(self, home: Path, gate: "Gate | None" = None) -> None:
        self.seen = Seen()
        self._server = _Server(home, self.seen, gate)
        self.address = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, home: Path, seen: Seen, gate: "Gate | None") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gate = gate or (lambda _side, _method, _path: None)
        self.home = home
        self.seen = seen
        self._context: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._context is None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(self.home / "openbao.crt", self.home / "openbao.key")
        connection.settimeout(120)
        wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def upstream(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.home / "openbao.crt"))
        port = int((self.home / "port").read_text())
        return http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A service that is killed breaks its connections: that is what the tests do."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = self.server.upstream()

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def parse_request(self) -> bool:
        """Accept any verb: Vault has LIST."""
        parsed = super().parse_request()
        if parsed:
            setattr(self, f"do_{self.command}", self._relay)
        return parsed

    def _relay(self) -> None:
        seen = self.server.seen
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        seen.note(self.headers.get("X-Vault-Token"), "Vault token")
        asked = seen.document(body)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        status = self.server.gate("before", self.command, self.path)
        if status is not None:
            refusal = b'{"errors":["Vault is sealed"]}'
            self.send_response_only(status)
            self.send_header("content-length", str(len(refusal)))
            self.end_headers()
            self.wfile.write(refusal)
            return
        answer, data = self._ask(body, headers)
        self.server.gate("after", self.command, self.path)
        seen.signature(self.path, asked, seen.document(data))
        self.send_response_only(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(key, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _ask(self, body: bytes, headers: dict[str, str]) -> tuple[http.client.HTTPResponse, bytes]:
        self._upstream.request(self.command, self.path, body, headers)
        answer = self._upstream.getresponse()
        return answer, answer.read()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, key)
    else:
        yield key, value
