"""What is changed, and the tests that must notice."""

LEDGER = "src/counterseal/ledger"
UNIT = "tests/unit/ledger"
TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    f"{LEDGER}/encoding.py": ("counterseal.ledger.encoding", ("test_encodings.py",)),
    f"{LEDGER}/ed25519.py": ("counterseal.ledger.ed25519", ("test_ed25519.py",)),
    f"{LEDGER}/tree.py": ("counterseal.ledger.tree", ("test_tree.py",)),
    f"{LEDGER}/proof.py": ("counterseal.ledger.proof", ("test_proof.py",)),
    f"{LEDGER}/note.py": ("counterseal.ledger.note", ("test_vkeys.py", "test_note.py", "test_cosignatures.py")),
    f"{LEDGER}/checkpoint.py": ("counterseal.ledger.checkpoint", ("test_note.py", "test_cosignatures.py")),
    f"{LEDGER}/keyring.py": (
        "counterseal.ledger.keyring",
        ("test_keyring.py", "test_followed.py", "test_histories.py"),
    ),
    f"{LEDGER}/policy.py": ("counterseal.ledger.policy", ("test_policies.py", "test_cosignatures.py")),
    f"{LEDGER}/witness.py": ("counterseal.ledger.witness", ("test_witness.py",)),
    f"{LEDGER}/tiles.py": ("counterseal.ledger.tiles", ("test_tiles.py",)),
    f"{LEDGER}/disclosure.py": ("counterseal.ledger.disclosure", ("test_disclosures.py",)),
    "services/audit/counterseal_audit/checkpoints/engine.py": (
        "counterseal_audit.checkpoints.engine",
        ("../audit/test_checkpoint_engine.py", "../audit/test_head_mac.py"),
    ),
    "services/audit/counterseal_audit/checkpoints/heads.py": (
        "counterseal_audit.checkpoints.heads",
        ("../audit/test_signed_heads.py",),
    ),
    "services/audit/counterseal_audit/append/mac.py": ("counterseal_audit.append.mac", ("../audit/test_head_mac.py",)),
    "services/audit/counterseal_audit/logs/anchors.py": (
        "counterseal_audit.logs.anchors",
        ("../audit/test_anchors.py",),
    ),
}
"""Source -> the module's name, the tests beside it."""
