from typing import Any

import pytest

from counterseal.canonical import canonical
from counterseal.documents.tool import parse_tool
from counterseal.errors import InputInvalid, NotCanonical
from support.documents import tool, tool_document


def test_a_descriptor_survives_its_bytes_and_keeps_its_digest() -> None:
    made = tool()
    read = parse_tool(canonical(tool_document()))
    assert read == made
    assert read.reference == "shop.refund@1.0.0"
    assert not read.reads_only
    assert read.can_repeat_undo


def test_the_text_that_runs_is_under_the_digest() -> None:
    other = tool(connector={"kind": "sim", "config": {"op": "delete"}})
    assert other.digest != tool().digest


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"extra": 1}, "/extra"),
        ({"v": 2}, "/v"),
        ({"name": "Shop.refund"}, "/name"),
        ({"name": "shop.refund\n"}, "/name"),
        ({"version": "1.0"}, "/version"),
        ({"version": "1.00.0"}, "/version"),
        ({"effect": "E5"}, "/effect"),
        ({"reversibility": "R0"}, "/reversibility"),
        ({"connector": {"kind": "mcp", "config": {}}}, "/connector/kind"),
        ({"connector": {"kind": "sim", "config": {}, "x": 1}}, "/connector/x"),
        ({"connector": {"kind": "sim", "config": []}}, "/connector/config"),
        ({"targets": []}, "/targets"),
        ({"targets": ["a--b"]}, "/targets/0"),
        ({"credential_role": "acme/../evil"}, "/credential_role"),
        ({"max_concurrency": 0}, "/max_concurrency"),
        ({"blast": {"records": -1}}, "/blast/records"),
        ({"probe": "yes"}, "/probe"),
        ({"probe": False}, "/probe"),
        ({"effect": "E2"}, "/idempotency"),
        ({"pre_kinds": ["mood"]}, "/pre_kinds"),
        ({"sensitive": ["refund_id"]}, "/sensitive"),
        ({"input_schema": {"type": "string"}}, "/input_schema/type"),
        ({"output_schema": {"type": "object"}}, "/output_schema/additionalProperties"),
    ],
)
def test_a_bad_descriptor_is_refused_at_its_pointer(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        parse_tool(canonical(tool_document(**changes)))
    assert caught.value.metadata["pointer"] == where


@pytest.mark.parametrize("key", ["v", "name", "connector", "input_schema", "effect", "blast", "targets", "open_world"])
def test_a_missing_field_is_named(key: str) -> None:
    document = tool_document()
    del document[key]
    with pytest.raises(InputInvalid) as caught:
        parse_tool(canonical(document))
    assert caught.value.metadata["pointer"] == f"/{key}"


def test_another_spelling_of_the_same_descriptor_is_not_canonical() -> None:
    with pytest.raises(NotCanonical):
        parse_tool(canonical(tool_document()) + b"\n")
