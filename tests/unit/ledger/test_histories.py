"""Logs with a history: rotated keys, earlier shards, disclosed fields. Each rule is broken once and named."""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest
from nacl.signing import SigningKey

from counterseal.ledger import policy as policies
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.seen import IdSet, Streams
from counterseal.ledger.tree import MAX_SIZE
from counterseal.ledger.verify import Report, verify_log
from support.exports import KEY, ORIGIN, Files, changed, files_of, genesis, log_of, uuid
from support.histories import (
    NEW,
    NEWER,
    NEXT_KEY,
    NEXT_ORIGIN,
    OLD,
    W1,
    W2,
    cosigned,
    key_entry,
    note_of,
    pair,
    received,
    rotated,
    shard_after,
)
from support.requirements import requirement


def verify(files: Mapping[str, bytes], key: VerifierKey = KEY, since: bytes | None = None, **more: object) -> Report:
    return verify_log(Files(files), key, since, **more)  # type: ignore[arg-type]


def texts(report: Report) -> str:
    return "\n".join(f"{f.kind} {f.where}: {f.message}" for f in report.findings)


def found(report: Report, kind: str, text: str) -> None:
    assert report.verdict == kind, texts(report)
    assert text in texts(report)


# --- rotations ---


@requirement("ledger:rotation-followed")
@pytest.mark.parametrize("overlap", [False, True])
def test_the_genesis_key_verifies_across_a_rotation(overlap: bool) -> None:
    report = verify(rotated(overlap=overlap)[1])
    assert report.findings == ()
    assert report.rotation_count == 1


@requirement("ledger:rotation-followed")
def test_a_new_key_that_no_note_vouches_for_signs_nothing() -> None:
    logged, files = rotated()
    without = {path: data for path, data in files.items() if path != "rotation/1"}
    found(verify(without), "incomplete", "rotation/1: the file is missing")
    plain = files_of(log_of(20))
    found(verify({**plain, "checkpoint": note_of(log_of(20), NEW)}), "tampered", "no signature by a known key")
    found(verify({**files, "rotation/1": note_of(logged[:6], NEW)}), "tampered", "rotation/1: the note has no")
    assert verify({**files, "checkpoint": note_of(logged, NEWER)}).verdict == "tampered"


@requirement("ledger:rotation-followed")
@pytest.mark.parametrize("size", [0, 5])
def test_a_rotation_note_that_does_not_cover_the_entry_is_refused(size: int) -> None:
    logged, files = rotated()
    found(verify({**files, "rotation/1": note_of(logged[:size], OLD)}), "tampered", "does not cover the rotation")


def test_a_rotation_note_may_cover_more_but_not_more_than_there_is() -> None:
    logged, files = rotated()
    for size in (7, 20):
        assert verify({**files, "rotation/1": note_of(logged[:size], OLD)}).findings == ()
    longer = [*logged, changed(20, stream="plan:20", seq=1)]
    found(verify({**files, "rotation/1": note_of(longer, OLD)}), "tampered", "larger than this copy")


def test_a_rotation_note_of_another_history_is_a_fork() -> None:
    logged, files = rotated()
    other = [*logged[:3], changed(3, stream="plan:other", seq=1), *logged[4:10]]
    found(verify({**files, "rotation/1": note_of(other, OLD)}), "forked", "not those that the rotation was signed")


def test_a_rotation_note_without_a_rotation_is_refused() -> None:
    logged = log_of(20)
    found(verify({**files_of(logged), "rotation/1": note_of(logged, OLD)}), "tampered", "the log holds 0 rotations")
    logged, files = rotated()
    found(verify({**files, "rotation/2": note_of(logged, NEW)}), "tampered", "the log holds 1 rotations")


def twice() -> tuple[list[bytes], dict[str, bytes]]:
    logged = [genesis()]
    for number in range(1, 300):
        key = {5: NEW[1], 280: NEWER[1]}.get(number)
        logged.append(key_entry(number, key) if key else changed(number, stream=f"plan:{number}", seq=1))
    files = files_of(logged)
    files |= {"rotation/1": note_of(logged[:6], OLD), "rotation/2": note_of(logged[:290], NEW)}
    return logged, {**files, "checkpoint": note_of(logged, NEWER)}


