"""Mutated inputs into every reader of the ledger library: `make fuzz`, a million by default, replayable by its seed.

Whatever the bytes are, a reader returns or raises VerificationError (the witness: Refused); anything else ends the run
with the input. The suite runs the same for a moment.
"""

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from counterseal.ledger import checkpoint, disclosure, entry, monitor, note, policy, proof, tiles, witness
from counterseal.ledger.encoding import b64url
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.keyring import Keyring, claimed
from counterseal.ledger.tree import Frontier
from counterseal.ledger.verify import verify_log
from support.exports import KEY, Files, files_of, log_of
from support.golden import entries_of_every_type
from support.histories import NEXT_KEY, OLD, W1, W2, cosigned, note_of, received, rotated, shard_after

LOG = log_of(5)
FILES = files_of(LOG)
COSIGNED = cosigned(note_of(LOG, OLD), W1, W2)
PROOF = proof.TlogProof(1, (b"\1" * 32, b"\2" * 32), COSIGNED, b"extra").serialize()
DISCLOSURE = disclosure.make("args", {"a": [1, "x", None]}, lambda n: b"s" * n)
BUNDLE = tiles.Tile(None, 0, 5)
POLICY = f"log {KEY.vkey}\nwitness A {W1[1].vkey} https://w\nwitness B {W2[1].vkey}\ngroup G any A B\nquorum G\n"
REQUEST = witness.AddCheckpoint(0, (), note_of(LOG, OLD)).serialize()
KEPT = monitor.Kept(COSIGNED, Frontier(), (KEY.public.hex(),), ((3, KEY.public.hex()),), (), 5).serialize()
HISTORY = shard_after(rotated(8)[1], 3)
SEALED, STRINGS = received(1, {"user_request": "x", "intent": {"a": 1}})
SHOWN = f'{{"index":1,"disclosures":["{STRINGS[0]}","{STRINGS[1]}"]}}\n'.encode()
ENTRIES = entries_of_every_type()

Reader = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Target:
    """A reader, good inputs to start from, and its share of the inputs."""

    read: Reader
    good: tuple[bytes, ...]
    share: int = 100


