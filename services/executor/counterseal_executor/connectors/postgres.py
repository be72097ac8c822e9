"""PostgreSQL targets: exactly once, without installing anything on them.

One connection and one transaction per call. A write goes

    BEGIN; limits; before (FOR UPDATE); observe again and compare; the one statement; row budget;
    marker = xid, system identifier, timeline; fence.before_commit(marker); COMMIT

so until COMMIT is sent the effect cannot exist, and afterwards the target's own commit log knows it: a lost answer is
decided by `pg_xact_status`, once the credential is verified dead (before that the transaction may still be running).

Trap: after a crash PostgreSQL hands out again the transaction ids that never reached its disk, so `committed` could
speak of another transaction. The marker therefore flushes a WAL record that carries our id before it is stored
(PostgreSQL 17 and later); below 17 `committed` counts only while the server has not been restarted.
Source: the executor's design, section 7; PostgreSQL documentation, "Transaction ID and Snapshot Information".
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from counterseal.canonical import JsonObject, canonical
from counterseal.documents.tool import ToolDescriptor
from counterseal_executor.connectors.base import (
    Answer,
    Applied,
    Attempt,
    Call,
    Credential,
    Fence,
    Observation,
    Probe,
    Refused,
    Target,
    TargetError,
    Unknown,
    Verdict,
    changed_precondition,
    context_of,
    refused_by_fence,
)
from counterseal_executor.connectors.postgres_config import MAX_ROWS, PostgresTool, read_target, read_tool
from counterseal_executor.connectors.postgres_values import NoJsonForm, first_row, rows_of

CONNECT_SECONDS = 10.0
LOCK_SECONDS = 5.0
_FLUSHES_ITS_ID = 17
_LOST = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncio.IncompleteReadError)
_RETRYABLE = ("08", "28", "40", "53", "55P03", "57")
# 28: a login that was revoked meanwhile; the next try borrows another.
_ROLLED_BACK = ("23", "40000", "40001", "40002", "40P01")
# As an answer to COMMIT only these prove that it did not happen; 40003 and class 57 leave it open (a terminated
# backend may already have written its commit record).

_LIMITS = """SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
 set_config('idle_in_transaction_session_timeout', $3, true), set_config('synchronous_commit', 'on', true)"""
_SERVER = """(SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
 substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline, pg_postmaster_start_time()::text AS started"""
_MARKER = f"SELECT pg_current_xact_id()::text AS xid, {_SERVER}"
# Not transactional: only then does PostgreSQL honour the flush; the record carries our id either way.
_FLUSH = "SELECT pg_logical_emit_message(false, 'counterseal', $1, true)"
_STATUS = f"SELECT {_SERVER}, pg_xact_status($1::text::xid8) AS status"


class PostgresConnector:
    """Runs the SQL of a descriptor against a configured database, logged in as the grant's own role."""

    kind = "postgres"

    def check(self, tool: ToolDescriptor) -> None:
        """Refuse a descriptor whose SQL is not complete. Raises InputInvalid with a JSON pointer."""
        read_tool(tool)

    async def observe(self, call: Call, credential: Credential | None) -> Observation:
        """Read the tool's named values in a read-only transaction. Raises TargetError."""
        tool = read_tool(call.tool)
        if tool.observe is None:
            return Observation({})
        row = await self._read_row(tool.observe, call, credential, context_of(call))
        return Observation(dict(row))

    async def verify(self, call: Call, result: JsonObject, credential: Credential | None) -> Verdict:
        """Read the effect back: the statement's one row says `ok`; its other columns are the evidence."""
        tool = read_tool(call.tool)
        if tool.verify is None:
            return Verdict(ok=True, evidence={})
        row = await self._read_row(tool.verify, call, credential, context_of(call, _list(call.before), result))
        return Verdict(ok=row.get("ok") is True, evidence=dict(row))

    async def execute(self, call: Call, credential: Credential | None, fence: Fence) -> Answer:
        """Run the one statement. Refused and Unknown as `base` defines them; never raises but for a cancellation."""
        tool = read_tool(call.tool)
        if call.tool.reads_only:
            try:
                return await asyncio.wait_for(self._query(tool, call, credential), call.timeout_seconds)
            except Exception as error:  # noqa: BLE001 (a read has no effect, whatever went wrong)
                return refusal(error)
        write = _Write(tool, call, credential, fence)
        try:
            return await asyncio.wait_for(write.run(), call.timeout_seconds)
        except Exception as error:  # noqa: BLE001 (every failure is classified by what had been sent)
            return write.explain(error)

    async def probe(self, attempt: Attempt, credential: Credential | None) -> Probe:
        """Ask the target's commit log about a stored transaction id. Any doubt is CANNOT_TELL."""
        marker = attempt.marker
        if marker is None:
            return Probe.ABSENT  # COMMIT is only ever sent after the marker was stored
        try:
            async with asyncio.timeout(attempt.timeout_seconds):
                async with connection(attempt.target, credential) as conn:
                    row = await conn.fetchrow(_STATUS, str(marker["xid"]))
        except (*_LOST, asyncpg.PostgresError, TimeoutError, KeyError, TargetError):
            return Probe.CANNOT_TELL  # also: the id lies in the future, or the server is a standby
        return _status(marker, row)

    async def _query(self, tool: PostgresTool, call: Call, credential: Credential | None) -> Answer:
        async with connection(call.target, credential) as conn, conn.transaction(readonly=True):
            await _limit(conn, call.timeout_seconds)
            rows = await _fetch(conn, tool.execute.sql, call.args, context_of(call), tool.execute.rows_max + 1)
        return _within_budget(tool, rows) or Applied({"rows": rows}, (), {})

    async def _read_row(
        self, sql: str, call: Call, credential: Credential | None, context: JsonObject
    ) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(call.timeout_seconds):
                async with connection(call.target, credential) as conn, conn.transaction(readonly=True):
                    await _limit(conn, call.timeout_seconds)
                    return first_row(await _fetch(conn, sql, call.args, context, 2))
        except Exception as error:  # noqa: BLE001 (whatever it was, there is no answer; its text stays here)
            answer = refusal(error)
            raise TargetError(answer.error_code, answer.message, retryable=answer.retryable) from None


class _Write:
    """One write. Knows how far it came, so that a failure can be called by its right name."""

    def __init__(self, tool: PostgresTool, call: Call, credential: Credential | None, fence: Fence) -> None:
        self._tool = tool
        self._call = call
        self._credential = credential
        self._fence = fence
        self._commit_sent = False

    async def run(self) -> Answer:
        """Do the write. Leaving the connection without COMMIT rolls everything back."""
        async with connection(self._call.target, self._credential) as conn:
            await conn.transaction(isolation="read_committed").start()
            await _limit(conn, self._call.timeout_seconds)
            before = await self._before(conn)
            if len(before) > MAX_ROWS:
                return Refused("ROW_BUDGET", f"more than {MAX_ROWS} rows would change; nothing was kept")
            changed = await self._changed(conn)
            if changed is not None:
                return Refused("PRECONDITION_CHANGED", f"{changed} is no longer as it was when the plan was made")
            context = context_of(self._call, before)
            rows = await _fetch(conn, self._tool.execute.sql, self._call.args, context, self._tool.execute.rows_max + 1)
            over = _within_budget(self._tool, rows)
            if over is not None:
                return over
            output: JsonObject = {"rows": rows}
            marker = await self._marker(conn, before, output)
            try:
                await self._fence.before_commit(marker)
            except Exception as error:  # noqa: BLE001 (whatever the fence's reason is, nothing was committed)
                return refused_by_fence(error)
            self._commit_sent = True
            status = await conn.execute("COMMIT")
        if status != "COMMIT":  # the server answers ROLLBACK when the transaction had failed before
            return Refused("ROLLED_BACK", "the target rolled the transaction back", retryable=True)
        return Applied(output, before, marker)

    def explain(self, error: Exception) -> Answer:
        """Refused while COMMIT had not been sent, or when the target answers that it rolled back; else Unknown."""
        if not self._commit_sent:
            return refusal(error)
        if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_ROLLED_BACK):
            return refusal(error)
        return Unknown("the answer to COMMIT did not arrive")

    async def _before(self, conn: Any) -> list[dict[str, Any]]:
        if self._tool.before is None:
            return []
        return await _fetch(conn, self._tool.before, self._call.args, context_of(self._call), MAX_ROWS + 1)

    async def _changed(self, conn: Any) -> str | None:
        if not self._call.pre:
            return None
        values: Mapping[str, Any] = {}
        if self._tool.observe is not None:
            values = first_row(await _fetch(conn, self._tool.observe, self._call.args, context_of(self._call), 2))
        return changed_precondition(self._call.pre, values)

    async def _marker(self, conn: Any, before: Sequence[Mapping[str, Any]], output: JsonObject) -> JsonObject:
        row = await conn.fetchrow(_MARKER)
        flushed = conn.get_server_version().major >= _FLUSHES_ITS_ID
        if flushed:
            await conn.fetchval(_FLUSH, self._call.attempt_id)
        return dict(row) | {"flushed": flushed, "before": list(before), "output": output}