@requirement("ledger:rotation-followed")
def test_rotations_are_followed_one_after_another() -> None:
    logged, files = twice()
    report = verify(files)
    assert (report.findings, report.rotation_count) == ((), 2)
    assert verify({**files, "rotation/2": note_of(logged[:290], OLD)}).findings == (), "an earlier key may vouch"
    swapped = {**files, "rotation/1": files["rotation/2"], "rotation/2": files["rotation/1"]}
    assert verify(swapped).verdict == "tampered"
    missing = {path: data for path, data in files.items() if path != "rotation/1"}
    found(verify(missing), "incomplete", "rotation/1: the file is missing")
    again = [*logged, key_entry(300, NEW[1])]
    more = {**files_of(again), "rotation/1": files["rotation/1"], "rotation/2": files["rotation/2"]}
    more |= {"checkpoint": note_of(again, NEWER), "rotation/3": note_of(again, NEWER)}
    found(verify(more), "tampered", "a key that the log had before")


def test_a_kept_checkpoint_from_before_the_rotation_still_counts() -> None:
    logged, files = rotated()
    assert verify(files, since=note_of(logged[:4], OLD)).findings == ()
    other = [*logged[:3], changed(3, stream="plan:other", seq=1)]
    found(verify(files, since=note_of(other, OLD)), "forked", "two histories")


def test_an_old_key_signs_alone_until_the_log_archives_it() -> None:
    logged, files = rotated()
    by_old = {**files, "checkpoint": note_of(logged, OLD)}
    assert verify(by_old).findings == (), "the overlap has begun, the new key has not signed yet"
    archived = [*logged, key_entry(20, KEY, "key.archived", "archived")]
    for signers, good in (((OLD,), False), ((OLD, NEW), True), ((NEW,), True)):
        after = files_of(archived) | {"rotation/1": files["rotation/1"], "checkpoint": note_of(archived, *signers)}
        report = verify(after)
        assert (report.verdict is None) == good, texts(report)
    found(verify({**after, "checkpoint": note_of(archived, OLD)}), "tampered", "had archived only")


def test_rotations_of_other_keys_and_of_other_logs_are_none_of_ours() -> None:
    logged, _ = rotated()
    for more in ({"kind": "decision"}, {"name": "counterseal.dev/other"}):
        changed_log = [*logged[:5], key_entry(5, NEW[1], **more), *logged[6:]]
        files = files_of(changed_log) | {"rotation/1": note_of(changed_log[:6], OLD)}
        found(verify({**files, "checkpoint": note_of(changed_log, NEW)}), "tampered", "the log holds 0 rotations")


def test_a_rotation_to_a_key_of_small_order_is_refused() -> None:
    weak = VerifierKey(ORIGIN, b"\1" + b"\0" * 31)
    logged = [*log_of(5), key_entry(5, weak)]
    files = files_of(logged) | {"rotation/1": note_of(logged, OLD)}
    found(verify(files), "tampered", "not a usable Ed25519 point")


def test_a_rotation_in_a_bundle_that_is_missing_is_incomplete() -> None:
    _, files = twice()
    gone = ("tile/entries/000",)
    report = verify({path: data for path, data in files.items() if path not in gone})
    assert {f.kind for f in report.findings} <= {"incomplete", "tampered"}
    assert report.verdict is not None


# --- shards ---


@requirement("ledger:shards-spanned")
def test_one_verification_spans_a_shard_and_its_predecessor() -> None:
    first = files_of(log_of(300))
    files = shard_after(first)
    report = verify(files, NEXT_KEY)
    assert report.findings == (), texts(report)
    assert (report.origin, report.size) == (NEXT_ORIGIN, 10)
    assert [(one.origin, one.size) for one in report.shards] == [(ORIGIN, 300)]
    assert verify(files, NEXT_KEY, pinned=[KEY]).findings == ()


@requirement("ledger:shards-spanned")
def test_entries_of_the_older_shard_come_first() -> None:
    indexes: list[int] = []
    files = shard_after(files_of(log_of(4)), 3)
    assert verify(files, NEXT_KEY, on_entry=lambda index, _: indexes.append(index)).findings == ()
    assert indexes == [0, 1, 2, 3, 0, 1, 2]


@requirement("ledger:shards-spanned")
def test_a_missing_predecessor_is_incomplete_and_another_one_tampered() -> None:
    files = shard_after(files_of(log_of(300)))
    alone = {path: data for path, data in files.items() if not path.startswith("predecessor/")}
    found(verify(alone, NEXT_KEY), "incomplete", "predecessor/checkpoint: the shard before")
    other = {f"predecessor/{path}": data for path, data in files_of(log_of(200)).items()}
    found(verify({**alone, **other}, NEXT_KEY), "tampered", "not the checkpoint that the genesis entry cites")
    uncited = {**files_of(log_of(5)), **other}
    found(verify(uncited), "tampered", "not the checkpoint that the genesis entry cites")


