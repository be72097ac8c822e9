"""Which keys a log may sign with: what its entries say, what a note must cover to vouch, and what is over."""

import pytest
from nacl.signing import SigningKey

from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.keyring import MAX_ROTATIONS, Keyring, claimed, rotation_path
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import EMPTY_ROOT, leaf_hash, root_of
from support.exports import KEY, ORIGIN, changed, genesis
from support.histories import NEW, NEWER, OLD, Pair, key_entry, note_of, pair
from support.requirements import requirement

OTHER = pair(13)


def log_with(size: int, **rotations: Pair) -> list[bytes]:
    """A log of `size` entries with a `key.rotated` at some of them: at_<index>=key."""
    keys = {int(name.removeprefix("at_")): key for name, (_, key) in rotations.items()}

    def entry(n: int) -> bytes:
        return key_entry(n, keys[n]) if n in keys else changed(n, stream=f"plan:{n}", seq=1)

    return [genesis(), *map(entry, range(1, size))]


def ring_of(logged: list[bytes]) -> Keyring:
    ring = Keyring(KEY)
    for index, data in enumerate(logged):
        ring.see(index, entries.parse(data))
    return ring


def roots_of(logged: list[bytes]) -> dict[int, bytes]:
    return {size: root_of(map(leaf_hash, logged[:size])) for size in range(1, len(logged) + 1)}


LOG = log_with(12, at_4=NEW, at_8=NEWER)
ROOTS = roots_of(LOG)


def test_it_begins_with_the_pinned_key_and_goes_on_with_those_it_is_given() -> None:
    assert Keyring(KEY).accepted == [KEY]
    assert Keyring(KEY, [KEY, NEW[1]]).accepted == [KEY, NEW[1]]
    assert rotation_path(1) == "rotation/1"
    assert claimed(note_of(LOG, OLD)).size == 12


def test_what_entries_say_of_this_log_s_keys_is_noted_in_order() -> None:
    ring = ring_of(LOG)
    assert ring.rotated == [(4, NEW[1].public.hex()), (8, NEWER[1].public.hex())]
    assert ring.archived == set()


@pytest.mark.parametrize(
    ("data", "rotated", "archived"),
    [
        (key_entry(1, NEW[1]), True, False),
        (key_entry(1, NEW[1], state=""), True, False),
        (key_entry(1, NEW[1], state="archived"), False, True),
        (key_entry(1, NEW[1], "key.archived"), False, True),
        (key_entry(1, NEW[1], "key.archived", ""), False, True),
        (key_entry(1, NEW[1], "key.archived", "archived"), False, True),
        (key_entry(1, NEW[1], kind="decision"), False, False),
        (key_entry(1, NEW[1], "key.archived", kind="decision"), False, False),
        (key_entry(1, NEW[1], name="counterseal.dev/other"), False, False),
        (key_entry(1, NEW[1], "key.archived", name="counterseal.dev/other"), False, False),
        (changed(1), False, False),
        (genesis(), False, False),
    ],
)
def test_only_what_is_said_of_this_log_s_own_keys_counts(data: bytes, rotated: bool, archived: bool) -> None:
    ring = Keyring(KEY)
    ring.see(7, entries.parse(data))
    assert ring.rotated == ([(7, NEW[1].public.hex())] if rotated else [])
    assert ring.archived == ({NEW[1].public.hex()} if archived else set())


def test_a_rotation_that_does_not_say_to_which_key_is_none() -> None:
    content = {
        "v": 1,
        "type": "key.rotated",
        "event_id": "0192f000-0000-7000-8000-000000000001",
        "event_time_ms": 1,
        "tenant": "acme",
        "environment": "prod",
        "data": {"kind": "log", "name": ORIGIN, "version": "1"},
    }
    entries.check_content(content)
    ring = Keyring(KEY)
    ring.see(1, entries.parse(entries.build(content, entries.Srv(1, "audit"))))
    assert (ring.rotated, ring.archived) == ([], set())


def test_as_many_rotations_are_followed_as_is_stated() -> None:
    ring, entry = Keyring(KEY), entries.parse(key_entry(1, NEW[1]))
    for index in range(MAX_ROTATIONS + 5):
        ring.see(index, entry)
    assert MAX_ROTATIONS == 1000
    assert [index for index, _ in ring.rotated] == list(range(1000))


@requirement("ledger:rotation-followed")
@pytest.mark.parametrize("size", range(1, 13))
def test_a_note_vouches_for_the_rotations_that_its_tree_holds(size: int) -> None:
    for number, index in ((1, 4), (2, 8)):
        ring = ring_of(LOG)
        ring.accepted += [NEW[1]] * (number - 1)
        note = note_of(LOG[:size], OLD)
        if size > index:
            ring.accept(number, note, ROOTS)
            assert ring.accepted[-1] == (NEW, NEWER)[number - 1][1]
        else:
            with pytest.raises(VerificationError, match=f"does not cover the rotation at entry {index}"):
                ring.accept(number, note, ROOTS)


