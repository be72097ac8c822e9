"""Prepares everything that the four services need, under one data directory, and takes it down again.

Order: PostgreSQL (one cluster for the services and Vault's storage, one for the targets), OpenBao, databases and
roles, `vault setup`, migrations, the development issuer, certificates and profiles of clients, one TOML file per
service. Every step is idempotent, so a warm start repeats them all in seconds; the services themselves are started by
the supervisor on top.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from counterseal import db
from counterseal.canonical import canonical
from counterseal.embedded import configs, tomlfile
from counterseal.embedded.layout import SERVICES, TRUST_DOMAIN, Running, Wanted
from counterseal.embedded.openbao import OpenBao, OpenBaoServer
from counterseal.embedded.ports import LOOPBACK, is_free, kept_port
from counterseal.embedded.postgres import FAST, Cluster, PostgresServer
from counterseal.vault import Vault, provision
from counterseal.vault.postgres import identifier, literal
from counterseal.vault.settings import Postgres, Provision, TenantSettings

Progress = Callable[[str], None]
T = TypeVar("T")

ISSUER_START_SECONDS = 30


class StackFailed(RuntimeError):
    """A part of the stack did not come up."""


class Stack:
    """One embedded stack below `data_dir`. `start` prepares it, `stop` ends what `start` started."""

    def __init__(self, data_dir: Path, wanted: Wanted, progress: Progress = lambda _: None) -> None:
        self._data = data_dir.resolve()
        self._wanted = wanted
        self._progress = progress
        settings = None if wanted.durable else FAST
        self._control = PostgresServer(self._data / "postgres" / "control", settings=settings)
        self._target = PostgresServer(self._data / "postgres" / "targets", settings=settings)
        self._bao: OpenBaoServer | None = None
        self._issuer: subprocess.Popen[bytes] | None = None
        # Starting servers blocks; two threads, so that the clusters start side by side.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="stack")

    async def start(self) -> Running:
        """Prepare the stack; safe to repeat over the same directory. Stops what it started when a step fails."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def renew_profiles(self, running: Running) -> None:
        """Issue the clients' certificates anew; their files are replaced in place."""
        bao = running.openbao
        vault = await Vault.login_approle(
            bao.address, bao.operator_role_id, bao.operator_secret_id, ca_file=bao.ca_file
        )
        try:
            await self._profiles(vault, running)
        finally:
            vault.close()

    async def stop(self) -> None:
        """End the issuer, OpenBao (which seals itself) and both clusters, in this order."""
        issuer, self._issuer = self._issuer, None
        if issuer is not None and issuer.poll() is None:
            issuer.terminate()
            await self._blocking(lambda: _ended(issuer))
        if self._bao is not None:
            await self._blocking(self._bao.stop)
        await asyncio.gather(self._blocking(self._control.stop), self._blocking(self._target.stop))

    async def _start(self) -> Running:
        self._data.mkdir(parents=True, exist_ok=True)
        for folder in ("logs", "ports", "config", "profiles", "secrets", "issuer"):
            (self._data / folder).mkdir(exist_ok=True, mode=0o700)
        self._launch_issuer()  # beside the rest: its first start makes an RSA key
        self._progress("starting PostgreSQL")
        control, targets = await asyncio.gather(self._blocking(self._control.start), self._blocking(self._target.start))
        storage = await self._control_databases(control)
        self._progress("starting OpenBao")
        self._bao = OpenBaoServer(self._data / "openbao", storage)
        bao, _ = await asyncio.gather(self._blocking(self._bao.start), self._target_databases(targets))
        self._progress("provisioning Vault")
        settings = self._settings(control, targets)
        vault = await Vault.login_approle(
            bao.address, bao.operator_role_id, bao.operator_secret_id, ca_file=bao.ca_file
        )
        try:
            await provision.setup(vault, settings)
            self._progress("issuing certificates")
            running = self._running(control, targets, bao, settings)
            await self._profiles(vault, running)
        finally:
            vault.close()
        self._progress("migrating databases")
        for service in SERVICES:  # one after the other: Alembic's context is one per process
            await self._migrate(service, control)
        self._progress("starting the development issuer")
        await self._wait_issuer()
        for service in SERVICES:
            overlay = self._wanted.service_settings.get(service, {})
            own = {**configs.own_table(service, self._wanted, running), **overlay}
            tomlfile.write(running.configs[service], configs.service_tables(service, running, own))
        tomlfile.write(running.vault_settings_file, configs.vault_tables(settings))
        return running

    def _running(self, control: Cluster, targets: Cluster, bao: OpenBao, settings: Provision) -> Running:
        ports = {service: kept_port(self._data / "ports" / service) for service in SERVICES}
        issuer_port = (self._data / "issuer" / "port").read_text().strip()
        return Running(
            environment=self._wanted.environment,
            trust_domain=TRUST_DOMAIN,
            data_dir=self._data,
            configs={service: self._data / "config" / f"{service}.toml" for service in SERVICES},
            addresses={service: f"{LOOPBACK}:{port}" for service, port in ports.items()},
            control=control,
            target_cluster=targets,
            targets={target.alias: targets.dsn(target.database) for target in self._wanted.targets},
            openbao=bao,
            vault_settings=settings,
            vault_settings_file=self._data / "config" / "vault.toml",
            profiles=self._data / "profiles",
            issuer_url=f"https://{LOOPBACK}:{issuer_port}",
            issuer_ca_file=self._data / "issuer" / "issuer.crt",
            issuer_password_file=self._data / "issuer" / "password",
            logs=self._data / "logs",
        )

    def _settings(self, control: Cluster, targets: Cluster) -> Provision:
        tenants: dict[str, TenantSettings] = {name: TenantSettings() for name in self._wanted.tenants}
        server = self._server(targets, self._target)
        for target in self._wanted.targets:
            tenants[target.tenant] = TenantSettings(target.database, server, target.actions)
        return Provision(
            environment=self._wanted.environment,
            trust_domain=TRUST_DOMAIN,
            agents=tuple(self._wanted.agents),
            tenants=tenants,
            services_server=self._server(control, self._control),
            secrets_dir=self._data / "secrets",
        )

    def _server(self, cluster: Cluster, server: PostgresServer) -> Postgres:
        return Postgres(
            cluster.host,
            cluster.port,
            superuser=cluster.user,
            superuser_password_file=server.home / "password",
            sslmode="disable",
        )

    async def _control_databases(self, control: Cluster) -> str:
        """Make the services' roles and databases and OpenBao's storage; return the storage's address."""
        connection = await asyncpg.connect(control.dsn())
        try:
            password = self._secret("openbao/storage-password")
            await _ensure_role(connection, "openbao", password)
            await _ensure_database(connection, "openbao", owner="openbao")
            for service in SERVICES:
                name = f"counterseal_{service}"  # the database, and its runtime role
                await _ensure_role(connection, f"{name}_owner", self._secret(f"{service}/owner-password"))
                await _ensure_role(connection, name, None)
                await _ensure_database(connection, name, owner=f"{name}_owner")
                await connection.execute(f"GRANT CONNECT ON DATABASE {name} TO {name}")
            for part in ("follower", "retention"):
                await _ensure_part(connection, "counterseal_audit", f"counterseal_audit_{part}")
        finally:
            await connection.close()
        return control.dsn("openbao", "openbao", password) + "?sslmode=disable"

    async def _target_databases(self, targets: Cluster) -> None:
        for target in self._wanted.targets:
            connection = await asyncpg.connect(targets.dsn())
            try:
                fresh = await _ensure_database(connection, target.database, owner=targets.user)
            finally:
                await connection.close()
            marker = self._data / "ports" / f"{target.database}.loaded"
            if fresh or not marker.exists():
                connection = await asyncpg.connect(targets.dsn(target.database))
                try:
                    async with connection.transaction():
                        await connection.execute(target.schema)
                finally:
                    await connection.close()
                marker.touch()

    def _secret(self, name: str) -> str:
        file = self._data / "secrets" / name
        if not file.exists():
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(24) + "\n")
        return file.read_text().strip()

    async def _migrate(self, service: str, control: Cluster) -> None:
        config = db.DatabaseConfig(control.host, control.port, f"counterseal_{service}")
        engine = db.owner_engine(config, f"counterseal_{service}_owner", self._secret(f"{service}/owner-password"))
        try:
            await db.migrate(service, engine)
        finally:
            await engine.dispose()

    async def _profiles(self, vault: Vault, running: Running) -> None:
        settings = running.vault_settings
        for role, (uri, dns) in settings.workloads().items():
            if dns:
                continue  # a service: it fetches its own
            issued = await vault.issue_certificate(
                settings.env.pki, role, "", uri, f"{settings.certificate_ttl_seconds}s"
            )
            folder = running.profiles / role
            folder.mkdir(mode=0o700, exist_ok=True)
            for name, text in (("cert.pem", issued.cert_pem), ("key.pem", issued.key_pem), ("ca.pem", issued.ca_pem)):
                file = folder / name
                file.touch(mode=0o600)
                file.write_text(text)
            tomlfile.write(folder / "profile.toml", configs.profile_table(role, self._wanted, running))

    def _launch_issuer(self) -> None:
        home = self._data / "issuer"
        wanted = self._wanted
        users = {
            name: {"roles": list(roles), "tenants": list(wanted.user_tenants.get(name, wanted.tenants))}
            for name, roles in wanted.users.items()
        }
        (home / "users.json").write_bytes(canonical(users))
        _end_leftover(home / "pid")
        port = kept_port(home / "port")
        with (self._data / "logs" / "issuer.log").open("ab") as log:
            self._issuer = subprocess.Popen(
                [sys.executable, "-m", "counterseal.embedded.issuer", "--home", str(home), "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (home / "pid").write_text(f"{self._issuer.pid}\n")

    async def _wait_issuer(self) -> None:
        home = self._data / "issuer"
        port = int((home / "port").read_text())
        deadline = time.monotonic() + ISSUER_START_SECONDS
        while is_free(port) or not (home / "issuer.crt").exists():
            if self._issuer is None or self._issuer.poll() is not None or time.monotonic() > deadline:
                raise StackFailed(f"the development issuer did not start; see {self._data / 'logs' / 'issuer.log'}")
            await asyncio.sleep(0.05)

    async def _blocking(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


async def _ensure_role(connection: Any, name: str, password: str | None) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
        await connection.execute(f"CREATE ROLE {identifier(name)} LOGIN")
    if password is not None:
        await connection.execute(f"ALTER ROLE {identifier(name)} PASSWORD {literal(password)}")


async def _ensure_part(connection: Any, runtime: str, name: str) -> None:
    """Make a role without login that a runtime role may become for a transaction; nothing of it is inherited."""
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
        await connection.execute(f"CREATE ROLE {identifier(name)} NOLOGIN")
    await connection.execute(f"ALTER ROLE {identifier(runtime)} NOINHERIT")
    await connection.execute(f"GRANT {identifier(name)} TO {identifier(runtime)}")


async def _ensure_database(connection: Any, name: str, *, owner: str) -> bool:
    """Return whether the database was made just now. Nobody but its owner and whom we name may connect."""
    if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        return False
    await connection.execute(f"CREATE DATABASE {identifier(name)} OWNER {identifier(owner)} STRATEGY file_copy")
    await connection.execute(f"REVOKE CONNECT, TEMPORARY ON DATABASE {identifier(name)} FROM PUBLIC")
    return True


def _end_leftover(pid_file: Path) -> None:
    """End an issuer whose supervisor was killed; its command line names our home."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"counterseal.embedded.issuer" in command and str(pid_file.parent).encode() in command:
            os.kill(pid, signal.SIGTERM)
            for _ in range(50):
                if not Path(f"/proc/{pid}").exists():
                    return
                time.sleep(0.05)


def _ended(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
