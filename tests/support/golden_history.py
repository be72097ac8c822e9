"""The golden export with a history (`python -m support.golden_history`): shards, a rotation, witnesses, disclosures.

Like `golden`, written once and verified for ever: by its pinned key and its policy, with tools of any later release.
"""

import json
import shutil
from pathlib import Path

from counterseal.ledger.note import VerifierKey
from support.exports import KEY, SIGNING, changed, files_of, genesis, write
from support.histories import (
    NEW,
    NEXT_KEY,
    NEXT_ORIGIN,
    OLD,
    W1,
    W2,
    W3,
    cosigned,
    key_entry,
    note_of,
    received,
    successor_genesis,
)

DIRECTORY = Path(__file__).resolve().parents[1] / "vectors" / "ledger-v1-history"
POLICY = (
    f"log {NEXT_KEY.vkey}\n"
    f"witness A {W1[1].vkey}\nwitness B {W2[1].vkey}\nwitness C {W3[1].vkey}\n"
    "group two 2 A B C\nquorum two\n"
)
ROTATED_AT = 20


def first_shard() -> dict[str, bytes]:
    """300 entries, a full and a partial tile; both keys sign the last checkpoint, and two witnesses."""
    logged = [
        genesis(),
        *(changed(number, stream=f"plan:{number}", seq=1) for number in range(1, ROTATED_AT)),
        key_entry(ROTATED_AT, NEW[1]),
        *(changed(number, stream=f"plan:{number}", seq=1) for number in range(ROTATED_AT + 1, 300)),
    ]
    files = files_of(logged)
    files["rotation/1"] = note_of(logged[: ROTATED_AT + 1], OLD)
    files["checkpoint"] = cosigned(note_of(logged, OLD, NEW), W1, W2)
    return files


def second_shard(first: dict[str, bytes]) -> dict[str, bytes]:
    """260 entries after it, with sealed fields of which some are shown."""
    key: VerifierKey = NEXT_KEY
    logged, shown = [successor_genesis(first["checkpoint"])], []
    for number in range(1, 260):
        entry, strings = received(5000 + number, {"user_request": f"refund {number}", "intent": {"n": number}})
        logged.append(entry)
        if number % 3 == 0:
            shown.append(json.dumps({"index": number, "disclosures": strings[:1]}, separators=(",", ":")))
    files = files_of(logged)
    files["checkpoint"] = cosigned(note_of(logged, (SIGNING, key), origin=NEXT_ORIGIN), W2, W3)
    files["vkey"] = (key.vkey + "\n").encode()
    files["disclosures.jsonl"] = "".join(line + "\n" for line in shown).encode()
    return files | {f"predecessor/{path}": data for path, data in first.items()}


def export() -> dict[str, bytes]:
    """Every file of the export."""
    return second_shard(first_shard()) | {"policy": POLICY.encode()}


if __name__ == "__main__":
    assert KEY.vkey in (first_shard()["vkey"]).decode()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    write(export(), DIRECTORY)
