"""Exports with a history: keys that were rotated, a shard before this one, witnesses, disclosed fields."""

import hashlib
from collections.abc import Mapping, Sequence

from nacl.signing import SigningKey

from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.note import COSIGNATURE, VerifierKey, assemble, cosignature, signature_line
from counterseal.ledger.tree import leaf_hash, root_of
from support.exports import KEY, ORIGIN, SIGNING, changed, files_of, genesis, uuid

Pair = tuple[SigningKey, VerifierKey]

OLD: Pair = (SIGNING, KEY)


def pair(seed: int, name: str = ORIGIN) -> Pair:
    signing = SigningKey(bytes([seed]) * 32)
    return signing, VerifierKey.make(name, bytes(signing.verify_key))


def witness(seed: int, name: str) -> Pair:
    signing = SigningKey(bytes([seed]) * 32)
    return signing, VerifierKey.make(name, bytes(signing.verify_key), COSIGNATURE)


NEW = pair(11)
NEWER = pair(12)
W1, W2, W3 = witness(21, "w1.example"), witness(22, "w2.example"), witness(23, "w3.example")


def note_of(logged: Sequence[bytes], *signers: Pair, origin: str = ORIGIN) -> bytes:
    checkpoint = Checkpoint(origin, len(logged), root_of(map(leaf_hash, logged)))
    return signed(checkpoint.text(), *signers)


def signed(text: str, *signers: Pair) -> bytes:
    return assemble(text, [signature_line(key, signing.sign(text.encode()).signature) for signing, key in signers])


def cosigned(note: bytes, *witnesses: Pair, time: int = 1_795_000_000) -> bytes:
    """The note with one more line for each witness."""
    text = note.decode().rpartition("\n\n")[0] + "\n"
    for signing, key in witnesses:
        value = cosignature(time, signing.sign(key.message(text, time)).signature)
        note += signature_line(key, value).encode()
    return note


def key_entry(
    number: int, key: VerifierKey, event: str = "key.rotated", state: str = "active", **more: object
) -> bytes:
    content = {
        "v": 1,
        "type": event,
        "event_id": uuid(number),
        "event_time_ms": 1,
        "tenant": "acme",
        "environment": "prod",
        "data": {
            "kind": "log",
            "name": ORIGIN,
            "version": str(number),
            "public_key": key.public.hex(),
            **({"state": state} if state else {}),
            **more,
        },
    }
    entries.check_content(content)
    return entries.build(content, entries.Srv(1, "audit"))


def received(number: int, sealed: Mapping[str, object]) -> tuple[bytes, list[str]]:
    """An entry with sealed fields, and its disclosures."""
    salts = iter(range(100))
    strings = [
        disclosure.make(name, value, lambda n: hashlib.sha256(b"%d.%d" % (number, next(salts))).digest()[:n])
        for name, value in sealed.items()
    ]
    content = {
        "v": 1,
        "type": "request.received",
        "event_id": uuid(number),
        "event_time_ms": 1,
        "tenant": "acme",
        "environment": "prod",
        "request_id": "r-1",
        "data": {},
        **entries.sealed_digests(strings),
    }
    entries.check_content(content)
    return entries.build(content, entries.Srv(1, "executor")), strings


def rotated(size: int = 20, *, at: int = 5, overlap: bool = False) -> tuple[list[bytes], dict[str, bytes]]:
    """A log whose key was rotated by entry `at`: its entries and its export, signed by the new key (and the old)."""
    logged = [genesis()]
    logged += [
        key_entry(number, NEW[1]) if number == at else changed(number, stream=f"plan:{number}", seq=1)
        for number in range(1, size)
    ]
    files = files_of(logged)
    files["rotation/1"] = note_of(logged[: at + 1], OLD)
    files["checkpoint"] = note_of(logged, *((OLD, NEW) if overlap else (NEW,)))
    return logged, files


NEXT_ORIGIN = "counterseal.dev/0192bb"


def successor_genesis(last: bytes) -> bytes:
    """The first entry of the shard that follows a log whose last checkpoint note is `last`."""
    content = {
        "v": 1,
        "type": "log.genesis",
        "event_id": uuid(5000),
        "event_time_ms": 1,
        "tenant": "acme",
        "environment": "prod",
        "data": {"vkey": NEXT_KEY.vkey, "shard": 1, "predecessor": "sha256:" + hashlib.sha256(last).hexdigest()},
    }
    entries.check_content(content)
    return entries.build(content, entries.Srv(1, "audit"))


def shard_after(predecessor: Mapping[str, bytes], size: int = 10, *, cites: bytes | None = None) -> dict[str, bytes]:
    """The export of the shard that follows: it holds the predecessor's, and cites its checkpoint."""
    logged = [successor_genesis(predecessor["checkpoint"] if cites is None else cites)]
    logged += [changed(5000 + n, stream=f"plan:next{n}", seq=1) for n in range(1, size)]
    files = files_of(logged)
    files["checkpoint"] = note_of(logged, (SIGNING, NEXT_KEY), origin=NEXT_ORIGIN)
    files["vkey"] = (NEXT_KEY.vkey + "\n").encode()
    return files | {f"predecessor/{path}": data for path, data in predecessor.items()}


NEXT_KEY = VerifierKey.make(NEXT_ORIGIN, KEY.public)
