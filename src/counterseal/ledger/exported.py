"""What an export as tiles hands out, as one digest: the `manifest_digest` of its `access.disclosed` entry. Pure.

A checkpoint's size and root fix every entry and every hash below it, so whoever holds an export can say which one it
is; the signatures beside it (cosignatures, notes of rotations) are not part of that.
"""

from collections.abc import Sequence

from counterseal.canonical import JsonObject, digest_of
from counterseal.ledger.checkpoint import Checkpoint

KIND = "tiles-manifest"


def manifest(heads: Sequence[Checkpoint]) -> JsonObject:
    """Return the manifest of an export. heads: the log's checkpoint first, then those of the shards before it."""
    logs = [{"origin": head.origin, "root": head.root.hex(), "size": head.size} for head in heads]
    return {"logs": logs, "v": 1}


def manifest_digest(heads: Sequence[Checkpoint]) -> str:
    """Return the digest that names an export."""
    return digest_of(KIND, manifest(heads))
