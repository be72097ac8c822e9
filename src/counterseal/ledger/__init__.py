"""The transparency log as a pure library: entries, tree, notes, checkpoints, proofs, tiles, verification.

Standard library only, no I/O. Whatever bytes come in, functions that read them raise only `VerificationError`.
"""

from counterseal.ledger.errors import VerificationError

__all__ = ["VerificationError"]