@asynccontextmanager
async def connection(target: Target, credential: Credential | None) -> AsyncIterator[Any]:
    """Open one connection as the grant's role, and leave none behind, whatever happens."""
    if credential is None:
        raise TargetError("CREDENTIAL_MISSING", "a PostgreSQL target needs a credential")
    place = read_target(target)
    try:
        conn = await asyncpg.connect(
            host=place.host,
            port=place.port,
            database=place.database,
            user=credential.username,
            password=credential.password,
            ssl=place.tls if place.tls is not None else False,
            timeout=CONNECT_SECONDS,
            statement_cache_size=0,
            server_settings={"application_name": "counterseal"},
        )
    except (OSError, TimeoutError) as error:
        raise TargetError("TARGET_UNREACHABLE", "the target cannot be reached", retryable=True) from error
    try:
        yield conn
        await conn.close(timeout=2)
    finally:
        conn.terminate()  # a no-op after close; an open transaction dies with its connection


def refusal(error: Exception) -> Refused:
    """Name a failure by its SQLSTATE or kind. Driver texts stay here: they quote rows, hosts and statements."""
    if isinstance(error, TargetError):
        return Refused(error.error_code, error.message, error.retryable)
    if isinstance(error, NoJsonForm):
        return Refused("OUTPUT_INVALID", str(error))
    if isinstance(error, TimeoutError):
        return Refused("TARGET_TIMEOUT", "the target did not answer in time; nothing was committed", retryable=True)
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).upper()
        state = error.sqlstate
        return Refused(name, f"the target refused with SQLSTATE {state}", state.startswith(_RETRYABLE))
    if isinstance(error, _LOST):
        return Refused("CONNECTION_LOST", "the connection broke before anything was committed", retryable=True)
    return Refused("CONNECTOR_FAILED", f"{type(error).__name__} before anything was committed")


