"""The recorder in the shop's database: what it sees of a login's writes, and that the login cannot get at it."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from examples.retail.database import ShopDatabase

from chaos.history import Effect
from chaos.targets import WRITTEN, install, transactions
from support.postgres import FreshDatabase, execute
from support.retail import small_shop

LOGIN = "g-0192f000000070008000000000000001-abcdefgh"


@pytest.fixture
async def shop(fresh_database: FreshDatabase) -> AsyncIterator[tuple[str, Any]]:
    """The owner's address of a recorded shop, and a connection of a grant's login."""
    dsn = fresh_database(None).dsn
    await execute(dsn, f"CREATE ROLE \"{LOGIN}\" LOGIN PASSWORD 'lent'")
    owner = await ShopDatabase.connect(dsn)
    await owner.create([LOGIN])
    await owner.load(small_shop())
    await owner.close()
    await install(dsn)
    login = await asyncpg.connect(dsn, user=LOGIN, password="lent")
    yield dsn, login
    await login.close()
    await execute(dsn, f'DROP OWNED BY "{LOGIN}"', f'DROP ROLE "{LOGIN}"')


async def recorded(dsn: str) -> list[Effect]:
    connection = await asyncpg.connect(dsn)
    try:
        return transactions(await connection.fetch(WRITTEN))
    finally:
        await connection.close()


async def test_one_transaction_is_one_effect_of_its_login_with_every_row_it_moved(shop: tuple[str, Any]) -> None:
    dsn, login = shop
    async with login.transaction():
        await login.execute("UPDATE retail.orders SET version = version + 1 WHERE order_id = '#P1'")
        await login.execute("UPDATE retail.orders SET version = version + 1 WHERE order_id = '#P1'")
        await login.execute("UPDATE retail.users SET version = version + 1 WHERE user_id = 'ana'")
    await login.execute("UPDATE retail.orders SET version = version + 1 WHERE order_id = '#P2'")
    both, single = await recorded(dsn)
    assert (both.login, both.moves) == (LOGIN, {"orders #P1": 2, "users ana": 1})
    assert (single.login, single.moves) == (LOGIN, {"orders #P2": 1})
    assert both.effect_key != single.effect_key
    assert both.begin_ms <= both.end_ms <= single.end_ms


async def test_the_end_is_the_commits_time_and_the_begin_the_transactions(shop: tuple[str, Any]) -> None:
    dsn, login = shop
    async with login.transaction():
        await login.execute("UPDATE retail.orders SET version = version + 1 WHERE order_id = '#P1'")
        await login.execute("SELECT pg_sleep(0.2)")
    (effect,) = await recorded(dsn)
    assert effect.end_ms - effect.begin_ms >= 200


async def test_what_is_rolled_back_is_no_effect(shop: tuple[str, Any]) -> None:
    dsn, login = shop
    await login.execute("BEGIN; UPDATE retail.orders SET version = version + 1 WHERE order_id = '#P1'; ROLLBACK")
    assert await recorded(dsn) == []


async def test_a_login_can_neither_read_nor_change_nor_switch_off_the_record(shop: tuple[str, Any]) -> None:
    _, login = shop
    for statement in (
        "SELECT * FROM recorder.written",
        "DELETE FROM recorder.written",
        "ALTER TABLE retail.orders DISABLE TRIGGER recorder",
        "SET session_replication_role = replica",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.execute(statement)


async def test_the_owners_own_writes_are_no_effects(shop: tuple[str, Any]) -> None:
    dsn, login = shop
    await login.execute("UPDATE retail.orders SET version = version + 1 WHERE order_id = '#P1'")
    owner = await ShopDatabase.connect(dsn)
    await owner.reset()
    await owner.close()
    assert [effect.moves for effect in await recorded(dsn)] == [{"orders #P1": 1}]
