"""What an append does, without doing it: checked entries in, the next head of the log out."""

import base64
import functools
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple
from uuid import UUID

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import JsonObject
from counterseal.errors import EnvironmentMismatch, InputInvalid, PeerNotAllowed
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.fields import Rename
from counterseal.ledger.tiles import HEIGHT
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal.rpc.ledger_wire import content_of

PSEUDONYM_BYTES = 16
PEOPLE_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class SealedPayload:
    """One disclosure of an entry as it is stored: encrypted under the data key `dek_id`.

    ord: its position among the entry's disclosures. due_on: when retention drops it; None: never. held: a legal hold.
    """

    ord: int
    due_on: date | None
    dek_id: UUID
    ciphertext: bytes
    held: bool


class Prepared(NamedTuple):
    """An entry that is ready to be written: its bytes and the two hashes that are stored beside it (32 bytes each).

    payload: its sealed part, written by the same statement.
    """

    event_id: str
    req_hash: bytes
    leaf_hash: bytes
    entry: bytes
    payload: tuple[SealedPayload, ...] = ()

    @property
    def weight(self) -> int:
        """Bytes that the entry and its payload put into a statement."""
        if not self.payload:
            return len(self.entry)
        return len(self.entry) + sum(len(one.ciphertext) for one in self.payload)


@dataclass(frozen=True, slots=True)
class Node:
    """A full subtree of 256^level leaves, the `n`-th of its level (level >= 1)."""

    level: int
    n: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """The head before and after a batch, the MAC of the latter, and the subtrees that the batch completed."""

    before: Frontier
    after: Frontier
    mac: bytes
    nodes: tuple[Node, ...]


def pseudonymiser(key: bytes) -> Rename:
    """Return person -> `p_` + base32(HMAC-SHA256(key, person)[:16]); destroying the tenant's key unlinks them all.

    The same people act again and again: the last ones are remembered.
    """

    @functools.lru_cache(maxsize=PEOPLE_REMEMBERED)
    def rename(person: str) -> str:
        code = hmac.digest(key, person.encode(), hashlib.sha256)[:PSEUDONYM_BYTES]
        return "p_" + base64.b32encode(code).decode().rstrip("=").lower()

    return rename


def check(request: ledger_pb2.NewEntry, *, producer: str, environment: str, person: Rename) -> JsonObject:
    """Check an entry as `producer` sent it and return its content, pseudonyms in place.

    Raises EnvironmentMismatch, PeerNotAllowed when the producer may not write the type, InputInvalid naming the field.
    """
    if request.environment != environment:
        raise EnvironmentMismatch("the entry is for another environment than this ledger serves")
    try:
        content = entries.pseudonymise(content_of(request), person)
        known = entries.check_content(content)
        if producer not in known.producers:
            raise PeerNotAllowed(f"{producer} may not write {content['type']}")
        if request.disclosures:
            disclosure.check(request.disclosures, known.sealed)
    except VerificationError as error:
        raise InputInvalid(error.message, event_id=request.event_id[:64]) from error
    return content


def make(
    content: JsonObject,
    *,
    producer: str,
    receive_time_ms: int,
    retention: str = "",
    payload: tuple[SealedPayload, ...] = (),
) -> Prepared:
    """Return the entry of checked content, with its payload. Raises InputInvalid when it is too large."""
    event_id = str(content["event_id"])
    deks = tuple(sorted({str(one.dek_id) for one in payload})) if payload else ()
    try:
        data, req_hash = entries.build_hashed(content, entries.Srv(receive_time_ms, producer, deks, retention))
    except VerificationError as error:
        raise InputInvalid(error.message, event_id=event_id) from error
    return Prepared(event_id, req_hash, leaf_hash(data), data, payload)


def step(before: Frontier, batch: Sequence[Prepared], seal: Callable[[Frontier], bytes]) -> Step:
    """Return how a batch extends the tree. seal: makes the MAC of the new head."""
    nodes: list[Node] = []

    def on_node(height: int, index: int, node: bytes) -> None:
        nodes.append(Node(height // HEIGHT, index, node))

    after = before.extend([item.leaf_hash for item in batch], on_node, HEIGHT)
    return Step(before, after, seal(after), tuple(nodes))
