"""Logs over plain HTTP, at exactly the paths of C2SP tlog-tiles: `/<log>/checkpoint`, `/<log>/tile/...`.

Beside them lie `vkey`, `rotation/<n>` and, for a later shard, the log before it below `predecessor/`.

A reader sees the directories of the tenants that their token or certificate opens and nothing else: another tenant's
log is looked for where it is not, and answers as one that does not exist. Nothing is served that the directory's
checkpoint does not cover.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from counterseal.ledger import tiles
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tiles import CHECKPOINT, VKEY, Tile
from counterseal_audit.reader.export import PREDECESSOR
from counterseal_audit.tiles import engine
from counterseal_audit.tiles.access import Access, names_in
from counterseal_audit.tiles.config import HttpConfig

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"
FOR_EVER = "private, max-age=31536000, immutable"
NEVER = "private, no-cache"
MAX_LINE = 4096
KEEP_ALIVE_SECONDS = 30.0
RELOAD_SECONDS = 60.0
MAX_SHARDS = 64

_ROTATION = re.compile(r"rotation/[1-9][0-9]{0,5}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")

log = logging.getLogger("counterseal.audit.tiles")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of a log as it is served."""

    content: bytes
    content_type: str
    caching: str


def read_asset(folder: Path, path: str, depth: int = 0) -> Asset | None:
    """Return one file of a log; None when the path is none of the layout, or not covered by the checkpoint there."""
    below, _, rest = path.partition("/")
    if below == PREDECESSOR and depth < MAX_SHARDS:
        return read_asset(folder / PREDECESSOR, rest, depth + 1)
    if path in (CHECKPOINT, VKEY) or _ROTATION.fullmatch(path):
        content = _read(folder / path)
        return None if content is None else Asset(content, TEXT, NEVER)
    try:
        tile = tiles.parse_path(path)
        note = _read(folder / CHECKPOINT)
        if note is None or not _covers(engine.head_of(note).size, tile):
            return None
    except VerificationError:
        return None
    content = _read(folder / path)
    return None if content is None else Asset(content, BINARY, FOR_EVER)


def _covers(size: int, tile: Tile) -> bool:
    return tiles.width_at(size, tile.level, tile.index) >= tile.width


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


@dataclass(slots=True)
class TileServer:
    """Serves the export directory `root`. disk: threads for reading files. `port` is bound once `start` returned."""

    config: HttpConfig
    root: Path
    disk: Executor
    port: int = 0
    _access: Access = field(init=False)
    _tls: ssl.SSLContext | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Read who may read what."""
        self._access = Access(self.config.readers)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping`, with the certificate that is on disk."""
        runner = await self.start()
        try:
            while not stopping.is_set():
                try:
                    await asyncio.wait_for(stopping.wait(), RELOAD_SECONDS)
                except TimeoutError:
                    self._reload()
        finally:
            await runner.cleanup()

    async def start(self) -> web.AppRunner:
        """Listen until the runner's `cleanup`. Raises OSError when the address or a file cannot be had."""
        app = web.Application(middlewares=[_answer], client_max_size=1)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            shutdown_timeout=2.0,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
        )
        await runner.setup()
        host, port = self.config.address
        self._tls = _context(self.config)
        site = web.TCPSite(runner, host, port, ssl_context=self._tls)
        await site.start()
        self.port = runner.addresses[0][1]
        log.info("serving logs", extra={"port": self.port})
        return runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        tenants = self._tenants(request)
        if not tenants:
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        name, _, path = request.rel_url.raw_path.removeprefix("/").partition("/")
        asset = None
        if _NAME.fullmatch(name) and not request.rel_url.raw_query_string:
            asset = await asyncio.get_running_loop().run_in_executor(self.disk, self._find, tenants, name, path)
        if asset is None:
            raise web.HTTPNotFound
        response = web.Response(body=asset.content, headers={"Cache-Control": asset.caching})
        response.headers["Content-Type"] = asset.content_type
        if path.startswith("tile/entries/"):
            response.enable_compression()
        return response

    def _tenants(self, request: web.Request) -> list[str]:
        access = self._access
        named = names_in(request.get_extra_info("peercert"))
        return sorted({*access.by_token(request.headers.get("Authorization", "")), *access.by_names(named)})

    def _find(self, tenants: list[str], name: str, path: str) -> Asset | None:
        found = (read_asset(self.root / tenant / name, path) for tenant in tenants)
        return next((asset for asset in found if asset is not None), None)

    def _reload(self) -> None:
        """Show the certificate that is on disk now from the next handshake on; a bad one changes nothing."""
        if self._tls is None:
            return
        try:
            self._tls.load_cert_chain(*_files(self.config))
        except (OSError, ssl.SSLError):
            log.warning("the certificate cannot be read; the present one stays", exc_info=True)


def _context(config: HttpConfig) -> ssl.SSLContext | None:
    """Return TLS as configured. A client certificate may be shown; whether it is enough is the access list's word."""
    if config.certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*_files(config))
    if config.client_ca_file is not None:
        context.load_verify_locations(config.client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _files(config: HttpConfig) -> tuple[str, str]:
    return str(config.certificate_file), str(config.key_file)


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Make every answer plain: no page, no version, no more than the code says; log it, without the token."""
    try:
        response = await handler(request)
    except web.HTTPException as refused:
        kept = {name: refused.headers[name] for name in ("Allow", "WWW-Authenticate") if name in refused.headers}
        response = web.Response(status=refused.status, text=f"{refused.reason}\n", headers=kept)
    except Exception:
        log.exception("a file could not be served")
        response = web.Response(status=500, text="Internal Server Error\n")
    response.headers["Server"] = "counterseal"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Vary"] = "Authorization, Accept-Encoding"
    log.info("http", extra={"http_method": request.method, "path": request.path[:200], "status": response.status})
    return response
