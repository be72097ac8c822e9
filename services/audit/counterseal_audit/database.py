"""Raw asyncpg connections out of SQLAlchemy's pool: the hot path pays for no ORM, the pool is one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from counterseal.errors import LedgerUnavailable

CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's word for a connection that the server is just ending
    asyncpg.DuplicatePreparedStatementError,  # driver and server disagree about what was said
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.ProtocolViolationError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    SQLAlchemyError,
    OSError,
    TimeoutError,
)
"""What leaves open whether a statement took effect, or says that the database cannot be had now."""


@dataclass(slots=True)
class _Snapshot:
    """A transaction that one task holds open for all of its questions; log_id: the log that it names, 0 for none."""

    engine: AsyncEngine
    raw: Any
    task: asyncio.Task[Any] | None
    log_id: int = 0


_TURNS: WeakKeyDictionary[AsyncEngine, asyncio.Semaphore] = WeakKeyDictionary()
"""One turn for each connection of a pool."""

TURN_SECONDS = 10.0
"""How long somebody waits for a connection before the database counts as away."""

_HELD: ContextVar[_Snapshot | None] = ContextVar("snapshot", default=None)

NAME_LOG = "set_config('counterseal.log_id', ({0})::text, true)"
"""Names the log whose rows a transaction sees."""

_DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")


@asynccontextmanager
async def connection(engine: AsyncEngine) -> AsyncIterator[Any]:
    """Borrow one asyncpg connection, in autocommit (READ COMMITTED).

    The pool does not see what the driver raises here, so a lost connection is taken out of it by hand: otherwise a
    restart of PostgreSQL would leave a pool of dead ones. So is one whose user was cancelled: BEGIN or ROLLBACK may be
    under way, and whoever had it next would find itself in a transaction that it did not begin, a read-only one even.

    Who waits first has it first. Inside `snapshot` it is that one's connection, which refuses to write.
    """
    held = _held(engine)
    if held is not None:
        yield held.raw
        return
    turns = await _turn(engine)
    try:
        # From the pool itself: what SQLAlchemy's connections add is used by nobody here, and costs twice the borrowing.
        borrowed: Any = await engine.raw_connection()
        if borrowed.driver_connection.is_closed():
            await greenlet_spawn(borrowed.invalidate)
            borrowed = await engine.raw_connection()
        try:
            yield borrowed.driver_connection
        except (*CONNECTION_LOST, asyncio.CancelledError, GeneratorExit):
            await greenlet_spawn(borrowed.invalidate)
            raise
        except BaseException:
            await greenlet_spawn(borrowed.close)
            raise
        await greenlet_spawn(borrowed.close)
    finally:
        turns.release()


async def _turn(engine: AsyncEngine) -> asyncio.Semaphore:
    """Wait for one's turn to borrow; whoever has it releases it.

    The pool has no order: who gives back and asks again takes it from who waits.
    """
    turns = _TURNS.get(engine)
    if turns is None:
        turns = _TURNS[engine] = asyncio.Semaphore(engine.pool.size())  # type: ignore[attr-defined] # a queue pool
    if turns.locked():
        async with asyncio.timeout(TURN_SECONDS):
            await turns.acquire()
    else:
        await turns.acquire()
    return turns


@asynccontextmanager
async def reading(engine: AsyncEngine, log_id: int) -> AsyncIterator[Any]:
    """Borrow a connection inside a transaction that sees one log, no other's rows, and all of it at one moment.

    The log is named for the transaction only: a setting of the session would leak through the pool. Inside `snapshot`
    the moment is that one's. Raises LedgerUnavailable when the database cannot be had.
    """
    held = _held(engine)
    if held is None:
        async with _moment(engine, log_id) as raw:
            yield raw
        return
    if held.log_id != log_id:
        await held.raw.execute(f"SELECT {NAME_LOG.format('$1::bigint')}", log_id)
        held.log_id = log_id
    yield held.raw


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[None]:
    """Have every question of this task inside answered as of one moment, over one connection in one transaction.

    One question at a time: another task that is begun inside asks for itself. Nothing that waits for something else
    than the database belongs inside. Raises LedgerUnavailable when the database cannot be had.
    """
    async with _moment(engine) as raw:
        token = _HELD.set(_Snapshot(engine, raw, asyncio.current_task()))
        try:
            yield
        finally:
            _HELD.reset(token)


def named(engine: AsyncEngine, log_id: int) -> None:
    """Say that the statement that just ran inside `snapshot` held `NAME_LOG`; elsewhere its effect is over by now."""
    held = _held(engine)
    if held is not None:
        held.log_id = log_id


@asynccontextmanager
async def transaction(raw: Any, begin: str) -> AsyncIterator[None]:
    """Hold a transaction on a borrowed connection; begin: the statements that begin it, in one round trip."""
    await raw.execute(begin)
    try:
        yield
    except (*CONNECTION_LOST, asyncio.CancelledError, GeneratorExit):
        raise  # the connection goes with it
    except BaseException:
        await raw.execute("ROLLBACK")
        raise
    await raw.execute("COMMIT")


_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


@asynccontextmanager
async def _moment(engine: AsyncEngine, log_id: int = 0) -> AsyncIterator[Any]:
    """Hold a transaction that sees one moment; log_id: the log whose rows it sees, in the same round trip."""
    try:
        async with connection(engine) as raw:
            begin = f"{_BEGIN}; SELECT {NAME_LOG.format(int(log_id))}" if log_id else _BEGIN
            async with transaction(raw, begin):
                yield raw
    except CONNECTION_LOST as error:
        raise LedgerUnavailable("the ledger's database does not answer") from error


def _held(engine: AsyncEngine) -> _Snapshot | None:
    held = _HELD.get()
    return held if held is not None and held.engine is engine and held.task is asyncio.current_task() else None


async def unsafe_settings(engine: AsyncEngine) -> list[str]:
    """Return the settings under which PostgreSQL may lose what it acknowledged."""
    async with connection(engine) as raw:
        return [name for name in _DURABILITY if await raw.fetchval("SELECT current_setting($1)", name) == "off"]
