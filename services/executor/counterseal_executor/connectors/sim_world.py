"""The file behind the `sim` connector: objects, an effect log, and the script of what will go wrong."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterseal.canonical import JsonObject, canonical, parse_strict

ACTIONS = ("refuse", "lose_request", "lose_answer", "delay", "crash_before", "crash_after")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS object (key TEXT PRIMARY KEY, value TEXT NOT NULL, version INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS effect (seq INTEGER PRIMARY KEY AUTOINCREMENT, effect_key TEXT NOT NULL,
  attempt_id TEXT NOT NULL, tool TEXT NOT NULL, key TEXT NOT NULL, output TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS script (id INTEGER PRIMARY KEY AUTOINCREMENT, tool TEXT NOT NULL, action TEXT NOT NULL,
  seconds REAL NOT NULL, detail TEXT NOT NULL, retryable INTEGER NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the next call of a tool. `seconds` is the length of a delay, `detail` a refusal's error code."""

    action: str
    seconds: float = 0.0
    detail: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One object of the world; `version` counts its changes."""

    value: Any
    version: int


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of the effect log: what really happened, in order."""

    effect_key: str
    attempt_id: str
    tool: str
    key: str
    output: JsonObject


class SimWorld:
    """A world in `path`, made on first use. Every method is one SQLite transaction; safe across processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> Item | None:
        """Return an object, or None."""
        with self._open() as db:
            row = db.execute("SELECT value, version FROM object WHERE key = ?", (key,)).fetchone()
        return None if row is None else Item(_load(row[0]), row[1])

    def put(self, key: str, value: Any) -> None:
        """Set the scene: store an object without an effect."""
        with self._open() as db:
            _store(db, key, value)

    def script(self, tool: str, fault: Fault) -> None:
        """Let `fault` happen to the next call of `tool`; several are used up in order."""
        if fault.action not in ACTIONS:
            raise ValueError(f"{fault.action} is none of {', '.join(ACTIONS)}")
        with self._open() as db:
            db.execute(
                "INSERT INTO script (tool, action, seconds, detail, retryable) VALUES (?, ?, ?, ?, ?)",
                (tool, fault.action, fault.seconds, fault.detail, int(fault.retryable)),
            )

    def next_fault(self, tool: str) -> Fault | None:
        """Take the next scripted fault of `tool` off the script."""
        with self._open() as db:
            row = db.execute(
                "DELETE FROM script WHERE id = (SELECT min(id) FROM script WHERE tool = ?) "
                "RETURNING action, seconds, detail, retryable",
                (tool,),
            ).fetchone()
        return None if row is None else Fault(row[0], row[1], row[2], bool(row[3]))

    def apply(
        self, op: str, key: str, value: Any, *, effect_key: str, attempt_id: str, tool: str, keyed: bool
    ) -> JsonObject:
        """Change one object and log the effect.

        `keyed`: this target honours effect keys (E2), so one seen before changes nothing and answers as before. All
        others do it again: a caller's mistake must show in the log.
        """
        with self._open() as db:
            seen = db.execute("SELECT output FROM effect WHERE effect_key = ?", (effect_key,)).fetchone()
            if keyed and seen is not None:
                return parse_strict(seen[0])
            if op == "delete":
                db.execute("DELETE FROM object WHERE key = ?", (key,))
                version = 0
            else:
                row = db.execute("SELECT value FROM object WHERE key = ?", (key,)).fetchone()
                version = _store(db, key, [*(_load(row[0]) if row else []), value] if op == "append" else value)
            output: JsonObject = {"key": key, "version": version}
            db.execute(
                "INSERT INTO effect (effect_key, attempt_id, tool, key, output) VALUES (?, ?, ?, ?, ?)",
                (effect_key, attempt_id, tool, key, canonical(output).decode()),
            )
        return output

    def effect_of(self, effect_key: str) -> Effect | None:
        """Return the effect that carries a key, or None."""
        return next((effect for effect in self.effects() if effect.effect_key == effect_key), None)

    def effects(self) -> list[Effect]:
        """Return every effect, oldest first."""
        with self._open() as db:
            rows = db.execute("SELECT effect_key, attempt_id, tool, key, output FROM effect ORDER BY seq").fetchall()
        return [Effect(row[0], row[1], row[2], row[3], parse_strict(row[4])) for row in rows]

    def die(self) -> None:
        """End this process at once, as a power cut would: only ever reached by a scripted crash."""
        os._exit(137)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                db.executescript("PRAGMA journal_mode = WAL;" + _SCHEMA + "PRAGMA user_version = 1;")
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        finally:
            db.close()


def _store(db: sqlite3.Connection, key: str, value: Any) -> int:
    row = db.execute(
        "INSERT INTO object (key, value, version) VALUES (?, ?, 1) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = object.version + 1 RETURNING version",
        (key, canonical({"v": value}).decode()),
    ).fetchone()
    return int(row[0])


def _load(text: str) -> Any:
    return parse_strict(text)["v"]
