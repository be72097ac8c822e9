"""The embedded servers: passwords count, restarts keep data and keys, secrets stay in files of mode 0600."""

import shutil
import stat

import asyncpg
import pytest

from counterseal.embedded.openbao import OpenBao, OpenBaoServer
from counterseal.embedded.postgres import FAST, Cluster, PostgresServer
from counterseal.embedded.reach import closed_parent, running_as_root
from support.postgres import FreshDatabase, execute, off_loop, open_directory


async def test_a_wrong_password_is_refused_by_the_cluster(postgres_cluster: Cluster) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_cluster.dsn(user="postgres", password="wrong"))


async def test_each_fresh_database_starts_empty(fresh_database: FreshDatabase) -> None:
    first, second = fresh_database(None), fresh_database(None)
    connection = await asyncpg.connect(first.dsn)
    await connection.execute("CREATE TABLE seen()")
    await connection.close()
    connection = await asyncpg.connect(second.dsn)
    assert await connection.fetchval("SELECT to_regclass('seen')") is None
    await connection.close()


def test_a_warm_start_keeps_data_port_and_password() -> None:
    with open_directory("counterseal-warm-") as home:
        server = PostgresServer(home / "cluster", settings=FAST)
        first = server.start()
        off_loop(lambda: execute(first.dsn(), "CREATE TABLE kept()"))
        server.stop()
        second = PostgresServer(home / "cluster", settings=FAST)
        again = second.start()
        try:
            assert again == first
            off_loop(lambda: execute(again.dsn(), "SELECT FROM kept"))
        finally:
            second.stop()


def test_a_cluster_left_by_a_killed_supervisor_is_ended_before_the_next_start() -> None:
    with open_directory("counterseal-left-") as home:
        lost = PostgresServer(home / "cluster", settings=FAST)
        lost.start()
        server = PostgresServer(home / "cluster", settings=FAST)
        try:
            off_loop(lambda: execute(server.start().dsn(), "SELECT 1"))
        finally:
            server.stop()
            lost.stop()


def test_openbao_is_initialised_once_and_unsealed_again_after_a_restart(postgres_cluster: Cluster) -> None:
    off_loop(lambda: execute(postgres_cluster.dsn(), "CREATE DATABASE openbao_restart"))
    with open_directory("counterseal-bao2-") as home:
        server = OpenBaoServer(home / "bao", postgres_cluster.dsn("openbao_restart") + "?sslmode=disable")
        first = server.start()
        server.stop()
        second = server.start()
        server.stop()
        assert first.operator_secret_id == second.operator_secret_id
        for secret in ("seal-key", "operator-secret-id", "openbao.key", "config.hcl"):
            assert stat.S_IMODE((home / "bao" / secret).stat().st_mode) == 0o600
        assert first.operator_secret_id.encode() not in server.audit_log.read_bytes()


def test_openbao_speaks_no_plaintext(openbao: OpenBao) -> None:
    import urllib.request

    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(openbao.address.replace("https", "http") + "/v1/secret", timeout=5).read()


@pytest.mark.skipif(not running_as_root(), reason="only root must hand its cluster to another account")
def test_in_a_directory_closed_to_others_roots_cluster_lies_elsewhere_and_goes_with_its_data_directory() -> None:
    with open_directory("counterseal-hidden-") as home:
        hidden = home / "root-home"
        hidden.mkdir(mode=0o700)
        data = hidden / "dev"
        server = PostgresServer(data / "cluster", settings=FAST)
        assert hidden not in server.home.parents
        try:
            first = server.start()
            off_loop(lambda: execute(first.dsn(), "CREATE TABLE kept()"))
            server.stop()
            again = PostgresServer(data / "cluster", settings=FAST)
            warm = again.start()
            off_loop(lambda: execute(warm.dsn(), "SELECT FROM kept"))
            again.stop()
            shutil.rmtree(data)  # a person starts over
            fresh = PostgresServer(data / "cluster", settings=FAST)
            new = fresh.start()
            assert new.password != first.password
            with pytest.raises(asyncpg.UndefinedTableError):
                off_loop(lambda: execute(new.dsn(), "SELECT FROM kept"))
            fresh.stop()
        finally:
            server.stop()
            shutil.rmtree(server.home.parent)


def test_a_closed_parent_is_named() -> None:
    with open_directory("counterseal-closed-") as home:
        hidden = home / "hidden"
        hidden.mkdir(mode=0o700)
        assert closed_parent(hidden / "data") == hidden
        assert closed_parent(home) is None
