"""What a PostgreSQL tool and a PostgreSQL target must say about themselves, checked before anything runs."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.documents.fields import Fields
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import InputInvalid
from counterseal_executor.connectors.base import Target

MAX_ROWS = 1000
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_STATEMENT = re.compile(r"(?:\s|--[^\r\n]*[\r\n])*(select|with|insert|update|delete|merge|values)\b", re.IGNORECASE)
# The protocol refuses a second statement; this refuses a first one that would end our transaction (COMMIT, CALL, DO).


@dataclass(frozen=True, slots=True)
class Execute:
    """The one statement of a tool and how many rows it may return: fewer or more, and nothing is kept."""

    sql: str
    rows_min: int
    rows_max: int


@dataclass(frozen=True, slots=True)
class PostgresTool:
    """A descriptor's `connector.config`. Every text takes `$1::jsonb`, the arguments, and `$2::jsonb`, the context."""

    observe: str | None
    before: str | None
    execute: Execute
    verify: str | None


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """Where a database is. `tls` is None only on the loopback interface."""

    host: str
    port: int
    database: str
    tls: ssl.SSLContext | None


def read_tool(tool: ToolDescriptor) -> PostgresTool:
    """Read a descriptor's configuration. Raises InputInvalid with a JSON pointer."""
    fields: Fields[Any] = Fields(tool.connector.config, "/connector/config", InputInvalid)
    statements = {name: _sql(fields, name) for name in ("observe", "before", "verify")}
    part: Fields[Any] = Fields(fields.raw("execute"), "/connector/config/execute", InputInvalid)
    execute = Execute(
        _statement(part), part.integer("rows_min", most=MAX_ROWS), part.integer("rows_max", most=MAX_ROWS)
    )
    if execute.rows_min > execute.rows_max:
        raise part.error("is more than rows_max", "rows_min")
    part.done()
    fields.done()
    if tool.reads_only and statements["before"] is not None:
        raise fields.error("a reading tool (E0) locks nothing", "before")
    if not tool.reads_only and statements["verify"] is None:
        raise fields.error("a writing tool says how its effect is read back", "verify")
    return PostgresTool(statements["observe"], statements["before"], execute, statements["verify"])


def read_target(target: Target) -> PostgresTarget:
    """Read `[executor.targets.<alias>]`: host, port, database, tls ("verify" or "off"), ca_file.

    Raises InputInvalid. `tls = "off"` is accepted for loopback addresses alone, where it is the default.
    """
    settings: Mapping[str, Any] = target.settings
    fields: Fields[Any] = Fields(settings, f"/targets/{target.alias}", InputInvalid)
    host = fields.text("host", most=253)
    port = fields.integer("port", least=1, most=65535)
    database = fields.text("database", most=63)
    tls = fields.one_of("tls", ("verify", "off")) if fields.has("tls") else ("off" if host in _LOOPBACK else "verify")
    ca_file = fields.text("ca_file", most=4096) if fields.has("ca_file") else None
    fields.done()
    if tls == "off":
        if host not in _LOOPBACK:
            raise fields.error("only a loopback address may be reached without TLS", "tls")
        return PostgresTarget(host, port, database, None)
    return PostgresTarget(host, port, database, ssl.create_default_context(cafile=ca_file))


def _sql(fields: "Fields[Any]", name: str) -> str | None:
    if not fields.has(name):
        return None
    part: Fields[Any] = Fields(fields.raw(name), f"/connector/config/{name}", InputInvalid)
    text = _statement(part)
    part.done()
    return text


def _statement(part: "Fields[Any]") -> str:
    text: str = part.text("sql", most=65536)
    if not _STATEMENT.match(text):
        raise part.error("must be one SELECT, WITH, VALUES, INSERT, UPDATE, DELETE or MERGE statement", "sql")
    return text
