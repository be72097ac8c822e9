"""Anchors: what is remembered of each log outside its database, so that an older or another database is noticed.

Two kinds of documents, written by compare-and-set only:
* `ledger/<bucket>` holds, for every log of a bucket, the head that signatures may reach: {origin: {size, root}};
* `ledger/log/<tenant>` says which shards the tenant has, and all that is in their genesis entries. So a log that was
  wiped is not begun anew, and whoever crashed while beginning one makes the same bytes again.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from counterseal.errors import AnchorMissing

BUCKETS = 64
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Anchor:
    """The largest head that may be signed. adopted: how often two people set it aside for another one."""

    size: int
    root: bytes
    adopted: int = 0

    def document(self) -> dict[str, Any]:
        """Return the anchor as it is stored."""
        adopted = {"adopted": self.adopted} if self.adopted else {}
        return {"size": self.size, "root": self.root.hex(), **adopted}


@dataclass(frozen=True, slots=True)
class Page:
    """The anchors of a bucket as one document; version 0: there is none (or it was deleted)."""

    version: int
    anchors: Mapping[str, Anchor]

    def advanced(self, more: Mapping[str, Anchor]) -> "Page":
        """Return the page with some anchors replaced; itself when that changes nothing."""
        merged = {**self.anchors, **more}
        return self if merged == self.anchors else Page(self.version, merged)


@dataclass(frozen=True, slots=True)
class Birth:
    """All that a shard's genesis entry says beyond tenant, environment and shard. predecessor: digest, or empty."""

    origin: str
    vkey: str
    event_id: str
    time_ms: int
    predecessor: str = ""


class AnchorMoved(Exception):
    """Another replica wrote the document since it was read; nothing was written."""


class Anchors(Protocol):
    """The anchors of an environment. Every call raises SealUnavailable when the store does not answer."""

    async def read(self, bucket: int) -> Page:
        """Return the anchors of a bucket. Raises AnchorMissing when the document is not one of ours."""

    async def write(self, bucket: int, page: Page) -> None:
        """Write anchors in place of those that were read at `page.version`. Raises AnchorMoved."""

    async def write_anew(self, bucket: int, page: Page) -> None:
        """Write anchors where the document was deleted. Raises AnchorMoved."""

    async def births(self, tenant: str) -> Mapping[int, Birth]:
        """Return the shards that a tenant has, by number."""

    async def reserve(self, tenant: str, shard: int, wish: Birth) -> Birth:
        """Make `wish` the birth of a shard unless it has one; return the one that counts."""


def bucket_of(origin: str) -> int:
    """Return the bucket of a log."""
    return int.from_bytes(hashlib.sha256(origin.encode()).digest()[:4]) % BUCKETS


def parse_anchors(document: Mapping[str, Any]) -> dict[str, Anchor]:
    """Read a bucket's document. Raises AnchorMissing for anything that `Anchor.document` would not have written."""
    anchors = {}
    for origin, item in document.items():
        try:
            anchor = Anchor(int(item["size"]), bytes.fromhex(item["root"]), int(item.get("adopted", 0)))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise AnchorMissing("an anchor is not one of ours", origin=origin[:128]) from None
        numbers = {type(item["size"]), type(item.get("adopted", 0))}
        if anchor.document() != item or numbers != {int} or anchor.size < 1 or len(anchor.root) != _HASH_BYTES:
            raise AnchorMissing("an anchor is not one of ours", origin=origin[:128])
        anchors[origin] = anchor
    return anchors


def parse_births(document: Mapping[str, Any]) -> dict[int, Birth]:
    """Read the document of a tenant's shards, by number. Raises AnchorMissing when it is not one of ours."""
    try:
        return {int(shard): Birth(**birth) for shard, birth in document.items()}
    except (TypeError, ValueError):
        raise AnchorMissing("the document that names the tenant's logs is not one of ours") from None
