"""The floor of a verifier: `python -m bench.hash_export DIR` hashes the entries of an export."""

import sys
from pathlib import Path

from counterseal.ledger.tiles import bundles_of, parse_bundle
from counterseal.ledger.tree import Frontier, leaf_hash


def root(folder: Path) -> str:
    """Return the root over all entries, in hexadecimal."""
    size = int((folder / "checkpoint").read_text().split("\n")[1])
    tree = Frontier()
    for bundle in bundles_of(size):
        tree = tree.extend(leaf_hash(entry) for entry in parse_bundle(bundle, (folder / bundle.path).read_bytes()))
    return tree.root().hex()


if __name__ == "__main__":
    print(root(Path(sys.argv[1])))
