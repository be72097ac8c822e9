"""Page tokens: good for the request that they are an answer to, and for nothing else."""

import base64
from pathlib import Path
from typing import Any

import pytest

from counterseal.api.audit.v1 import reader_pb2
from counterseal.api.executor.v1 import plan_pb2, tool_pb2
from counterseal.errors import InputInvalid
from counterseal.rpc import paging
from support.requirements import requirement

ROOT = Path(__file__).resolve().parents[3]
AT = "01920000-0000-7000-8000-000000000001"


def listing(**fields: Any) -> plan_pb2.ListPlansRequest:
    return plan_pb2.ListPlansRequest(**fields)


@requirement("list:tokens-bound")
def test_a_token_goes_on_with_the_same_request_whatever_the_size_of_its_pages() -> None:
    token = paging.make(AT, listing(state="RUNNING", page_size=10), "acme")
    assert paging.read(listing(state="RUNNING", page_token=token), "acme") == AT
    assert paging.read(listing(state="RUNNING", page_size=3, page_token=token), "acme") == AT
    assert paging.read(listing(state="RUNNING"), "acme") == ""
    entries = reader_pb2.ListEntriesRequest()
    token = paging.make(AT, entries, "acme")
    assert paging.read(reader_pb2.ListEntriesRequest(tenant="acme", page_token=token), "acme") == AT


@requirement("list:tokens-bound")
def test_a_token_is_refused_for_another_tenant_call_or_argument() -> None:
    token = paging.make(AT, listing(state="RUNNING"), "acme")
    for request, tenant in (
        (listing(state="RUNNING", page_token=token), "globex"),
        (listing(state="ENDED", page_token=token), "acme"),
        (listing(page_token=token), "acme"),
        (tool_pb2.ListToolsRequest(page_token=token), "acme"),
    ):
        with pytest.raises(InputInvalid, match="page_token"):
            paging.read(request, tenant)
    entries = paging.make(AT, reader_pb2.ListEntriesRequest(), "acme")
    for other in ({"shard": 0}, {"from_index": 1}, {"plan_digest": "x"}):
        with pytest.raises(InputInvalid, match="page_token"):
            paging.read(reader_pb2.ListEntriesRequest(page_token=entries, **other), "acme")


def forged(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@requirement("list:tokens-bound")
@pytest.mark.parametrize("position", ["", "x", "x' OR 1=1 --", "A" + AT[1:], AT + "\n", AT[:-1], "0/1"], ids=repr)
def test_a_position_that_no_answer_named_is_refused_even_where_the_binding_is_right(position: str) -> None:
    with pytest.raises(InputInvalid, match="page_token"):
        paging.read(listing(page_token=paging.make(position, listing(), "acme")), "acme")


@pytest.mark.parametrize(
    "token",
    ["x", "=", "AAAA", "é", "e30", forged("[]"), forged("{}"), forged('{"after":1,"of":"x"}'), "A" * 100_000],
    ids=lambda text: repr(text[:12]),
)
def test_junk_is_bad_input(token: str) -> None:
    with pytest.raises(InputInvalid, match="page_token"):
        paging.read(listing(page_token=token), "acme")


def test_sizes() -> None:
    assert [paging.size(asked) for asked in (0, 1, 200, 201)] == [50, 1, 200, 200]
    assert [paging.size(asked, 100, 1000) for asked in (0, 1, 1001)] == [100, 1, 1000]
    with pytest.raises(InputInvalid, match="page_size"):
        paging.size(-1)


@requirement("list:tokens-bound")
def test_no_service_reads_a_page_token_by_itself() -> None:
    sources = [file for file in (ROOT / "services").rglob("*.py") if "page_token" in file.read_text()]
    assert sources, "lists are served"
    for file in sources:
        text = file.read_text()
        assert "request.page_token" not in text, file
        assert "paging.make(" in text or "convert.token(" in text, file
