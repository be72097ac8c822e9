"""A log's keys by the proofs of its rotations alone, for who has a few entries of it: `explain` by the service."""

from dataclasses import replace

import pytest

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.keyring import Keyring, Rotation, followed
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import inclusion_path, leaf_hash
from support.exports import KEY, changed, genesis
from support.histories import NEW, NEWER, NEXT_KEY, OLD, Pair, key_entry, note_of, pair
from support.requirements import requirement

STRANGER = pair(14)
NEWEST = pair(15)
TURNS = {4: NEW, 8: NEWER, 11: NEWEST}


def entry(n: int) -> bytes:
    return key_entry(n, TURNS[n][1]) if n in TURNS else changed(n, stream=f"plan:{n}", seq=1)


LOG = [genesis(), *map(entry, range(1, 14))]


def rotation(index: int, *signers: Pair, size: int = 0, log: list[bytes] = LOG) -> Rotation:
    """The rotation at an index as the note of the first `size` entries proves it; by default, the first that can."""
    tree = log[: size or index + 1]
    return Rotation(index, log[index], inclusion_path(index, [leaf_hash(one) for one in tree]), note_of(tree, *signers))


FIRST, SECOND, THIRD = rotation(4, OLD), rotation(8, NEW, size=10), rotation(11, NEWER)
ALL = (FIRST, SECOND, THIRD)


def head(*signers: Pair) -> bytes:
    return note_of(LOG, *signers)


@requirement("ledger:trace-across-rotations")
def test_each_rotation_is_followed_from_the_key_of_the_genesis() -> None:
    ring = followed([KEY], KEY, ALL)
    assert ring.accepted == [KEY, NEW[1], NEWER[1], NEWEST[1]]
    assert [index for index, _ in ring.rotated] == [4, 8, 11]
    for signers in ((NEWEST,), (NEWER, NEWEST), (OLD,)):
        assert ring.open_head(head(*signers)).size == len(LOG)
    assert followed([KEY], KEY, ()).accepted == [KEY]
    for rotations in ((), (FIRST,), (FIRST, SECOND)):
        with pytest.raises(VerificationError, match="no signature by a known key") as caught:
            followed([KEY], KEY, rotations).open_head(head(NEWEST))
        assert caught.value.kind == "tampered"


@requirement("ledger:trace-across-rotations")
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (rotation(4, STRANGER), "no signature by a known key"),
        (rotation(4, NEW), "no signature by a known key"),
        (replace(FIRST, note=note_of(LOG[:5], (OLD[0], NEXT_KEY), origin=NEXT_KEY.name)), "no signature by a known"),
        (replace(FIRST, note=FIRST.note.replace(b"\n5\n", b"\n6\n")), "does not verify"),
        (replace(FIRST, note=b"nonsense"), "no blank line"),
        (replace(FIRST, index=3), "hash"),
        (replace(FIRST, index=5), "does not cover"),
        (replace(FIRST, index=-1), "no leaf -1"),
        (replace(FIRST, path=rotation(3, OLD, size=5).path), "hash"),
        (replace(FIRST, path=()), "hash"),
        (replace(FIRST, path=[*FIRST.path, bytes(32)]), "hash"),
        (replace(FIRST, path=[bytes(32)]), "root"),
        (replace(rotation(4, OLD, size=8), note=note_of(LOG[:9], OLD)), "hashes"),
        (replace(FIRST, entry=key_entry(4, STRANGER[1])), "root"),
        (replace(FIRST, entry=b"{}"), "lacks"),
        (rotation(5, OLD), "entry 5 is no rotation of the key of"),
        (rotation(0, OLD), "entry 0 is no rotation of the key of"),
    ],
)
def test_nothing_but_the_entry_in_its_place_under_an_accepted_key_counts(bad: Rotation, why: str) -> None:
    ring = Keyring(KEY)
    with pytest.raises(VerificationError, match=why):
        ring.follow(bad)
    assert ring.accepted == [KEY]


