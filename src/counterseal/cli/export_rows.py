"""One entry as a JSON line, a CSV row or an OCSF event. Pure: what comes in was verified before.

OCSF: every entry is an API Activity (class 6003) of schema 1.3.0, whatever it records: a ledger entry is the report of
a service's operation. docs/auditing.md has the table of fields. The exact entry text travels along as `raw_data`.
"""

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import JsonObject, parse_strict
from counterseal.ledger.tree import leaf_hash

OCSF_VERSION = "1.3.0"
OCSF_CLASS = 6003
COLUMNS = (
    "index",
    "event_time",
    "type",
    "producer",
    "tenant",
    "environment",
    "request_id",
    "subject",
    "agent",
    "agent_version",
    "plan_digest",
    "step",
    "attempt",
    "event_id",
    "leaf_hash",
    "data",
)

_CREATE, _READ, _UPDATE, _DELETE, _OTHER = 1, 2, 3, 4, 99
_ACTIVITIES: Mapping[str, int] = {
    "received": _CREATE,
    "proposed": _CREATE,
    "requested": _CREATE,
    "granted": _CREATE,
    "exchanged": _CREATE,
    "registered": _CREATE,
    "published": _CREATE,
    "placed": _CREATE,
    "genesis": _CREATE,
    "disclosed": _READ,
    "reviewed": _READ,
    "changed": _UPDATE,
    "committed": _UPDATE,
    "decided": _UPDATE,
    "activated": _UPDATE,
    "rotated": _UPDATE,
    "outcome": _UPDATE,
    "revoked": _DELETE,
    "retired": _DELETE,
    "erased": _DELETE,
    "dropped": _DELETE,
    "lifted": _DELETE,
    "withdrawn": _DELETE,
    "expired": _DELETE,
}
_FAILED = frozenset({"DENY", "not_applied", "not_sent", "reject", "bad"})
_DONE = frozenset({"ALLOW", "applied", "approve", "ok"})
_GRAVE = ("containment.tripped", "call.refused", "credential.denied", "log.frozen")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Row:
    """An entry in its place."""

    origin: str
    index: int
    entry: bytes

    @property
    def document(self) -> JsonObject:
        """The entry as an object."""
        return parse_strict(self.entry)


Writer = Callable[[Row], bytes]


def jsonl(row: Row) -> bytes:
    """Return one line; the entry stands in it byte for byte, so its leaf hash can be checked."""
    return b'{"entry":%s,"index":%d,"leaf_hash":"%s"}\n' % (row.entry, row.index, leaf_hash(row.entry).hex().encode())


def csv_header() -> bytes:
    """Return the first line of a CSV file."""
    return _csv(COLUMNS)


def csv_row(row: Row) -> bytes:
    """Return one line; a cell that a spreadsheet would take for a formula begins with an apostrophe (CWE-1236)."""
    document = row.document
    values = {
        **{name: document.get(name, "") for name in COLUMNS},
        "index": row.index,
        "event_time": _moment(document["event_time_ms"]),
        "producer": document["srv"]["producer"],
        "leaf_hash": leaf_hash(row.entry).hex(),
        "data": json.dumps(document["data"], sort_keys=True, separators=(",", ":")),
    }
    return _csv(tuple(guarded(str(values[name])) for name in COLUMNS))


def guarded(cell: str) -> str:
    """Return a cell that no spreadsheet evaluates."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def ocsf(row: Row) -> bytes:
    """Return one OCSF event as a JSON line."""
    return json.dumps(ocsf_event(row), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def ocsf_event(row: Row) -> dict[str, Any]:
    """Return one OCSF API Activity."""
    document, kind = row.document, str(row.document["type"])
    data = document["data"]
    activity = _ACTIVITIES.get(kind.rpartition(".")[2], _OTHER)
    status = _status(kind, data)
    event: dict[str, Any] = {
        "activity_id": activity,
        "category_uid": 6,
        "class_uid": OCSF_CLASS,
        "type_uid": OCSF_CLASS * 100 + activity,
        "time": document["event_time_ms"],
        "severity_id": 4 if kind in _GRAVE or data.get("outcome") == "unknown" else 1,
        "status_id": status,
        "message": kind,
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "Counterseal", "vendor_name": "Counterseal"},
            "uid": document["event_id"],
            "event_code": kind,
            "log_name": row.origin,
            "sequence": row.index,
            "logged_time": document["srv"]["receive_time_ms"],
            **_present(correlation_uid=document.get("request_id")),
        },
        "actor": {
            "user": {"uid": document.get("subject", "unknown"), "org": {"uid": document["tenant"]}},
            **_present(app_name=document.get("agent")),
        },
        "api": {
            "operation": kind,
            "service": {"name": document["srv"]["producer"]},
            **({"request": {"uid": document["request_id"]}} if "request_id" in document else {}),
        },
        "src_endpoint": {"name": document["srv"]["producer"]},
        "resources": _resources(document),
        "raw_data": row.entry.decode(),
        "unmapped": {
            "data": data,
            "environment": document["environment"],
            "rfc6962_leaf_hash": leaf_hash(row.entry).hex(),
            "entry_sha256": hashlib.sha256(row.entry).hexdigest(),
        },
    }
    codes = data.get("reason_codes") or [code for code in [data.get("reason_code")] if code]
    return {**event, **_present(status_code=", ".join(codes))}


def _resources(document: JsonObject) -> list[dict[str, str]]:
    data = document["data"]
    found = [{"type": "plan", "uid": document["plan_digest"]}] if "plan_digest" in document else []
    if isinstance(data.get("tool"), str):
        found.append({"type": "tool", "name": data["tool"], **_present(version=data.get("version"))})
    if "target" in data:
        found.append({"type": "target", "name": data["target"]})
    return found


def _status(kind: str, data: JsonObject) -> int:
    """Return 1 for success, 2 for failure, 0 for what has no such end or whose end is not known."""
    word = data.get("outcome") or data.get("verdict")
    if kind in _GRAVE or word in _FAILED:
        return 2
    return 1 if word in _DONE else 0


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _csv(cells: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode()


def _moment(time_ms: int) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(time_ms // 1000))}.{time_ms % 1000:03d}Z"