@requirement("ledger:rotation-followed")
def test_nothing_else_vouches() -> None:
    ring = ring_of(LOG)
    fork = [*LOG[:2], changed(99), *LOG[3:]]
    for number, note, roots, kind, why in (
        (1, note_of(LOG, NEW), ROOTS, "tampered", "no signature by a known key"),
        (1, note_of(LOG, NEWER), ROOTS, "tampered", "no signature by a known key"),
        (2, note_of(LOG, NEWER), ROOTS, "tampered", "no signature by a known key"),
        (3, note_of(LOG, OLD), ROOTS, "tampered", "the log holds 2 rotations of its key, not 3"),
        (1, note_of(LOG, OLD), {11: ROOTS[11], 13: ROOTS[12]}, "tampered", "larger than this copy"),
        (1, note_of(LOG, OLD), {}, "tampered", "larger than this copy"),
        (1, note_of(fork, OLD), ROOTS, "forked", "not those that the rotation was signed under"),
        (1, b"nonsense", ROOTS, "tampered", "no blank line"),
    ):
        with pytest.raises(VerificationError, match=why) as caught:
            ring.accept(number, note, roots)
        assert caught.value.kind == kind
        assert ring.accepted == [KEY]
    ring.accept(1, note_of(LOG, OLD), {12: ROOTS[12]})
    ring.accept(2, note_of(LOG, NEW), ROOTS)
    assert ring.accepted == [KEY, NEW[1], NEWER[1]]


@requirement("ledger:rotation-followed")
def test_a_key_is_never_taken_up_again() -> None:
    for again in (OLD, NEW):
        logged = log_with(12, at_4=NEW, at_8=again)
        ring = ring_of(logged)
        ring.accept(1, note_of(logged, OLD), roots_of(logged))
        with pytest.raises(VerificationError, match="entry 8 names a key that the log had before"):
            ring.accept(2, note_of(logged, NEW), roots_of(logged))
        assert ring.accepted == [KEY, NEW[1]]


def test_a_rotation_to_what_is_no_key_is_refused() -> None:
    for public in (bytes(32), NEW[1].public[:31], NEW[1].public + b"\0"):
        logged = [genesis(), key_entry(1, VerifierKey(ORIGIN, public))]
        ring = ring_of(logged)
        with pytest.raises(VerificationError, match="not a usable Ed25519 point"):
            ring.accept(1, note_of(logged, OLD), roots_of(logged))
        with pytest.raises(VerificationError, match="no signature by a known key"):
            ring.open_head(note_of(logged, NEW))
        assert ring.accepted == [KEY]


# --- the latest checkpoint ---


@requirement("ledger:rotation-followed")
def test_a_head_by_a_key_that_no_note_vouched_for_names_the_note_that_is_missing() -> None:
    ring = ring_of(LOG)
    for accepted, signers, where in (
        ([KEY], (NEW,), "rotation/1"),
        ([KEY], (NEWER,), "rotation/1"),
        ([KEY], (NEW, NEWER), "rotation/1"),
        ([KEY, NEW[1]], (NEWER,), "rotation/2"),
    ):
        ring.accepted = list(accepted)
        with pytest.raises(VerificationError) as caught:
            ring.open_head(note_of(LOG, *signers))
        assert (caught.value.kind, caught.value.where) == ("incomplete", where)
        assert caught.value.message == "the file is missing"


@requirement("ledger:rotation-followed")
def test_a_head_by_a_key_that_no_rotation_names_is_tampered_whatever_waits() -> None:
    stranger = pair(14)
    bad = note_of(LOG, OLD).replace(b"\n12\n", b"\n11\n")
    for ring in (ring_of(LOG), ring_of(LOG[:4]), Keyring(KEY, [KEY, NEW[1], NEWER[1]], ring_of(LOG).rotated)):
        for note in (note_of(LOG, stranger), bad, b"nonsense", note_of(LOG, pair(7, "counterseal.dev/other"))):
            with pytest.raises(VerificationError) as caught:
                ring.open_head(note)
            assert caught.value.kind == "tampered"
            assert caught.value.where == ""


def test_of_waiting_keys_those_that_are_none_or_known_are_left_out() -> None:
    junk = VerifierKey(ORIGIN, bytes(32))
    logged = [genesis()] + [key_entry(n, key) for n, key in enumerate((NEW[1], junk, KEY, NEW[1], NEWER[1]), 1)]
    ring = ring_of(logged)
    for signers in ((NEWER,), (NEW,), (OTHER, NEW)):
        with pytest.raises(VerificationError, match="the file is missing"):
            ring.open_head(note_of(logged, *signers))
    assert ring.open_head(note_of(logged, OLD)).size == 6
    with pytest.raises(VerificationError, match="no signature by a known key"):
        ring.open_head(note_of(logged, OTHER))


@requirement("ledger:rotation-followed")
def test_a_head_is_good_as_long_as_one_of_its_signers_is_not_archived() -> None:
    ring = Keyring(KEY, [KEY, NEW[1], NEWER[1]])
    cases: list[tuple[tuple[Pair, ...], tuple[Pair, ...], bool]] = [
        ((), (OLD,), True),
        ((OLD,), (OLD,), False),
        ((OLD,), (NEW,), True),
        ((OLD,), (OLD, NEW), True),
        ((OLD, NEW), (OLD, NEW), False),
        ((OLD, NEW), (OLD, NEWER), True),
        ((OLD,), (OLD, OTHER), False),
    ]
    for archived, signers, good in cases:
        ring.archived = {key.public.hex() for _, key in archived}
        note = note_of(LOG, *signers)
        if good:
            assert ring.open_head(note).size == 12
        else:
            with pytest.raises(VerificationError, match="had archived only"):
                ring.open_head(note)
        assert ring.open_old(note).size == 12, "what an archived key signed in its time stays signed"


def test_an_earlier_checkpoint_is_by_a_key_that_the_log_had() -> None:
    ring = Keyring(KEY, [KEY, NEW[1]])
    for signer in (OLD, NEW):
        assert ring.open_old(note_of(LOG[:5], signer)).size == 5
    for note in (note_of(LOG, NEWER), b"nonsense", note_of(LOG, (SigningKey(b"\x09" * 32), KEY))):
        with pytest.raises(VerificationError):
            ring.open_old(note)
    assert ring.open_old(note_of([], OLD)).root == EMPTY_ROOT
