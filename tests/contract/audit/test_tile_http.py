"""A log over plain HTTP(S): strangers read it by C2SP paths, and what is not theirs does not exist."""

import asyncio
import hashlib
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from counterseal.config import ConfigError, bind
from counterseal.ledger import tiles
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.verify import verify_log
from counterseal_audit.config import AuditConfig
from counterseal_audit.logs.store import Log
from counterseal_audit.tiles.config import HttpConfig, ReaderConfig
from counterseal_audit.tiles.exporter import Exporter
from counterseal_audit.tiles.http import TileServer
from support.audit import append, replica
from support.certificates import Authority
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.shapes import ENVIRONMENT

T = TypeVar("T")
TOKENS = {"acme": "acme-token-" + "a" * 32, "globex": "globex-token-" + "b" * 32}
FOR_EVER = "private, max-age=31536000, immutable"


@dataclass
class Client:
    """A stranger's client: the standard library's. `certificate`: files to show, none by default."""

    port: int
    ca: Path
    certificate: tuple[str, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes, Any]:
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.certificate is not None:
            context.load_cert_chain(*self.certificate)
        url = f"https://localhost:{self.port}/{path}"
        request = urllib.request.Request(url, headers=self.headers, method=method)
        try:
            with urllib.request.urlopen(request, context=context, timeout=20) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers


@dataclass
class Overseas:
    """A log read over HTTP, as the verifier wants it."""

    client: Client
    name: str

    def read(self, path: str) -> bytes | None:
        code, content, _ = self.client.get(f"{self.name}/{path}")
        assert code in (200, 404), code
        return content if code == 200 else None

    def paths(self, below: str = "tile/") -> Iterable[str]:
        return ()

    def lines(self, path: str) -> None:
        return None


@dataclass
class Site:
    port: int
    folder: Path
    authority: Authority
    logs: dict[str, Log]
    root: Path

    def client(self, tenant: str | None = None, certificate: tuple[str, str] | None = None) -> Client:
        headers = {"Authorization": f"Bearer {TOKENS[tenant]}"} if tenant else {}
        return Client(self.port, self.folder / "ca.pem", certificate, headers)

    def name(self, tenant: str) -> str:
        return self.logs[tenant].origin.rpartition("/")[2]

    def identity(self, label: str, authority: Authority | None = None, **names: Any) -> tuple[str, str]:
        made = (authority or self.authority).issue(**names)
        files = (self.folder / f"{label}.pem", self.folder / f"{label}.key")
        files[0].write_bytes(made.cert_pem)
        files[1].write_bytes(made.key_pem)
        return str(files[0]), str(files[1])


@asynccontextmanager
async def site(fresh_database: FreshDatabase, tmp_path: Path, size: int = 300) -> AsyncIterator[Site]:
    """Two tenants' logs, exported and served over TLS on a free port."""
    authority, folder, root = Authority.create("http root"), tmp_path / "files", tmp_path / "export"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(authority.pem)
    for tenant, token in TOKENS.items():
        (folder / f"{tenant}.tokens").write_text(f"sha256:{hashlib.sha256(token.encode()).hexdigest()}\n")
    with ThreadPoolExecutor(2) as disk:
        async with replica(fresh_database("audit")) as parts:
            exporter = Exporter(root, parts.logs, parts.checkpoints, parts.reader, ENVIRONMENT, disk)
            logs = {}
            for tenant in TOKENS:
                await append(parts, [changed(stream="", tenant=tenant) for _ in range(size)])
                logs[tenant] = await parts.log(tenant)
            await parts.publisher.publish_once()
            for one in logs.values():
                await exporter.bring_up(one)
            made = Site(0, folder, authority, logs, root)
            certificate, key = made.identity("server", dns=["localhost"])
            config = HttpConfig(
                listen="127.0.0.1:0",
                certificate_file=Path(certificate),
                key_file=Path(key),
                client_ca_file=folder / "ca.pem",
                readers={
                    "acme": ReaderConfig(folder / "acme.tokens", ("spiffe://auditor.example/anna",)),
                    "globex": ReaderConfig(folder / "globex.tokens"),
                },
            )
            server = TileServer(config, root, disk)
            runner = await server.start()
            made.port = server.port
            try:
                yield made
            finally:
                await runner.cleanup()


