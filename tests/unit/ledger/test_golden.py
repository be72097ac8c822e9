"""Logs that were written yesterday verify for ever, and what was written yesterday is written today."""

from counterseal.cli.audit_sources import Directory
from counterseal.ledger import policy as policies
from counterseal.ledger import tiles
from counterseal.ledger.entry import parse
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.registry import REGISTRY
from counterseal.ledger.verify import verify_log
from support.exports import Files, files_of
from support.golden import DIRECTORY, entries_of_every_type
from support.golden_history import DIRECTORY as HISTORY
from support.golden_history import export
from support.requirements import requirement

VKEY = "counterseal.dev/0192aa+0764e763+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"


@requirement("ledger:golden-verified")
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


NEXT_VKEY = "counterseal.dev/0192bb+adec0cb9+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"


@requirement("ledger:golden-verified", "ledger:rotation-followed", "ledger:shards-spanned")
def test_the_golden_log_with_a_history_verifies_with_the_key_and_policy_of_then() -> None:
    policy = policies.parse((HISTORY / "policy").read_bytes())
    report = verify_log(Directory(HISTORY), VerifierKey.parse(NEXT_VKEY), policy=policy)
    assert report.findings == ()
    assert (report.size, report.disclosed_count) == (260, 86)
    assert [(one.size, one.rotation_count) for one in report.shards] == [(300, 1)]
    assert dict(report.witnesses) == {"B": 1_795_000_000, "C": 1_795_000_000}


def test_no_file_of_the_golden_history_can_be_altered_unnoticed() -> None:
    files = {path.relative_to(HISTORY).as_posix(): path.read_bytes() for path in HISTORY.rglob("*") if path.is_file()}
    policy = policies.parse(files.pop("policy"))
    for path, data in files.items():
        at = len(data) // 2
        altered = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        report = verify_log(Files({**files, path: altered}), VerifierKey.parse(NEXT_VKEY), policy=policy)
        assert report.verdict in ("tampered", "forked"), path


def test_the_same_history_is_the_same_bytes_today() -> None:
    assert export() == {
        path.relative_to(HISTORY).as_posix(): path.read_bytes() for path in HISTORY.rglob("*") if path.is_file()
    }