@requirement("ledger:trace-across-rotations")
@pytest.mark.parametrize(
    "data",
    [
        key_entry(4, NEW[1], name=NEXT_KEY.name),
        key_entry(4, NEW[1], kind="decision"),
        key_entry(4, NEW[1], "key.archived"),
        key_entry(4, NEW[1], state="archived"),
        changed(4),
    ],
)
def test_an_entry_that_gives_this_log_no_key_is_none_of_its_rotations(data: bytes) -> None:
    log = [*LOG[:4], data, *LOG[5:]]
    with pytest.raises(VerificationError, match="entry 4 is no rotation"):
        followed([KEY], KEY, [rotation(4, OLD, log=log)])


@requirement("ledger:trace-across-rotations")
def test_a_note_of_another_log_vouches_for_nothing_though_its_key_is_trusted() -> None:
    other = (OLD[0], NEXT_KEY)
    bad = replace(FIRST, note=note_of(LOG[:5], other, origin=NEXT_KEY.name))
    with pytest.raises(VerificationError, match=f"the note that covers entry 4 is of {NEXT_KEY.name}"):
        followed([KEY, NEXT_KEY], KEY, [bad])


@requirement("ledger:trace-across-rotations")
@pytest.mark.parametrize("again", [OLD, NEW])
def test_a_key_is_not_taken_up_again(again: Pair) -> None:
    log = [*LOG[:8], key_entry(8, again[1]), *LOG[9:]]
    with pytest.raises(VerificationError, match="entry 8 names a key that the log had before"):
        followed([KEY], KEY, [FIRST, rotation(8, NEW, log=log)])
    with pytest.raises(VerificationError, match="entry 4 names a key that the log had before"):
        followed([KEY], KEY, [FIRST, FIRST])


@requirement("ledger:trace-across-rotations")
def test_a_rotation_that_is_left_out_or_out_of_order_breaks_the_chain() -> None:
    for rotations in ((SECOND,), (FIRST, THIRD), (SECOND, THIRD), (SECOND, FIRST, THIRD), (THIRD, SECOND, FIRST)):
        with pytest.raises(VerificationError, match="no signature by a known key"):
            followed([KEY], KEY, rotations)


@requirement("ledger:trace-across-rotations")
def test_a_head_by_archived_keys_alone_is_refused_as_far_as_is_known() -> None:
    ring = followed([KEY], KEY, ALL)
    ring.archived.add(KEY.public.hex())
    assert ring.open_head(head(OLD, NEW)).size == len(LOG)
    with pytest.raises(VerificationError, match="archived only"):
        ring.open_head(head(OLD))


@requirement("ledger:trace-across-rotations")
@pytest.mark.parametrize(
    ("trusted", "accepted"),
    [
        ([NEW], [NEW, NEWER, NEWEST]),
        ([NEWEST], [NEWEST]),
        ([NEWER, NEW], [NEWER, NEW, NEWEST]),
        ([OLD, NEWER], [OLD, NEWER, NEWEST]),
        ([OLD, STRANGER], [OLD, STRANGER, NEW, NEWER, NEWEST]),
    ],
)
def test_whoever_pinned_a_later_key_begins_there(trusted: list[Pair], accepted: list[Pair]) -> None:
    ring = followed([key for _, key in trusted], KEY, ALL)
    assert ring.accepted == [key for _, key in accepted]
    assert ring.open_head(head(NEWEST)).size == len(LOG)


@requirement("ledger:trace-across-rotations")
def test_a_pinned_key_that_no_rotation_names_is_led_nowhere() -> None:
    with pytest.raises(VerificationError, match="no signature by a known key"):
        followed([STRANGER[1]], KEY, ALL)
    lie = VerifierKey.make(KEY.name, STRANGER[1].public)
    assert followed([KEY], lie, ALL).accepted == [KEY, NEW[1], NEWER[1], NEWEST[1]]
