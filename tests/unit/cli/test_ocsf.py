"""`--format ocsf` against the published schema: every event of every type is an API Activity of OCSF 1.3.0."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from counterseal.cli.export_rows import OCSF_CLASS, OCSF_VERSION, Row, ocsf_event
from support import golden, incidents
from support.exports import genesis
from support.ocsf import FACTS, problems
from support.requirements import requirement


def events() -> list[dict[str, Any]]:
    """Every recorded incident's entry, and one entry of every type with every field."""
    entries = [*incidents.entries(), *golden.entries_of_every_type(), genesis()]
    return [ocsf_event(Row("counterseal.dev/0192aa", n, entry)) for n, entry in enumerate(entries)]


@requirement("ledger:exports")
def test_every_event_is_what_the_published_schema_says_an_api_activity_is() -> None:
    assert (FACTS["source"]["tag"], FACTS["class"]["uid"]) == (OCSF_VERSION, OCSF_CLASS)
    found = {problem for event in events() for problem in problems(event)}
    assert found == set()
    assert all(event["type_uid"] == OCSF_CLASS * 100 + event["activity_id"] for event in events())


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(event: dict[str, Any]) -> None:
        for name in path[:-1]:
            event = event[name]
        del event[path[-1]]

    return change


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(event: dict[str, Any]) -> None:
        for name in path[:-1]:
            event = event[name]
        event[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("src_endpoint"), "event: lacks src_endpoint"),
        (without("metadata", "product"), "event.metadata: lacks product"),
        (without("metadata", "product", "vendor_name"), "event.metadata.product: lacks vendor_name"),
        (without("api", "operation"), "event.api: lacks operation"),
        (put({}, "actor"), "event.actor: has none of"),
        (put({"type": "x"}, "actor", "user"), "event.actor.user: has none of"),
        (put([{"type": "plan"}], "resources"), "event.resources[0]: has none of"),
        (put({"name": "x"}, "resources"), "event.resources: not an array"),
        (put(7, "activity_id"), "event.activity_id: 7 is not in its enum"),
        (put(6001, "class_uid"), "event.class_uid: 6001 is not in its enum"),
        (put("1", "severity_id"), "event.severity_id: not a integer_t"),
        (put(True, "status_id"), "event.status_id: not a integer_t"),
        (put("2026-11-27", "time"), "event.time: not a timestamp_t"),
        (put(1 << 31, "metadata", "sequence"), "event.metadata.sequence: not a integer_t"),
        (put({"id": "x"}, "api", "request"), "event.api.request: lacks uid"),
        (put("x", "unmapped"), "event.unmapped: not an object"),
        (put("x", "tenant"), "event: has no attribute tenant"),
    ],
)
def test_what_the_schema_does_not_allow_is_found(change: Callable[[dict[str, Any]], None], said: str) -> None:
    event = copy.deepcopy(next(one for one in events() if "request" in one["api"] and one["resources"]))
    assert problems(event) == []
    change(event)
    assert any(problem.startswith(said) for problem in problems(event)), problems(event)
