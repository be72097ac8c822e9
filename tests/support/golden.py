"""The golden export: one entry of every type with every field, of fixed values (`python -m support.golden`).

It is written once per release of the format and verified for ever: a change that makes it fail breaks every log that
was ever written.
"""

import shutil
from pathlib import Path
from typing import Any

from counterseal.canonical import JsonObject
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.fields import Flag, Group, Kind, ListOf, Number, OneOf, Person, Text
from counterseal.ledger.registry import CODE, DATE, DIGESTS, ID, REGISTRY, WORDS
from support.exports import DIGEST, KEY, files_of, genesis, uuid, write

DIRECTORY = Path(__file__).resolve().parents[1] / "vectors" / "ledger-v1"
PERSON = "p_" + "golden".ljust(26, "a")
LATER = {"log.heartbeat": {"ordered_by"}, "log.frozen": {"ordered_by"}, "access.disclosed": {"export"}}
"""Fields that types got after the export was written; entries without them stay as good as they were."""


def entries_of_every_type() -> list[bytes]:
    logged = [genesis()]
    for kind in REGISTRY:
        if kind != entries.GENESIS:
            logged.append(_entry(kind, len(logged)))
    return logged


def _entry(kind: str, number: int) -> bytes:
    known = REGISTRY[kind]
    content: JsonObject = {
        "v": 1,
        "type": kind,
        "event_id": entries.committed_event_id(DIGEST) if kind == entries.COMMITTED else uuid(number),
        "event_time_ms": 1795330000000 + number,
        "tenant": "acme",
        "environment": "prod",
        "request_id": "r-1",
        "txn": uuid(500),
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "subject": PERSON,
        "agent": "refund-bot",
        "agent_version": "2026.11.3",
        "stream": f"plan:{uuid(600)}",
        "seq": number,
        "plan_digest": DIGEST,
        "step": "s1",
        "attempt": 1,
        "refs": [{"event_id": uuid(number - 1), "rel": "after"}],
        "data": {name: value for name, value in _value(known.clear).items() if name not in LATER.get(kind, ())},
    }
    sealed = [disclosure.make(name, {"of": kind}, lambda n: b"0123456789abcdef"[:n]) for name in sorted(known.sealed)]
    content |= entries.sealed_digests(sealed)
    entries.check_content(content)
    return entries.build(content, entries.Srv(1795330001000 + number, min(known.producers), ("9f3c",), "r400d"))


def _value(kind: Kind) -> Any:
    if isinstance(kind, Group):
        return {name: _value(field) for name, field in kind.fields.items()}
    if isinstance(kind, ListOf):
        return [_value(kind.item)]
    if isinstance(kind, Number):
        return min(kind.most, 7)
    if isinstance(kind, Flag):
        return True
    if isinstance(kind, Person):
        return PERSON
    if isinstance(kind, OneOf):
        return kind.values[-1]
    assert isinstance(kind, Text)
    known = {ID.name: uuid(700), WORDS.name: "word", DIGESTS.name: DIGEST, CODE.name: "CODE", DATE.name: "2026-11-22"}
    return known.get(kind.name, "ab" * 32)


if __name__ == "__main__":
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    write(files_of(entries_of_every_type()), DIRECTORY)
    assert (DIRECTORY / "vkey").read_text().strip() == KEY.vkey
