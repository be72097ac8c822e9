"""A small OpenID provider for development: named users, one password, loopback TLS, its own process.

`python -m counterseal.embedded.issuer --home DIR` serves the users of `DIR/users.json` until it is ended:
    GET  /.well-known/openid-configuration, /jwks
    POST /token   form: grant_type=password, client_id, username, password, algorithm? (EdDSA, RS256, ES256)

Whoever can read `DIR/password` (mode 0600) can be any of the users. It stands in for a real identity provider in the
embedded stack only; the token service treats it exactly like one.
"""

import argparse
import hmac
import secrets
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from counterseal.canonical import canonical, parse_strict
from counterseal.clock import Clock, system_clock
from counterseal.embedded import selfsigned
from counterseal.embedded.issuer_keys import ALGORITHMS, IssuerKeys
from counterseal.embedded.ports import LOOPBACK
from counterseal.ids import new_id

AUDIENCE = "counterseal"
LIFE_SECONDS = 900
MAX_BODY = 4096


class LoginRefused(Exception):
    """The user, password, client or algorithm is not accepted; RFC 6749 section 5.2's `error` is the message."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Makes ID tokens. users: name -> claims beside the standard ones, such as `roles`."""

    url: str
    users: Mapping[str, Mapping[str, Any]]
    password: str
    keys: IssuerKeys
    clock: Clock

    def token(self, username: str, password: str, client_id: str, algorithm: str = "EdDSA") -> str:
        """Return an ID token whose `azp` is the client; raises LoginRefused."""
        known = self.users.get(username)
        if not hmac.compare_digest(password.encode(), self.password.encode()) or known is None:
            raise LoginRefused("invalid_grant")
        if not client_id or algorithm not in ALGORITHMS:
            raise LoginRefused("invalid_request")
        now = self.clock() // 1000
        claims = {
            **known,
            "iss": self.url,
            "sub": username,
            "aud": AUDIENCE,
            "azp": client_id,
            "iat": now,
            "exp": now + LIFE_SECONDS,
            "auth_time": now,
            "jti": new_id(),
        }
        return self.keys.sign(claims, algorithm)

    def discovery(self) -> dict[str, Any]:
        """Return the provider's metadata (OpenID Connect Discovery 1.0 section 3)."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks",
            "token_endpoint": f"{self.url}/token",
            "grant_types_supported": ["password"],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": list(ALGORITHMS),
        }


class IssuerServer:
    """The issuer behind TLS on one loopback port. `serve` blocks until `stop` is called from another thread."""

    def __init__(self, home: Path, port: int, *, clock: Clock = system_clock) -> None:
        password = home / "password"
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(24) + "\n")
        users = parse_strict((home / "users.json").read_bytes())
        tls = selfsigned.ensure(home, "issuer", clock)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(tls.certificate, tls.key)
        self._http = ThreadingHTTPServer((LOOPBACK, port), _Handler)
        self.port = int(self._http.server_address[1])
        self.ca_file = tls.certificate
        url = f"https://{LOOPBACK}:{self.port}"
        self.issuer = Issuer(url, users, password.read_text().strip(), IssuerKeys.kept(home / "keys"), clock)
        self._http.RequestHandlerClass = type("Handler", (_Handler,), {"issuer": self.issuer})
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)

    def serve(self) -> None:
        """Answer until stopped."""
        self._http.serve_forever(poll_interval=0.1)
        self._http.server_close()

    def stop(self) -> None:
        """End `serve`."""
        self._http.shutdown()


class _Handler(BaseHTTPRequestHandler):
    issuer: Issuer
    timeout = 10  # a silent client must not hold its thread
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        pages: Mapping[str, Callable[[], dict[str, Any]]] = {
            "/.well-known/openid-configuration": self.issuer.discovery,
            "/jwks": self.issuer.keys.jwks,
        }
        page = pages.get(self.path)
        self._answer(200, page()) if page else self._answer(404, {"error": "not_found"})

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if self.path != "/token" or not 0 < length <= MAX_BODY:
            self._answer(404, {"error": "invalid_request"})
            return
        form = parse_qs(self.rfile.read(length).decode("utf-8", "replace"))
        field = {name: values[0] for name, values in form.items() if len(values) == 1}
        try:
            token = self.issuer.token(
                field.get("username", ""),
                field.get("password", ""),
                field.get("client_id", ""),
                field.get("algorithm", "EdDSA"),
            )
        except LoginRefused as refused:
            self._answer(400, {"error": str(refused)})
            return
        self._answer(200, {"id_token": token, "token_type": "Bearer", "expires_in": LIFE_SECONDS})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = canonical(document)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: the request line could hold what is nobody's business."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="counterseal-dev-issuer", description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args(argv)
    server = IssuerServer(args.home, args.port)

    def end(*_: object) -> None:
        # shutdown() waits for the loop, which runs on this very thread: ask from another one.
        threading.Thread(target=server.stop).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
