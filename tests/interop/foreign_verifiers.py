# mypy: ignore-errors
"""Runs in an environment of its own: reads an exported log with `tlog-scales` and `sigstore`, and nothing of ours.

usage: python foreign_verifiers.py DIR VKEY INDEX[,INDEX..]; prints one JSON document {tool: "accepted" or why not}.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def tlog_scales(directory: str, vkey: str, indexes: Sequence[int]) -> None:
    """Checkpoint signature, and every entry's inclusion from the tiles."""
    from tlog_scales import backend, signing, tiles
    from tlog_scales.reader import TilesReader

    reader = TilesReader(backend.make_backend(directory))
    checkpoint = reader.get_checkpoint()
    checkpoint.verify(signing.Vkey.from_string(vkey))
    for index in indexes:
        entry = reader.get_entry(index)
        proof = reader.get_inclusion_proof(index, checkpoint.size)
        proof.check(tiles.leaf_hash(entry), checkpoint.root_hash)


def sigstore(directory: str, vkey: str, indexes: Sequence[int]) -> None:
    """The note by sigstore's parser, its signature by `cryptography`, inclusion by sigstore's Merkle code."""
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from sigstore._internal.merkle import verify_merkle_inclusion
    from sigstore._internal.rekor.checkpoint import SignedCheckpoint
    from tlog_scales import backend
    from tlog_scales.reader import TilesReader

    text = (Path(directory) / "checkpoint").read_text(encoding="utf-8")
    signed = SignedCheckpoint.from_text(text)
    name, _, material = vkey.split("+", 2)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(material)[1:])
    (signature,) = (s for s in signed.signed_note.signatures if s.name == name)
    key.verify(base64.b64decode(signature.signature), signed.signed_note.note.encode())
    reader = TilesReader(backend.make_backend(directory))
    reader.get_checkpoint()
    size, root = signed.checkpoint.log_size, bytes.fromhex(signed.checkpoint.log_hash)
    for index in indexes:
        hashes = list(reader.get_inclusion_proof(index, size).node_hashes)
        proof = SimpleNamespace(log_index=index, tree_size=size, hashes=hashes, root_hash=root)
        inner = SimpleNamespace(inclusion_proof=proof, canonicalized_body=reader.get_entry(index))
        verify_merkle_inclusion(SimpleNamespace(_inner=inner))


def verdict(tool: Callable[..., None], *arguments: Any) -> str:
    try:
        tool(*arguments)
    except Exception as error:  # noqa: BLE001 (foreign code, any error is a refusal)
        return f"{type(error).__name__}: {error}"
    return "accepted"


if __name__ == "__main__":
    arguments = (sys.argv[1], sys.argv[2], [int(text) for text in sys.argv[3].split(",")])
    json.dump({tool.__name__: verdict(tool, *arguments) for tool in (tlog_scales, sigstore)}, sys.stdout)
