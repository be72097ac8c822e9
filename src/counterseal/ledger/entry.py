"""Entry bytes: what a leaf of the log holds (canonical JSON in the strict profile, ASCII keys, no null, <= 16 KiB).

An entry is its *content*, which the producer knows, and `srv`, which the server adds. Every string comes from a closed
ASCII alphabet, so the canonical form is plain sorted JSON; a test holds it equal to `counterseal.canonical`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from counterseal.canonical import JsonObject, media_type, pae, parse_checked, parse_strict
from counterseal.errors import NotCanonical
from counterseal.ids import derived_id
from counterseal.ledger import disclosure
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.fields import ListOf, Number, OneOf, Person, Rename, Text, Unchecked, group
from counterseal.ledger.registry import DIGESTS, EVERYONE, ID, REGISTRY, WORDS, EventType
from counterseal.ledger.shape import expression

VERSION = 1
MAX_BYTES = 16 * 1024
GENESIS = "log.genesis"
COMMITTED = "plan.committed"

_NAME = r"[a-z0-9]+(-[a-z0-9]+)*"

HEADER = group(
    "request_id txn trace_id subject agent agent_version stream seq plan_digest step attempt refs _sd_alg _sd srv",
    v=Number(VERSION),
    type=OneOf(tuple(REGISTRY)),
    event_id=ID,
    event_time_ms=Number(),
    tenant=Text(re.compile(rf"_system|{_NAME}"), "a tenant name"),
    environment=Text(re.compile(_NAME), "an environment name"),
    request_id=WORDS,
    txn=WORDS,
    trace_id=WORDS,
    subject=Person(),
    agent=WORDS,
    agent_version=WORDS,
    stream=Text(re.compile(r"plan:[A-Za-z0-9_.:/-]{1,123}"), "a stream (plan:<id>)"),
    seq=Number(),
    plan_digest=DIGESTS,
    step=WORDS,
    attempt=Number(),
    data=Unchecked(),
    refs=ListOf(group(event_id=ID, rel=WORDS)),
    _sd_alg=OneOf((disclosure.SD_ALG,)),
    _sd=ListOf(Text(re.compile(r"[A-Za-z0-9_-]{43}"), "a base64url SHA-256 digest")),
    srv=group(
        "dek retention",
        receive_time_ms=Number(),
        producer=OneOf(tuple(sorted(EVERYONE))),
        dek=ListOf(WORDS),
        retention=WORDS,
    ),
)
"""The fields of an entry; `data` is checked by its type's own group."""

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, check_circular=False)
_APPEND_REQUEST = media_type("append-request")
_TYPE, _TAIL = '"type":"', '","v":1}'
_SRV = "srv"
_BEHIND_SRV = tuple(sorted(name for name in HEADER.fields if name > _SRV))


@dataclass(frozen=True, slots=True)
class Srv:
    """What the server adds to an entry: when it came (milliseconds), who sent it, which keys seal its payload."""

    receive_time_ms: int
    producer: str
    dek: tuple[str, ...] = ()
    retention: str = ""

    def document(self) -> JsonObject:
        """Return the `srv` object."""
        srv: JsonObject = {"receive_time_ms": self.receive_time_ms, "producer": self.producer}
        if self.dek:
            srv["dek"] = list(self.dek)
        if self.retention:
            srv["retention"] = self.retention
        return srv

    def encode(self) -> bytes:
        """Return the canonical bytes of `document`; most entries have nothing but time and producer."""
        if self.dek or self.retention:
            return encode(self.document())
        return b'{"producer":"%b","receive_time_ms":%d}' % (self.producer.encode(), self.receive_time_ms)


@dataclass(slots=True)
class Entry:
    """A checked entry: its bytes as text, and the few fields that logs are ordered and verified by."""

    text: str
    type: str
    event_id: str
    tenant: str
    environment: str
    stream: str
    seq: int
    _document: JsonObject | None = field(default=None, repr=False, compare=False)

    @property
    def document(self) -> JsonObject:
        """The object; parsed when it is first asked for."""
        if self._document is None:
            self._document = parse_checked(self.text)
        return self._document

    @property
    def data(self) -> JsonObject:
        """The clear, typed part."""
        data: JsonObject = self.document["data"]
        return data

    @property
    def producer(self) -> str:
        """The service that sent the entry."""
        return str(self.document["srv"]["producer"])


def committed_event_id(plan_digest: str) -> str:
    """Return the one event id that `plan.committed` of a plan can have, so that a log takes it once, for ever."""
    body = encode({"plan_digest": plan_digest, "type": COMMITTED})
    return derived_id(pae(media_type("event-id"), body))


def encode(document: JsonObject) -> bytes:
    """Return the canonical bytes of an object whose keys and strings are printable ASCII and whose numbers are ints."""
    return _ENCODER.encode(document).encode()


def pseudonymise(content: JsonObject, person: Rename) -> JsonObject:
    """Return the content with every person in it replaced by `person(identifier)`.

    Total: content that `check_content` will refuse comes back unchanged where it makes no sense.
    """
    renamed = dict(content)
    if isinstance(content.get("subject"), str):
        renamed["subject"] = Person().rename(content["subject"], person)
    known = REGISTRY.get(str(content.get("type")))
    if known is not None:
        renamed["data"] = known.clear.rename(content.get("data"), person)
    return renamed


