"""A client that reconnects slips in during Vault's own revocation; after *verified dead* it never commits.

The trap is rare by nature: Vault's revocation is one transaction, and only between its terminate and its commit does
the login still open. So one attack makes that window as wide as it needs, with what any target may do to it: another
session holds a lock on an object that the login owns, and `DROP OWNED` waits. The control takes the sweep away and
shows that the same attack then commits after the lease is gone, every time.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from counterseal.vault import Login
from counterseal_credentials.grants.settle import Settler
from support.credentials import Desk, desk
from support.openbao import Provisioned
from support.postgres import FreshDatabase, execute
from support.requirements import requirement

ROUNDS = 6
SLIPS = 3
WRITERS = 4


@pytest_asyncio.fixture
async def broker(provisioned: Provisioned, fresh_database: FreshDatabase) -> AsyncIterator[Desk]:
    async with desk(provisioned, fresh_database("credentials")) as made:
        yield made


class Intruder:
    """Holds sessions open, writes in each, and connects again whenever it is thrown out."""

    def __init__(self, provisioned: Provisioned, login: Login) -> None:
        self._dsn = provisioned.cluster.dsn("shop_acme", login.username, login.password)
        self._tasks = [asyncio.create_task(self._write()) for _ in range(WRITERS)]
        self.commits: list[float] = []

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await asyncpg.connect(self._dsn, timeout=2)
                try:
                    while True:
                        await connection.execute("UPDATE orders SET state = 'late' WHERE id = 1")
                        self.commits.append(loop.time())
                finally:
                    connection.terminate()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await asyncio.sleep(0)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _slip_in(broker: Desk, provisioned: Provisioned) -> bool:
    """Open a transaction while the login's revocation is under way; return whether it commits after *verified dead*."""
    case = broker.case()
    _, login = await broker.lend(case)
    dsn = provisioned.cluster.dsn("shop_acme", login.username, login.password)
    first = await asyncpg.connect(dsn)
    large_object = await first.fetchval("SELECT lo_create(0)")
    holder, watcher = [await asyncpg.connect(provisioned.cluster.dsn("shop_acme")) for _ in range(2)]
    try:
        await holder.execute(f"BEGIN; COMMENT ON LARGE OBJECT {large_object} IS 'held'")
        revoking = asyncio.create_task(broker.lender.revoke("acme", case.asked.attempt_id, "RECOVERY", None, 20))
        async with asyncio.timeout(15):
            while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'object'"):
                await asyncio.sleep(0.005)
        assert not await _answers(first), "the revocation has ended every session that it saw"
        late = await asyncpg.connect(dsn, timeout=10)
        await late.execute("BEGIN; UPDATE orders SET state = 'late' WHERE id = 1")
        await holder.execute("COMMIT")
        assert (await revoking).verified_dead
        try:
            await late.execute("COMMIT")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False
        finally:
            late.terminate()
    finally:
        for connection in (first, holder, watcher):
            connection.terminate()
    return True


@requirement("credential:verified-dead")
async def test_a_client_that_slipped_into_the_revocation_does_not_commit_after_verified_dead(
    broker: Desk, provisioned: Provisioned
) -> None:
    assert [await _slip_in(broker, provisioned) for _ in range(SLIPS)] == [False] * SLIPS