async def _limit(conn: Any, seconds: float) -> None:
    milliseconds = max(1, int(seconds * 1000))
    await conn.fetchrow(_LIMITS, str(milliseconds), str(min(milliseconds, int(LOCK_SECONDS * 1000))), str(milliseconds))


async def _fetch(conn: Any, sql: str, args: Mapping[str, Any], context: JsonObject, most: int) -> list[dict[str, Any]]:
    """Run one prepared statement inside the open transaction; returns at most `most` rows."""
    statement = await conn.prepare(sql)
    kinds = [parameter.name for parameter in statement.get_parameters()]
    if len(kinds) > 2 or any(kind != "jsonb" for kind in kinds):
        raise TargetError("TOOL_INVALID", "a statement takes $1::jsonb and $2::jsonb and nothing else")
    parameters = (canonical(dict(args)).decode(), canonical(context).decode())
    cursor = await statement.cursor(*parameters[: len(kinds)])
    return rows_of(await cursor.fetch(most), statement.get_attributes())


def _within_budget(tool: PostgresTool, rows: Sequence[Mapping[str, Any]]) -> Refused | None:
    count, least, most = len(rows), tool.execute.rows_min, tool.execute.rows_max
    if count < least:
        return Refused("ROWS_MISSING", f"{count} rows instead of at least {least}; nothing was kept")
    if count > most:
        return Refused("ROW_BUDGET", f"more than {most} rows; nothing was kept")
    return None


def _status(marker: Mapping[str, Any], row: Any) -> Probe:
    if row is None or any(row[key] != marker.get(key) for key in ("system_identifier", "timeline")):
        return Probe.CANNOT_TELL  # another server, or one that was promoted: its log is not the one we wrote to
    if row["status"] == "aborted":
        return Probe.ABSENT
    if row["status"] == "committed" and (marker.get("flushed") is True or row["started"] == marker.get("started")):
        return Probe.APPLIED
    return Probe.CANNOT_TELL  # in progress, too old to know, or an id that a crash may have handed out twice


def _list(rows: Sequence[Mapping[str, Any]] | None) -> list[Any] | None:
    return None if rows is None else [dict(row) for row in rows]
