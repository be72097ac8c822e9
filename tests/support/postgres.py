"""A real PostgreSQL cluster per test process, and a fresh, migrated database per test.

A database is a copy of a template (`STRATEGY file_copy`, about 40 ms), so locks, commits and constraints are real:
a rollback around the test would hide them.
"""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from counterseal.db import DatabaseConfig, owner_engine
from counterseal.db import migrate as db_migrate
from counterseal.embedded.postgres import FAST, Cluster, PostgresServer

T = TypeVar("T")


PARTS = {"audit": ("counterseal_audit_follower", "counterseal_audit_retention")}
"""Roles that a service's runtime role may become for a transaction, as the stack provisions them."""


@dataclass(frozen=True, slots=True)
class ServiceDatabase:
    """One fresh database: `dsn` has the rights of the service's runtime role, `owner_dsn` its owner's, `admin_dsn` all.

    All are `postgresql://` addresses for asyncpg; `sqlalchemy_url` is the runtime role's for SQLAlchemy.
    """

    name: str
    dsn: str
    owner_dsn: str
    admin_dsn: str

    @property
    def sqlalchemy_url(self) -> str:
        return self.dsn.replace("postgresql://", "postgresql+asyncpg://", 1)


FreshDatabase = Callable[[str | None], ServiceDatabase]
"""fresh_database("audit") -> a migrated copy; fresh_database(None) -> an empty database, all logins the superuser's."""


Backup = Callable[[ServiceDatabase, str], ServiceDatabase]
"""backup(database, "executor") -> a copy of it as it is now."""


def off_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on another thread: fixtures may be used inside a running loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.contextmanager
def open_directory(prefix: str) -> Iterator[Path]:
    """A temporary directory that the server's own account can enter (pytest's own are 0700)."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Databases:
    """Templates and copies inside one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._templates: set[str] = set()
        self._numbers = itertools.count(1)

    def fresh(self, service: str | None) -> ServiceDatabase:
        name = f"t{next(self._numbers)}_{service or 'empty'}"
        admin = self.cluster.dsn()
        if service is None:
            off_loop(lambda: execute(admin, f'CREATE DATABASE "{name}" STRATEGY file_copy'))
            dsn = self.cluster.dsn(name)
            return ServiceDatabase(name, dsn, dsn, dsn)
        if service not in self._templates:
            self._make_template(service)
            self._templates.add(service)
        return self._copied(name, f"template_{service}", service)

    def backup(self, database: ServiceDatabase, service: str) -> ServiceDatabase:
        """Copy a service's database as it is now; nobody may be connected to it."""
        return self._copied(f"t{next(self._numbers)}_{service}", database.name, service)

    def _copied(self, name: str, template: str, service: str) -> ServiceDatabase:
        owner = f"counterseal_{service}_owner"
        statement = f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy OWNER {owner}'
        off_loop(lambda: execute(self.cluster.dsn(), statement))
        return ServiceDatabase(
            name,
            self.cluster.dsn(name, f"counterseal_{service}_test", "runtime"),
            self.cluster.dsn(name, owner, "owner"),
            self.cluster.dsn(name),
        )

    def drop(self, database: ServiceDatabase) -> None:
        off_loop(lambda: execute(self.cluster.dsn(), f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)'))

    def _make_template(self, service: str) -> None:
        owner, runtime, name = f"counterseal_{service}_owner", f"counterseal_{service}", f"template_{service}"
        off_loop(
            lambda: execute(
                self.cluster.dsn(),
                f"CREATE ROLE {owner} LOGIN PASSWORD 'owner'",
                # Provisioning Vault makes the runtime role too (whoever comes first) and rotates its password; tests
                # log in as a member of it, with the same rights and a password of their own.
                f"DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{runtime}') THEN "
                f"CREATE ROLE {runtime} LOGIN; END IF; END $$",
                *(part for name in PARTS.get(service, ()) for part in _part(runtime, name)),
                f"CREATE ROLE {runtime}_test LOGIN PASSWORD 'runtime' IN ROLE {runtime}",
                f'CREATE DATABASE "{name}" OWNER {owner}',
            )
        )
        migrate(service, self.cluster, name, owner)


def _part(runtime: str, name: str) -> tuple[str, ...]:
    missing = f"NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{name}')"
    return (
        f"DO $$ BEGIN IF {missing} THEN CREATE ROLE {name} NOLOGIN; END IF; END $$",
        f"ALTER ROLE {runtime} NOINHERIT",
        f"GRANT {name} TO {runtime}",
    )


def migrate(service: str, cluster: Cluster, name: str, owner: str) -> None:
    """Run a service's Alembic migrations to the head, as its owner role."""

    async def run() -> None:
        engine = owner_engine(DatabaseConfig(cluster.host, cluster.port, name), owner, "owner")
        try:
            await db_migrate(service, engine)
        finally:
            await engine.dispose()

    off_loop(run)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """One running cluster per test process; its superuser's address."""
    with open_directory("counterseal-pg-") as home:
        server = PostgresServer(home / "cluster", settings=FAST)
        cluster = server.start()
        try:
            yield cluster
        finally:
            server.stop()


@pytest.fixture(scope="session")
def _databases(postgres_cluster: Cluster) -> Databases:
    return Databases(postgres_cluster)


@pytest.fixture
def backup(_databases: Databases) -> Iterator[Backup]:
    """A factory of copies of a service's database, dropped after the test: `backup(database, "executor")`."""
    made: list[ServiceDatabase] = []

    def copy(database: ServiceDatabase, service: str) -> ServiceDatabase:
        made.append(_databases.backup(database, service))
        return made[-1]

    yield copy
    for database in made:
        _databases.drop(database)


@pytest.fixture
def fresh_database(_databases: Databases) -> Iterator[FreshDatabase]:
    """A factory of fresh databases, dropped after the test: `fresh_database("audit")`."""
    made: list[ServiceDatabase] = []

    def make(service: str | None = None) -> ServiceDatabase:
        made.append(_databases.fresh(service))
        return made[-1]

    yield make
    for database in made:
        _databases.drop(database)
