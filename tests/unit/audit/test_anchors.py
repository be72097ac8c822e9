"""Anchor documents: what was written is read again, and nothing else is believed."""

import pytest

from counterseal.errors import AnchorMissing
from counterseal_audit.logs.anchors import BUCKETS, Anchor, Page, bucket_of, parse_anchors

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
    assert bucket_of("example.org/0192") == bucket_of("example.org/0192")
    found = {bucket_of(f"example.org/{n}") for n in range(2000)}
    assert found == set(range(BUCKETS))
