"""The Node client's canonicaliser is a second implementation: on every input it must say what ours says."""

import json
import math
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from counterseal.canonical import canonical, digest, parse_canonical, parse_strict
from counterseal.errors import NotCanonical
from support.requirements import requirement

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "examples" / "node-client"
SHARED = Path(os.environ.get("COUNTERSEAL_SHARED", ROOT.parent / "shared"))
VECTORS = SHARED / "vectors" / "plan" / "plan-vectors.json"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def _node(cases: list[tuple[str, bytes]], kind: str = "plan") -> list[dict[str, str]]:
    lines = "".join(json.dumps({"op": op, "kind": kind, "hex": data.hex()}) + "\n" for op, data in cases)
    command = ["node", str(CLIENT / "bin" / "canonical.js")]
    result = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def _ours(op: str, data: bytes) -> bytes | None:
    try:
        if op == "accept":
            parse_canonical(data)
            return data
        return canonical(parse_strict(data))
    except NotCanonical:
        return None


@requirement("canonical:vectors-node")
@pytest.mark.skipif(not VECTORS.exists(), reason="the shared vectors are not beside this repository")
def test_all_public_plan_vectors_pass_in_node() -> None:
    vectors: dict[str, Any] = json.loads(VECTORS.read_text())
    accepted, rejected = vectors["accept"], vectors["reject"]
    answers = _node([("accept", bytes.fromhex(case["canonical_hex"])) for case in accepted])
    assert [answer.get("digest") for answer in answers] == ["sha256:" + case["sha256"] for case in accepted]
    assert len(accepted) >= 10
    field = next(name for name in rejected[0] if name.endswith("hex"))
    refusals = _node([("accept", bytes.fromhex(case[field])) for case in rejected])
    assert all("refused" in answer for answer in refusals)
    assert len(rejected) >= 12


def test_random_doubles_are_printed_alike() -> None:
    source = random.Random(2)
    values = [struct.unpack("<d", source.randbytes(8))[0] for _ in range(20_000)]
    values += [source.uniform(-1e6, 1e6) for _ in range(5_000)] + [10.0**power for power in range(-330, 309)]
    values = [value for value in values if math.isfinite(value)]
    values = [value for value in values if not value.is_integer() or abs(value) < 2**53 or abs(value) >= 1e21]
    ours = canonical({"n": values})
    assert len(values) > 20_000
    sent = b'{"n":[' + b",".join(b"%.17e" % value for value in values) + b"]}"
    (answer,) = _node([("canonicalize", sent)])
    assert bytes.fromhex(answer["hex"]) == ours


PIECES = [
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b'"b"', b'"\\u0061"', b"null", b"true", b" ", b"\n"),
    *(b"1", b"-0", b"0.1", b"0.10", b"1e2", b"1E+2", b"1e20", b"1e21", b"1e400", b"01", b"-"),
    *(b"9007199254740991", b"9007199254740992", b"\xef\xbb\xbf", b'"\xff"', b'"\xc3\xa9"', b'"\xe2\x80\xa8"'),
    *(b'"\\ud83d\\ude00"', b'"\\ud800"', b'"\\u0000"', b'"__proto__"'),
]
KEYS = [b"a", b"b", b"c", b"\\u0061", b"__proto__"]
VALUES = [b"1", b"0.1", b"1e2", b"-0", b'"x"', b"null", b"[]", b"{}", b"1e21", b"98.70", b'"\\u00e9"', b'"\\/"']


def _object(source: random.Random) -> bytes:
    members = (b'"%s":%s' % (source.choice(KEYS), source.choice(VALUES)) for _ in range(source.randint(0, 3)))
    return b"{" + b",".join(members) + b"}"


def test_random_documents_sound_and_broken_are_judged_alike() -> None:
    source = random.Random(7)
    documents = [_object(source) for _ in range(3_000)]
    documents += [b"{" + b"".join(source.choices(PIECES, k=source.randint(0, 6))) + b"}" for _ in range(3_000)]
    cases = [(op, document) for document in documents for op in ("accept", "canonicalize")]
    expected = [_ours(op, document) for op, document in cases]
    for case, ours, theirs in zip(cases, expected, _node(cases), strict=True):
        if ours is None:
            assert "refused" in theirs, case
        else:
            assert theirs == {"digest": digest("plan", ours), "hex": ours.hex()}, case
    assert 500 < sum(answer is not None for answer in expected) < len(cases) - 500
