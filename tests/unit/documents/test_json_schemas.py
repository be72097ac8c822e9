"""The shipped JSON Schemas say what the parsers do."""

import json
from importlib import resources
from typing import Any

import pytest

from counterseal.canonical import parse_canonical, parse_strict
from counterseal.documents.plan import parse_draft
from counterseal.documents.tool import build_tool
from counterseal.errors import InputInvalid, PlanInvalid
from support.documents import draft_document, plan, step_document, tool_document


def load(name: str) -> dict[str, Any]:
    return parse_strict(resources.files("counterseal.documents").joinpath(f"schemas/{name}.schema.json").read_bytes())


@pytest.mark.parametrize("name", ["plan", "plan-draft", "tool"])
def test_every_object_with_named_fields_is_closed(name: str) -> None:
    def walk(schema: Any) -> None:
        if isinstance(schema, dict):
            if "properties" in schema and isinstance(schema["properties"], dict) and "required" in schema:
                assert schema["additionalProperties"] is False, json.dumps(schema)[:80]
            for value in schema.values():
                walk(value)
        elif isinstance(schema, list):
            for value in schema:
                walk(value)

    walk(load(name))


@pytest.mark.parametrize("key", sorted(load("tool")["properties"]))
def test_the_parser_agrees_which_tool_fields_are_required(key: str) -> None:
    document = tool_document()
    del document[key]
    if key in load("tool")["required"]:
        with pytest.raises(InputInvalid):
            build_tool(document)
    else:
        build_tool(document)


def test_the_parser_knows_no_plan_field_that_the_schema_lacks() -> None:
    schema = load("plan-draft")
    step = schema["properties"]["steps"]["items"]
    for key in step["required"]:
        broken = step_document()
        del broken[key]
        with pytest.raises(PlanInvalid):
            parse_draft(draft_document(steps=[broken]))
    final = load("plan")
    assert set(parse_canonical(plan().body)) <= set(final["properties"])
    assert set(final["required"]) <= set(parse_canonical(plan().body))
    assert set(final["properties"]) - set(schema["properties"]) == {
        "plan_id",
        "nonce",
        "tenant",
        "environment",
        "request_id",
        "actor",
        "rationale_digest",
        "policy_snapshot",
        "taint",
    }
