"""An HTTP server of a log on loopback that can be told to lie. Real sockets, standard library."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class LyingServer:
    """Serves `files` below `/log/`; `status` answers so to everything, `token` is demanded where set."""

    files: dict[str, bytes]
    url: str = ""
    status: int = 200
    token: str = ""
    cut: int = 0
    """How many bytes of each body are not sent though they are announced."""
    gzipped: bool = False
    asked: list[str] = field(default_factory=list)

    def show(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[LyingServer]:
    lying = LyingServer(dict(files))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.removeprefix("/log/")
            lying.asked.append(path)
            body = lying.files.get(path)
            status = lying.status if lying.status != 200 else 200 if body is not None else 404
            if lying.token and self.headers.get("Authorization") != f"Bearer {lying.token}":
                status = 401
            content = body if status == 200 and body is not None else b""
            self.send_response(status)
            if lying.gzipped and status == 200:
                import gzip

                content = gzip.compress(content)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - lying.cut])
            if lying.cut:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # readers that go away are part of the tests
    lying.url = f"http://127.0.0.1:{server.server_address[1]}/log"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield lying
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