async def off(work: Callable[[], T]) -> T:
    """Run a blocking client beside the server's loop."""
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


@requirement("ledger:read-over-http")
async def test_a_stranger_reads_the_whole_log_and_it_verifies(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with site(fresh_database, tmp_path) as made:
        key: VerifierKey = made.logs["acme"].key
        report = await off(lambda: verify_log(Overseas(made.client("acme"), made.name("acme")), key))
    assert report.findings == ()
    assert (report.size, report.tenant) == (301, "acme")


@requirement("ledger:read-over-http")
async def test_headers_are_those_of_the_layout(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with site(fresh_database, tmp_path) as made:
        name, client = made.name("acme"), made.client("acme")
        for path, kind, caching in (
            ("checkpoint", "text/plain; charset=utf-8", "private, no-cache"),
            ("tile/0/000", "application/octet-stream", FOR_EVER),
            ("tile/0/001.p/45", "application/octet-stream", FOR_EVER),
            ("tile/entries/000", "application/octet-stream", FOR_EVER),
            ("tile/1/000.p/1", "application/octet-stream", FOR_EVER),
        ):
            code, content, headers = await off(lambda path=path: client.get(f"{name}/{path}"))  # type: ignore[misc]
            assert code == 200, path
            assert (headers["Content-Type"], headers["Cache-Control"]) == (kind, caching)
            assert "aiohttp" not in headers["Server"]
            code, nothing, headers = await off(lambda path=path: client.get(f"{name}/{path}", "HEAD"))  # type: ignore[misc]
            assert (code, nothing, int(headers["Content-Length"])) == (200, b"", len(content))
        client.headers["Accept-Encoding"] = "gzip"
        code, packed, headers = await off(lambda: client.get(f"{name}/tile/entries/000"))
        plain = (made.root / "acme" / name / "tile/entries/000").read_bytes()
        assert headers["Content-Encoding"] == "gzip"
        assert len(packed) < len(plain) / 2


@requirement("ledger:read-over-http", "tenant:isolated")
async def test_another_tenants_log_answers_as_one_that_does_not_exist(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with site(fresh_database, tmp_path) as made:
        client = made.client("acme")

        def answers() -> list[tuple[int, bytes]]:
            names = (made.name("globex"), "0" * 32, "..", "globex", f"../globex/{made.name('globex')}")
            paths = ("checkpoint", "vkey", "tile/0/000", "tile/entries/000", "")
            return [client.get(f"{name}/{path}")[:2] for name in names for path in paths]

        assert set(await off(answers)) == {(404, b"Not Found\n")}
        assert (await off(lambda: made.client("globex").get(f"{made.name('globex')}/checkpoint")))[0] == 200


@requirement("ledger:read-over-http")
async def test_without_a_token_or_certificate_nothing_is_said(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with site(fresh_database, tmp_path) as made:
        path = f"{made.name('acme')}/checkpoint"
        bad = [made.client(), made.client(), made.client(), made.client()]
        bad[1].headers["Authorization"] = "Bearer " + TOKENS["acme"][:-1]
        bad[2].headers["Authorization"] = "Basic " + TOKENS["acme"]
        bad[3].headers["Authorization"] = "Bearer sha256:" + hashlib.sha256(TOKENS["acme"].encode()).hexdigest()
        for client in bad:
            for asked in (path, "nonsense/checkpoint"):
                code, content, headers = await off(lambda: client.get(asked))  # noqa: B023
                assert (code, content, headers["WWW-Authenticate"]) == (401, b"Unauthorized\n", "Bearer")
        # A line taken out of the file is a token revoked, at once.
        good = made.client("acme")
        assert (await off(lambda: good.get(path)))[0] == 200
        (made.folder / "acme.tokens").write_text("# none\n")
        assert (await off(lambda: good.get(path)))[0] == 401


@requirement("ledger:read-over-http")
async def test_a_client_certificate_opens_what_its_name_is_listed_for(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with site(fresh_database, tmp_path) as made:
        acme, globex = (f"{made.name(tenant)}/checkpoint" for tenant in ("acme", "globex"))
        anna = made.client(certificate=made.identity("anna", uris=["spiffe://auditor.example/anna"]))
        other = made.client(certificate=made.identity("other", uris=["spiffe://auditor.example/eve"]))
        stranger = Authority.create("another root")
        forged = made.client(certificate=made.identity("forged", stranger, uris=["spiffe://auditor.example/anna"]))
        assert (await off(lambda: anna.get(acme)))[0] == 200
        assert (await off(lambda: anna.get(globex)))[0] == 404
        assert (await off(lambda: other.get(acme)))[0] == 401
        with pytest.raises((urllib.error.URLError, ssl.SSLError, OSError)):
            await off(lambda: forged.get(acme))


@requirement("ledger:read-over-http")
async def test_only_the_paths_of_the_layout_and_only_what_is_signed(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with site(fresh_database, tmp_path) as made:
        name, client = made.name("acme"), made.client("acme")
        home = made.root / "acme" / name
        # What lies in the directory beyond the checkpoint, as a crash may leave it.
        for beyond in (tiles.Tile(0, 1, 46), tiles.Tile(None, 1, 46), tiles.Tile(0, 1, 256), tiles.Tile(0, 7, 256)):
            target = home / beyond.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"unsigned")
            assert (await off(lambda path=beyond.path: client.get(f"{name}/{path}")))[0] == 404  # type: ignore[misc]
        (home / "secret").write_text("secret")
        refused = (
            "secret",
            "tile",
            "tile/",
            "tile/0/0",
            "tile/00/000",
            "tile/0/000/",
            "tile//0/000",
            "tile/0/000.p/256",
            "tile/0/000.p/0",
            "tile/0/000%2ep/44",
            "tile/0/x000/000",
            "./checkpoint",
            "%2e%2e/checkpoint",
            "..%2f..%2fglobex",
            "checkpoint?x=1",
            "checkpoint/",
            "CHECKPOINT",
            ".checkpoint.new",
            "tile/0/" + "x000/" * 200 + "000",
        )
        for path in refused:
            code, content, _ = await off(lambda path=path: client.get(f"{name}/{path}"))  # type: ignore[misc]
            assert (code, content) == (404, b"Not Found\n"), path
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            code, _, headers = await off(lambda method=method: client.get(f"{name}/checkpoint", method))  # type: ignore[misc]
            assert (code, set(headers["Allow"].split(","))) == (405, {"GET", "HEAD"})


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"http": {"listen": "127.0.0.1:0"}}, "needs export.directory"),
        ({"export": {"directory": "/x"}, "http": {"listen": "0.0.0.0:80"}}, "only a loopback address"),
        ({"export": {"directory": "/x"}, "http": {"listen": "80"}}, "expected host:port"),
        ({"http": {"listen": "127.0.0.1:1", "key_file": "/k"}}, "go together"),
        ({"http": {"listen": "127.0.0.1:1", "client_ca_file": "/k"}}, "need TLS"),
        ({"http": {"listen": "127.0.0.1:1", "readers": {"acme": {}}}}, "nobody could read"),
        ({"http": {"listen": "127.0.0.1:1", "readers": {"../x": {"token_file": "/t"}}}}, "not a tenant's name"),
        ({"http": {"listen": "127.0.0.1:1", "readers": {"acme": {"clients": ["x"]}}}}, "needs client_ca_file"),
    ],
)
def test_a_configuration_that_would_leak_or_serve_nobody_is_refused(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        bind(AuditConfig, table, "audit")
