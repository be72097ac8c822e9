"""Logs that were written yesterday verify for ever, and what was written yesterday is written today."""

from counterseal.cli.audit_verify import Directory
from counterseal.ledger import tiles
from counterseal.ledger.entry import parse
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.registry import REGISTRY
from counterseal.ledger.verify import verify_log
from support.exports import files_of
from support.golden import DIRECTORY, entries_of_every_type

VKEY = "counterseal.dev/0192aa+0764e763+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"


def test_the_golden_log_verifies_with_the_key_that_was_pinned_then() -> None:
    report = verify_log(Directory(DIRECTORY), VerifierKey.parse(VKEY))
    assert report.findings == ()
    assert report.size == len(REGISTRY)


def test_every_type_is_in_it() -> None:
    files = Directory(DIRECTORY)
    (bundle,) = tiles.bundles_of(len(REGISTRY))
    data = files.read(bundle.path)
    assert data is not None
    assert {parse(entry).type for entry in tiles.parse_bundle(bundle, data)} == set(REGISTRY)


def test_the_same_events_are_the_same_bytes_today() -> None:
    fresh = files_of(entries_of_every_type())
    assert {path: data for path, data in fresh.items() if path != "checkpoint"} == {
        path: Directory(DIRECTORY).read(path) for path in fresh if path != "checkpoint"
    }
    assert fresh["checkpoint"] == Directory(DIRECTORY).read("checkpoint"), "Ed25519 signs alike every time"