async def test_control_without_the_sweep_the_same_client_commits_after_the_lease_is_gone(
    broker: Desk, provisioned: Provisioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_sweep(_tenant: object) -> bool:
        return True

    monkeypatch.setattr(broker.broker, "sweep", no_sweep)
    assert [await _slip_in(broker, provisioned) for _ in range(SLIPS)] == [True] * SLIPS


@requirement("credential:verified-dead")
async def test_after_verified_dead_a_reconnecting_client_never_commits_again(
    broker: Desk, provisioned: Provisioned
) -> None:
    late = 0
    for _ in range(ROUNDS):
        case = broker.case()
        _, login = await broker.lend(case)
        intruder = Intruder(provisioned, login)
        async with asyncio.timeout(15):  # in before the revocation, however busy the machine is
            while not intruder.commits:
                await asyncio.sleep(0.01)
        ended = await broker.lender.revoke("acme", case.asked.attempt_id, "RECOVERY", None, 10)
        verified_at = asyncio.get_running_loop().time()
        assert ended.verified_dead
        await asyncio.sleep(0.2)
        await intruder.stop()
        late += sum(moment > verified_at for moment in intruder.commits)
    assert late == 0


@requirement("credential:verified-dead")
async def test_a_session_that_outlived_its_login_is_ended_by_the_sweep(broker: Desk, provisioned: Provisioned) -> None:
    _, login = await broker.lend(broker.case())
    session = await asyncpg.connect(provisioned.cluster.dsn("shop_acme", login.username, login.password))
    # What a race leaves behind: the role is refused, the session goes on.
    await execute(provisioned.cluster.dsn(), f'ALTER ROLE "{login.username}" NOLOGIN')
    assert await session.fetchval("SELECT 1") == 1
    tenant = broker.environment.tenant("acme")
    assert await broker.broker.sweep(tenant) is False, "the sweep says that it ended something"
    assert await broker.broker.sweep(tenant) is True
    assert not await _answers(session)
    session.terminate()


async def test_the_sweep_spares_live_logins_and_everybody_elses_sessions(
    broker: Desk, provisioned: Provisioned
) -> None:
    _, login = await broker.lend(broker.case())
    mine = await asyncpg.connect(provisioned.cluster.dsn("shop_acme", login.username, login.password))
    other = await asyncpg.connect(provisioned.cluster.dsn("shop_acme"))
    assert await broker.broker.sweep(broker.environment.tenant("acme"))
    assert await mine.fetchval("SELECT 1") == await other.fetchval("SELECT 1") == 1
    await mine.close()
    await other.close()


async def test_a_login_dropped_by_hand_does_not_keep_its_lease_alive(broker: Desk, provisioned: Provisioned) -> None:
    case = broker.case()
    _, login = await broker.lend(case)
    await execute(provisioned.cluster.dsn("shop_acme"), f'DROP OWNED BY "{login.username}"')
    await execute(provisioned.cluster.dsn(), f'DROP ROLE "{login.username}"')
    assert (await broker.lender.revoke("acme", case.asked.attempt_id, "DONE", None, 10)).verified_dead


async def test_a_login_that_owns_objects_and_changed_its_password_dies_all_the_same(
    broker: Desk, provisioned: Provisioned
) -> None:
    case = broker.case()
    _, login = await broker.lend(case)
    session = await asyncpg.connect(provisioned.cluster.dsn("shop_acme", login.username, login.password))
    await session.execute("SET statement_timeout = 0")
    await session.execute(f"ALTER ROLE \"{login.username}\" PASSWORD 'mine'")
    ended = await broker.lender.revoke("acme", case.asked.attempt_id, "DONE", None, 10)
    assert ended.verified_dead
    assert not await _answers(session)
    session.terminate()


async def test_a_settling_run_that_began_earlier_serves_nobody_who_came_later() -> None:
    began: list[int] = []
    release = asyncio.Event()

    async def sweep() -> bool:
        began.append(len(began))
        if len(began) == 1:
            await release.wait()
        return True

    settler = Settler(sweep, pause_seconds=0)
    first = asyncio.create_task(settler.settle())
    await asyncio.sleep(0.01)
    late = [asyncio.create_task(settler.settle()) for _ in range(5)]
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.gather(first, *late)
    assert len(began) == 4, "two sweeps for the first, two more that serve all five"


async def test_settled_means_two_clean_sweeps_in_a_row() -> None:
    answers = iter([True, False, True, True])
    await Settler(lambda: _next(answers), pause_seconds=0).settle()
    assert next(answers, None) is None


async def _next(answers: "object") -> bool:
    return bool(next(answers))  # type: ignore[call-overload]


async def _answers(session: asyncpg.Connection) -> bool:
    try:
        await session.fetchval("SELECT 1")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        return False
    return True
