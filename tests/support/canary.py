"""Looks for secrets: in every form in which something may have written them, in everything that somebody may read."""

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

_WORD = re.compile(rb"[A-Za-z0-9+/=_.%:~-]{8,}")
TEXT_TYPES = ("text", "character varying", "bytea", "json", "jsonb", "uuid", "ARRAY", "name", "character")


@dataclass(frozen=True, slots=True)
class Found:
    """A secret's kind, the form it was in, and where. Never the secret."""

    kind: str
    form: str
    where: str


def forms(secret: str) -> dict[str, bytes]:
    """Return the byte strings under which a secret may hide: form -> bytes.

    base64 of a text that begins anywhere differs by alignment: the parts that do not depend on the neighbours are
    searched for, in both alphabets.
    """
    raw = secret.encode()
    found = {
        "raw": raw,
        "URL": urllib.parse.quote(secret, safe="").encode(),
        "JSON": json.dumps(secret)[1:-1].encode(),
        "JSON, twice": json.dumps(json.dumps(secret))[3:-3].encode(),
        "hex": raw.hex().encode(),
        "upper-case hex": raw.hex().upper().encode(),
    }
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + raw)
        inner = text[(0, 2, 3)[offset] : len(text) - len(text) % 4]
        inner = inner.rstrip(b"=")[: -1 if (len(raw) + offset) % 3 else None]
        found[f"base64 at {offset}"] = inner
        found[f"base64url at {offset}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    unique: dict[bytes, str] = {}
    for form, data in found.items():
        unique.setdefault(data, form)
    return {form: data for data, form in unique.items()}


def scan(secrets: Mapping[str, str], places: Iterable[tuple[str, bytes]]) -> list[Found]:
    """Return every hit of every secret (secret -> kind) in every place (name, bytes)."""
    needles = [(kind, form, data) for secret, kind in secrets.items() for form, data in forms(secret).items()]
    return [
        Found(kind, form, where)
        for where, content in places
        for kind, form, data in needles
        if data and data in content
    ]


def files_below(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every readable file of these folders (or these files), by path."""
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if path.is_file():
                yield str(path), path.read_bytes()


def processes(pids: Iterable[int | None]) -> Iterator[tuple[str, bytes]]:
    """Yield command lines and environments: what `ps` and a crash report show."""
    for pid in pids:
        for name in ("cmdline", "environ"):
            yield f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes()


async def tables(dsn: str, database: str, skip: frozenset[str] = frozenset()) -> list[tuple[str, bytes]]:
    """Return the content of every text-like column of a database, `database.table.column` -> bytes, but for `skip`."""
    connection = await asyncpg.connect(dsn)
    try:
        columns = await connection.fetch(
            "SELECT c.table_schema, c.table_name, c.column_name FROM information_schema.columns c "
            "JOIN information_schema.tables t USING (table_schema, table_name) "
            "WHERE t.table_type = 'BASE TABLE' AND c.table_schema NOT IN ('pg_catalog', 'information_schema') "
            "AND c.data_type = ANY($1::text[]) ORDER BY 1, 2, 3",
            list(TEXT_TYPES),
        )
        found = []
        for schema, table, column in columns:
            name = f"{database}.{table}.{column}"
            if name in skip:
                continue
            rows = await connection.fetch(f'SELECT "{column}" AS value FROM "{schema}"."{table}"')
            content = b"\n".join(_bytes(row["value"]) for row in rows)
            found.append((name, content))
        return found
    finally:
        await connection.close()


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