def check_content(content: JsonObject) -> EventType:
    """Check an entry without `srv`, with pseudonyms in place, and return its type.

    Raises VerificationError naming the field.
    """
    why = HEADER.problem(content)
    if why:
        raise VerificationError(f"the entry {why}")
    known = REGISTRY[content["type"]]
    why = known.clear.problem(content["data"])
    if why:
        raise VerificationError(f"the data of {content['type']} {why}")
    _check_rules(content, known)
    return known


def build(content: JsonObject, srv: Srv) -> bytes:
    """Return the entry's bytes. `content` has passed `check_content`. Raises VerificationError above 16 KiB."""
    data = encode({**content, _SRV: srv.document()})
    _check_size(data)
    return data


def request_hash(content: JsonObject) -> bytes:
    """Return the digest (32 bytes) that makes an append idempotent: over the entry without `srv`."""
    return hashlib.sha256(pae(_APPEND_REQUEST, encode(content))).digest()


def build_hashed(content: JsonObject, srv: Srv) -> tuple[bytes, bytes]:
    """Return what `build` and `request_hash` return, for the cost of one encoding.

    Keys are sorted, so the entry is its content with `srv` in front of the first key behind it. No string of checked
    content holds a quote, and behind that key is no object: the last place that looks like it is it.
    """
    body = encode(content)
    first = next(name for name in _BEHIND_SRV if name in content)
    at = body.rindex(b',"%b":' % first.encode())
    data = b'%b,"srv":%b%b' % (body[:at], srv.encode(), body[at:])
    _check_size(data)
    return data, hashlib.sha256(pae(_APPEND_REQUEST, body)).digest()


def parse(data: bytes) -> Entry:
    """Read entry bytes. Raises VerificationError for anything that `build` would not have written."""
    if len(data) > MAX_BYTES:
        raise VerificationError(f"an entry of {len(data)} bytes; at most {MAX_BYTES} are allowed")
    return _recognise(data) or parse_slowly(data)


def parse_slowly(data: bytes) -> Entry:
    """Read entry bytes by JSON parser and schema: what decides where no expression of `shape` accepts them."""
    try:
        document = parse_strict(data)
    except NotCanonical as error:
        raise VerificationError(f"the entry is not strict JSON: {error.message}") from None
    if "srv" not in document:
        raise VerificationError("the entry lacks 'srv'")
    known = check_content(document)
    if encode(document) != data:
        raise VerificationError("the entry's bytes are not in canonical form")
    if document["srv"]["producer"] not in known.producers:
        raise VerificationError(f"{document['srv']['producer']} may not write {document['type']}")
    return Entry(
        data.decode("ascii"),
        document["type"],
        document["event_id"],
        document["tenant"],
        document["environment"],
        document.get("stream", ""),
        document.get("seq", 0),
        document,
    )


def _recognise(data: bytes) -> Entry | None:
    """Return the entry if the expression of its type accepts it, which says all that `parse_slowly` would check."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return None
    kind = text[text.rfind(_TYPE) + len(_TYPE) : -len(_TAIL)]
    if kind not in REGISTRY:
        return None
    found = _matcher(kind)(text)
    if found is None:
        return None
    sealed, environment, event_id, seq, stream, tenant = found.groups()
    if sealed and (listed := sealed.split(",")) != sorted(set(listed)):
        return None
    entry = Entry(text, kind, event_id, tenant, environment, stream or "", int(seq or 0))
    if kind == COMMITTED and event_id != committed_event_id(entry.document["plan_digest"]):
        return None
    return entry


@cache
def _matcher(kind: str) -> Callable[[str], re.Match[str] | None]:
    return expression(HEADER, kind, REGISTRY[kind]).fullmatch


def sealed_digests(disclosures: Sequence[str]) -> JsonObject:
    """Return the fields by which an entry commits to its disclosures: none without disclosures."""
    if not disclosures:
        return {}
    return {"_sd_alg": disclosure.SD_ALG, "_sd": disclosure.digests(disclosures)}


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise VerificationError(f"an entry of {len(data)} bytes; at most {MAX_BYTES} are allowed")


def _check_rules(content: JsonObject, known: EventType) -> None:
    """Check what holds between fields."""
    kind = content["type"]
    for name in known.needs:
        if name not in content:
            raise VerificationError(f"an entry of {kind} lacks {name!r}")
    if content["v"] != VERSION:
        raise VerificationError(f"the entry's version is not {VERSION}")
    if ("stream" in content) != ("seq" in content) or content.get("seq", 1) < 1:
        raise VerificationError("a stream goes with a seq from 1, and a seq with a stream")
    if content.get("attempt", 1) < 1:
        raise VerificationError("attempts count from 1")
    if ("_sd" in content) != ("_sd_alg" in content):
        raise VerificationError("'_sd' and '_sd_alg' go together")
    sealed = content.get("_sd", [])
    if sealed != sorted(set(sealed)) or len(sealed) > len(known.sealed) or ("_sd" in content and not sealed):
        raise VerificationError("'_sd' is empty, unsorted, repeats a digest, or has more than the type seals")
    if kind == COMMITTED and content["event_id"] != committed_event_id(content["plan_digest"]):
        raise VerificationError("the event id of plan.committed is not the one derived from the plan digest")