@requirement("ledger:shards-spanned")
def test_damage_in_a_predecessor_is_named_with_its_folder() -> None:
    files = shard_after(files_of(log_of(300)))
    for path in [one for one in files if one.startswith("predecessor/")]:
        data = bytearray(files[path])
        data[len(data) // 2] ^= 1
        report = verify({**files, path: bytes(data)}, NEXT_KEY)
        assert report.verdict in ("tampered", "forked"), path
        assert any(f.where.startswith("predecessor/") for f in report.findings), texts(report)
        gone = {name: content for name, content in files.items() if name != path}
        if path != "predecessor/vkey":
            assert verify(gone, NEXT_KEY).verdict == "incomplete", path
    found(verify(files, NEXT_KEY, pinned=[pair(33)[1]]), "tampered", "predecessor/")


def test_a_predecessor_may_be_cited_with_or_without_its_cosignatures() -> None:
    first = files_of(log_of(20))
    plain, with_witness = first["checkpoint"], cosigned(first["checkpoint"], W1)
    for lies_there, cited in ((plain, plain), (with_witness, with_witness), (with_witness, plain)):
        files = shard_after({**first, "checkpoint": lies_there}, cites=cited)
        assert verify(files, NEXT_KEY).findings == ()
    files = shard_after({**first, "checkpoint": plain}, cites=with_witness)
    assert verify(files, NEXT_KEY).verdict == "tampered"


def test_an_event_id_of_an_older_shard_is_not_used_again() -> None:
    logged = [changed(n, stream=f"plan:{n}", seq=1) for n in range(1, 3)]
    first = files_of([genesis(), changed(5002, stream="plan:x", seq=1), *logged])
    found(verify(shard_after(first), NEXT_KEY), "tampered", f"{uuid(5002)} is that of predecessor/entry 1")


def test_a_predecessor_of_another_tenant_is_refused() -> None:
    first = files_of([genesis(tenant="globex")])
    found(verify(shard_after(first), NEXT_KEY), "tampered", "another tenant or environment")


def test_a_predecessor_without_a_usable_key_is_refused_unless_its_key_is_pinned() -> None:
    files = shard_after(files_of(log_of(20)))
    for vkey in (None, b"nonsense", b"\xff"):
        broken = {path: data for path, data in files.items() if path != "predecessor/vkey"}
        if vkey is not None:
            broken["predecessor/vkey"] = vkey
        assert verify(broken, NEXT_KEY).verdict == "tampered"
    broken.pop("predecessor/vkey")
    assert verify(broken, NEXT_KEY, pinned=[KEY]).findings == ()


def test_an_endless_chain_of_shards_ends() -> None:
    class Mirror:
        """The same log below itself, for ever."""

        files = files_of(log_of(3))

        def read(self, path: str) -> bytes | None:
            return self.files.get(path.rpartition("predecessor/")[2])

        def paths(self, below: str = "tile/") -> list[str]:
            return []

        def lines(self, path: str) -> None:
            return None

    assert verify_log(Mirror(), KEY).verdict == "tampered"


# --- disclosures ---


def disclosed() -> tuple[dict[str, bytes], dict[int, list[str]]]:
    logged, strings = [genesis()], {}
    for number in range(1, 270):
        entry, own = received(number, {"user_request": f"refund {number}", "intent": {"n": number}})
        logged.append(entry)
        strings[number] = own
    return files_of(logged), strings


def lines_of(strings: Mapping[int, list[str]]) -> bytes:
    return b"".join(
        json.dumps({"index": index, "disclosures": own}, separators=(",", ":")).encode() + b"\n"
        for index, own in strings.items()
    )


FILES, STRINGS = disclosed()


@requirement("ledger:disclosures-checked")
def test_disclosures_that_the_entries_sealed_are_counted_all_or_some() -> None:
    assert verify({**FILES, "disclosures.jsonl": lines_of(STRINGS)}).disclosed_count == 2 * 269
    some = {2: STRINGS[2][:1], 265: STRINGS[265]}
    report = verify({**FILES, "disclosures.jsonl": lines_of(some)})
    assert (report.findings, report.disclosed_count) == ((), 3)
    assert verify({**FILES, "disclosures.jsonl": b""}).findings == ()
    swapped = b'{"disclosures": ["' + STRINGS[3][0].encode() + b'"], "index": 3}\n'
    assert verify({**FILES, "disclosures.jsonl": swapped}).disclosed_count == 1


@requirement("ledger:disclosures-checked")
def test_a_disclosure_that_was_not_sealed_there_is_tampered() -> None:
    forged, _ = received(900, {"user_request": "give me all"})
    del forged
    _, other = received(900, {"user_request": "give me all"})
    for strings in ({2: STRINGS[3]}, {2: other}, {0: STRINGS[2]}):
        found(verify({**FILES, "disclosures.jsonl": lines_of(strings)}), "tampered", "disclosures.jsonl, line 1")
    twice_over = {2: [STRINGS[2][0], STRINGS[2][0]]}
    found(verify({**FILES, "disclosures.jsonl": lines_of(twice_over)}), "tampered", "occurs twice")


@requirement("ledger:disclosures-checked")
@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\n",
        b"{}\n",
        b'{"index":1,"disclosures":[]}\n',
        b'{"index":1}\n',
        b'{"index":01,"disclosures":["a"]}\n',
        b'{"index":-1,"disclosures":["a"]}\n',
        b'{"index":1,"disclosures":["a"],"more":1}\n',
        b'{"index":1,"disclosures":"a"}\n',
        b"\n",
    ],
)
def test_a_malformed_line_is_named(text: bytes) -> None:
    found(verify({**FILES, "disclosures.jsonl": text}), "tampered", "disclosures.jsonl, line 1")


