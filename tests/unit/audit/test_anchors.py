"""Anchor documents: what was written is read again, and nothing else is believed."""

import hashlib
from dataclasses import asdict
from typing import Any

import pytest

from counterseal.errors import AnchorMissing
from counterseal_audit.logs.anchors import BUCKETS, Anchor, Birth, Page, bucket_of, parse_anchors, parse_births

ROOT = bytes(range(32))
GOOD = {"size": 7, "root": ROOT.hex()}


def test_anchors_read_back_as_they_were_written() -> None:
    for anchor in (Anchor(7, ROOT), Anchor(7, ROOT, adopted=1795330000000)):
        assert parse_anchors({"example.org/log": anchor.document()}) == {"example.org/log": anchor}
    assert Anchor(7, ROOT).document() == GOOD
    assert parse_anchors({}) == {}


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        "7",
        {},
        {"size": 7},
        {**GOOD, "size": "7"},
        {**GOOD, "size": 0},
        {**GOOD, "size": -1},
        {**GOOD, "size": 7.0},
        {**GOOD, "size": True},
        {**GOOD, "root": ROOT.hex().upper()},
        {**GOOD, "root": ROOT.hex()[:-2]},
        {**GOOD, "root": "zz" * 32},
        {**GOOD, "adopted": 0},
        {**GOOD, "more": 1},
    ],
    ids=str,
)
def test_a_document_that_we_did_not_write_is_no_anchor(item: object) -> None:
    with pytest.raises(AnchorMissing):
        parse_anchors({"example.org/other": GOOD, "example.org/log": item})


def test_a_page_that_stays_the_same_is_not_written_again() -> None:
    page = Page(3, {"a": Anchor(7, ROOT)})
    assert page.advanced({"a": Anchor(7, ROOT)}) is page
    moved = page.advanced({"a": Anchor(8, ROOT), "b": Anchor(1, ROOT)})
    assert (moved.version, dict(moved.anchors)) == (3, {"a": Anchor(8, ROOT), "b": Anchor(1, ROOT)})


def test_buckets_are_stable_and_spread() -> None:
    assert bucket_of("example.org/0192") == int(hashlib.sha256(b"example.org/0192").hexdigest()[:8], 16) % 64
    found = {bucket_of(f"example.org/{n}") for n in range(2000)}
    assert found == set(range(BUCKETS))


def test_an_anchor_that_is_refused_names_its_log() -> None:
    origin = "example.org/" + "x" * 200
    for item in ({}, {**GOOD, "size": 0}):
        with pytest.raises(AnchorMissing, match="an anchor is not one of ours") as caught:
            parse_anchors({origin: item})
        assert caught.value.metadata["origin"] == origin[:128]


def test_the_smallest_anchor_and_one_that_was_adopted_are_ours() -> None:
    for anchor in (Anchor(1, ROOT), Anchor(1, ROOT, 1), Anchor(2**63 - 1, ROOT, 2)):
        assert parse_anchors({"a": anchor.document()}) == {"a": anchor}
    assert Anchor(1, ROOT, 2).document() == {"size": 1, "root": ROOT.hex(), "adopted": 2}
    for item in ({**GOOD, "adopted": "1"}, {**GOOD, "adopted": 1.0}, {**GOOD, "adopted": True}):
        with pytest.raises(AnchorMissing):
            parse_anchors({"a": item})


def test_births_read_back_as_they_were_written() -> None:
    births = {0: Birth("o", "v", "e", 1), 1: Birth("p", "w", "f", 2, "sha256:00")}
    assert parse_births({str(shard): asdict(birth) for shard, birth in births.items()}) == births
    assert births[0].predecessor == ""
    assert parse_births({}) == {}
    documents: list[dict[str, Any]] = [{"x": asdict(births[0])}, {"0": {}}, {"0": {**asdict(births[0]), "more": 1}}]
    for document in (*documents, {"0": []}):
        with pytest.raises(AnchorMissing, match="names the tenant's logs is not one of ours"):
            parse_births(document)