def text_of(data: bytes) -> str:
    """Text as a command line gives it: undecodable bytes are lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def in_a_log(path: str, files: dict[str, bytes]) -> Reader:
    """Verify a whole log of which one file is the input; nothing may be raised at all."""

    def read(data: bytes) -> object:
        report = verify_log(Files({**files, path: data}), NEXT_KEY if "predecessor/vkey" in files else KEY)
        assert report.verdict in (None, "tampered", "incomplete", "forked")
        return report

    return read


TARGETS: dict[str, Target] = {
    "note": Target(note.split, (COSIGNED,)),
    "note with keys": Target(lambda data: note.open_note(data, [KEY, W1[1]]), (COSIGNED,), 2),
    "checkpoint": Target(lambda data: checkpoint.open_checkpoint(data, [KEY]), (COSIGNED,), 2),
    "own lines": Target(lambda data: checkpoint.own_lines(data, KEY.name), (COSIGNED,)),
    "checkpoint text": Target(lambda data: checkpoint.parse_text(text_of(data)), (COSIGNED,)),
    "head before keys": Target(claimed, (COSIGNED,)),
    "head with rotation": Target(
        lambda data: Keyring(KEY, [], [(3, W1[1].public.hex())]).open_head(data), (COSIGNED,), 2
    ),
    "proof": Target(proof.parse, (PROOF,)),
    "proof of an entry": Target(lambda data: proof.parse(data).verify(b"{}", [KEY]), (PROOF,), 2),
    "vkey": Target(lambda data: note.VerifierKey.parse(text_of(data)), (KEY.vkey.encode(),), 20),
    "witness vkey": Target(lambda data: note.VerifierKey.parse_cosigner(text_of(data)), (W1[1].vkey.encode(),), 20),
    "policy": Target(policy.parse, (POLICY.encode(),), 20),
    "entry": Target(entry.parse, tuple(ENTRIES)),
    "entry, slowly": Target(entry.parse_slowly, tuple(ENTRIES)),
    "disclosure": Target(lambda data: disclosure.parse(text_of(data)), (DISCLOSURE.encode(),)),
    "disclosed json": Target(
        lambda data: disclosure.parse(b64url(data)), (b'["c3Nzc3Nzc3Nzc3Nzc3Nzcw","args",1]', b'["a","b",null]')
    ),
    "bundle": Target(lambda data: tiles.parse_bundle(BUNDLE, data), (FILES[BUNDLE.path],)),
    "hashes": Target(lambda data: tiles.parse_hashes(tiles.Tile(0, 0, 5), data), (FILES["tile/0/000.p/5"],)),
    "path": Target(lambda data: tiles.parse_path(text_of(data)), (b"tile/0/x001/234.p/5", b"tile/entries/001")),
    "frontier": Target(lambda data: Frontier.parse(5, data), (b"\0" * 64,)),
    "witness request": Target(witness.AddCheckpoint.parse, (REQUEST,)),
    "witness": Target(lambda data: witness.check(data, None, {KEY.name: [KEY]}), (REQUEST,), 2),
    "witness answer": Target(
        lambda data: witness.cosignatures(note_of(LOG, OLD), data, W1[1]), (COSIGNED[len(note_of(LOG, OLD)) :],), 2
    ),
    "monitor's state": Target(monitor.Kept.parse, (KEPT,)),
    **{f"log: {path}": Target(in_a_log(path, FILES), (data,), 1) for path, data in FILES.items()},
    **{
        f"history: {path}": Target(in_a_log(path, HISTORY), (data,), 1)
        for path, data in HISTORY.items()
        if path.startswith("predecessor/")
    },
    "disclosures": Target(in_a_log("disclosures.jsonl", files_of([LOG[0], SEALED])), (SHOWN,), 1),
}

_PIECES = (
    b"\n",
    b"\n\n",
    b"\0",
    b"=",
    b"+",
    b" ",
    b'"',
    b"{",
    b"[",
    b"\xff",
    b"\xe2\x80\x94 ",
    b"\xe2\x80\xa8",
    b"-1",
    b"9" * 30,
)


def mutated(good: bytes, dice: random.Random) -> bytes:
    """Some cuts, flips, insertions and repetitions of good bytes, or no good bytes at all."""
    if dice.random() < 0.05:
        return dice.randbytes(dice.randrange(200))
    data = bytearray(good)
    for _ in range(dice.randint(1, 4)):
        at = dice.randint(0, len(data))
        kind = dice.randrange(5)
        if kind == 0 and at < len(data):
            data[at] = dice.randrange(256)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            data[at:at] = dice.choice(_PIECES)
        elif kind == 3:
            del data[at : at + dice.randint(1, 20)]
        else:
            end = dice.randint(0, len(data))
            data[at:at] = data[min(at, end) : max(at, end)]
    return bytes(data)


def inputs(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` inputs, each with the name of its target, by share."""
    dice = random.Random(seed)
    names, shares = list(TARGETS), [one.share for one in TARGETS.values()]
    for _ in range(count):
        (name,) = dice.choices(names, shares)
        yield name, mutated(dice.choice(TARGETS[name].good), dice)


def attack(name: str, data: bytes) -> None:
    """Give one input to its reader."""
    with contextlib.suppress(VerificationError, witness.Refused):
        TARGETS[name].read(data)


def main() -> int:
    """Run and say how many inputs each reader had."""
    parser = argparse.ArgumentParser(prog="support.fuzz")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    counts = dict.fromkeys(TARGETS, 0)
    for number, (name, data) in enumerate(inputs(args.count, args.seed)):
        try:
            attack(name, data)
        except BaseException as error:
            sys.stderr.write(f"input {number} of seed {args.seed}, {name}: {type(error).__name__}\n{data!r}\n")
            raise
        counts[name] += 1
    for name, count in counts.items():
        sys.stdout.write(f"{count:>8}  {name}\n")
    seconds = time.monotonic() - began
    sys.stdout.write(f"{args.count} inputs (seed {args.seed}) raised only VerificationError, in {seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
