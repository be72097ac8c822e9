"""Requests and entries of the reading calls to and from their wire form."""

import re
from typing import Any

from google.protobuf.message import Message

from counterseal.api.audit.v1 import reader_pb2
from counterseal.errors import InputInvalid
from counterseal.ledger.fields import DIGEST, WORD
from counterseal.rpc import paging
from counterseal_audit.projection.engine import Field
from counterseal_audit.reader.store import StoredEntry

DEFAULT_PAGE = 100
MAX_PAGE = 1000
PAGE_BYTES = 2 << 20
_PLACE = re.compile(r"[0-9]{1,6}/[0-9]{1,14}")


def entry(row: StoredEntry, shard: int) -> reader_pb2.LedgerEntry:
    """Return an entry in its place."""
    return reader_pb2.LedgerEntry(index=row.index, entry=row.entry, leaf_hash=row.leaf_hash, shard=shard)


def within(rows: list[StoredEntry]) -> list[StoredEntry]:
    """Cut a page to what fits a message; at least one entry stays."""
    room = PAGE_BYTES
    for position, row in enumerate(rows):
        room -= len(row.entry) + 64
        if room < 0 and position:
            return rows[:position]
    return rows


def index(value: int, name: str) -> int:
    """Return an index that a request names. Raises InputInvalid."""
    if value < 0:
        raise InputInvalid(f"{name}: must not be negative")
    return value


def token(request: Message, tenant: str, shard: int, after: int) -> str:
    """Return the page token behind index `after` of a log."""
    return paging.make(f"{shard}/{after + 1}", request, tenant)


def place_of(request: Any, tenant: str) -> tuple[int, int] | None:
    """Return the shard and index that a request's page token names, None for no token. Raises InputInvalid."""
    shard, _, at = paging.read(request, tenant, _PLACE).partition("/")
    return (int(shard), int(at)) if at else None


def page_size(asked: int) -> int:
    """Return how many entries a page is to have. Raises InputInvalid."""
    return paging.size(asked, DEFAULT_PAGE, MAX_PAGE)


def filters(request: reader_pb2.ListEntriesRequest) -> dict[Field, tuple[str, str]]:
    """Return field -> (name, value). The values' patterns let them be looked for in the canonical bytes, exactly.

    Raises InputInvalid.
    """
    found = {}
    if request.plan_digest:
        if not DIGEST.fullmatch(request.plan_digest):
            raise InputInvalid("plan_digest: not a digest")
        found[Field.PLAN_DIGEST] = ("plan_digest", request.plan_digest)
    if request.request_id:
        if not WORD.fullmatch(request.request_id):
            raise InputInvalid("request_id: not an identifier")
        found[Field.REQUEST_ID] = ("request_id", request.request_id)
    return found