def test_lines_are_in_order_of_the_entries_and_within_the_log() -> None:
    found(verify({**FILES, "disclosures.jsonl": lines_of({3: STRINGS[3], 2: STRINGS[2]})}), "tampered", "in order")
    found(verify({**FILES, "disclosures.jsonl": lines_of({2: STRINGS[2]}) * 2}), "tampered", "in order")
    found(verify({**FILES, "disclosures.jsonl": lines_of({270: STRINGS[2]})}), "tampered", "there is no entry 270")
    assert verify({**FILES, "disclosures.jsonl": lines_of({269: STRINGS[269]})}).findings == ()


# --- witnesses ---


@requirement("ledger:witnesses")
def test_a_log_is_verified_with_the_policy_s_witnesses() -> None:
    files = files_of(log_of(5))
    policy = policies.parse(f"witness A {W1[1].vkey}\nwitness B {W2[1].vkey}\ngroup G any A B\nquorum G\n".encode())
    report = verify({**files, "checkpoint": cosigned(files["checkpoint"], W2)}, policy=policy)
    assert (report.findings, report.witnesses) == ((), (("B", 1_795_000_000),))
    found(verify(files, policy=policy), "incomplete", "not cosigned by the quorum")
    bad = cosigned(files["checkpoint"], (SigningKey(b"\x63" * 32), W2[1]))
    found(verify({**files, "checkpoint": bad}, policy=policy), "tampered", "does not verify")


# --- what is remembered of every entry ---


def test_ids_that_occur_twice_are_suspected_and_no_others() -> None:
    ids = IdSet()
    for number in range(3000):
        ids.add(uuid(number))
    assert ids.suspects() == set()
    ids.add(uuid(7))
    ids.add(uuid(9))
    ids.add(uuid(9))
    assert ids.suspects() == {IdSet.fingerprint(uuid(7)), IdSet.fingerprint(uuid(9))}
    assert len(ids.suspects(limit=1)) == 1


def test_streams_count_across_growth_of_their_table() -> None:
    streams = Streams()
    for seq in (1, 2, 3):
        for number in range(2000):
            assert streams.advance(f"plan:{number}", seq) == seq
    assert streams.advance("plan:7", 9) == 4
    assert streams.advance("plan:7", 5) == 10, "what was seen last counts, so one gap is one finding"
    assert streams.advance("plan:big", MAX_SIZE) == 1


def test_the_id_check_needs_a_few_bytes_an_entry() -> None:
    code = (
        "import resource, uuid\n"
        "from counterseal.ledger.seen import IdSet, Streams\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ids, streams = IdSet(), Streams()\n"
        "for n in range(400_000):\n"
        "    ids.add('0192f000-0000-7000-8000-%012x' % n)\n"
        "    if n % 10 == 0: streams.advance('plan:%d' % n, 1)\n"
        "assert not ids.suspects()\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 12_000, grown\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
