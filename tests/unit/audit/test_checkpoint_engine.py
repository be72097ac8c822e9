"""What must hold before a head is signed: each thing is broken once, and nothing is signed."""

from functools import partial

import pytest

from counterseal.errors import AnchorMissing
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import Frontier, leaf_hash, root_of
from counterseal_audit.checkpoints import engine
from counterseal_audit.checkpoints.engine import Keyring, Published, Rotation
from counterseal_audit.logs.anchors import Anchor
from support.exports import KEY, ORIGIN, SIGNING, log_of
from support.histories import NEW, NEWER, OLD, key_entry, note_of, pair

LOG = log_of(9)
LEAVES = [leaf_hash(data) for data in LOG]


def frontier(size: int) -> Frontier:
    return Frontier().extend(LEAVES[:size])


def published(size: int, note: bytes | None = None) -> Published:
    grown = frontier(size)
    return Published(grown, grown.root(), note_of(LOG[:size], OLD) if note is None else note)


def test_signing_goes_on_from_the_last_note_of_ours() -> None:
    assert engine.start_of(None, [KEY]) == Frontier()
    assert engine.start_of(published(5), [KEY]) == frontier(5)
    assert engine.start_of(published(5, note_of(LOG[:5], OLD, NEW)), [KEY, NEW[1]]) == frontier(5)


@pytest.mark.parametrize(
    "stored",
    [
        published(5, note_of(LOG[:4], OLD)),
        published(5, note_of(LOG[:5], NEW)),
        published(5, note_of([*LOG[:4], LOG[5]], OLD)),
        published(5, b"garbage"),
        Published(frontier(4), frontier(5).root(), note_of(LOG[:5], OLD)),
    ],
)
def test_a_note_or_frontier_that_is_not_the_signed_one_starts_nothing(stored: Published) -> None:
    with pytest.raises(VerificationError):
        engine.start_of(stored, [KEY])


def test_a_note_of_another_log_starts_nothing() -> None:
    other = pair(5, "counterseal.dev/other")
    with pytest.raises(VerificationError) as caught:
        engine.start_of(published(5, note_of(LOG[:5], other, origin=other[1].name)), [KEY, other[1]])
    assert caught.value.kind == "forked"


def test_a_head_grows_by_the_stored_bytes() -> None:
    assert engine.grow(frontier(3), LOG[3:9]) == frontier(9)
    assert engine.grow(frontier(3), []) == frontier(3)


def test_an_anchor_or_head_that_the_entries_do_not_add_up_to_is_a_fork() -> None:
    engine.check_anchor(frontier(5), Anchor(5, root_of(LEAVES[:5])))
    engine.check_head(frontier(5), 5, root_of(LEAVES[:5]))
    for size, root in ((4, root_of(LEAVES[:5])), (6, root_of(LEAVES[:5])), (5, root_of(LEAVES[:4])), (5, b"\0" * 32)):
        for check in (
            partial(engine.check_anchor, frontier(5), Anchor(size, root)),
            partial(engine.check_head, frontier(5), size, root),
        ):
            with pytest.raises(VerificationError) as caught:
                check()
            assert caught.value.kind == "forked"


@pytest.mark.parametrize("signed", range(4))
@pytest.mark.parametrize("reserved", range(4))
@pytest.mark.parametrize("size", range(4))
def test_signatures_reach_from_the_last_one_through_the_anchor_to_the_head(
    signed: int, reserved: int, size: int
) -> None:
    anchor = Anchor(reserved, b"\0" * 32)
    if signed <= reserved <= size:
        engine.check_reach(signed, anchor, size)
    elif reserved < signed:
        with pytest.raises(AnchorMissing, match=r"^the log's anchor is older than its last signed checkpoint$"):
            engine.check_reach(signed, anchor, size)
    else:
        with pytest.raises(VerificationError, match=f"the anchor says {reserved} entries, the head {size}") as caught:
            engine.check_reach(signed, anchor, size)
        assert caught.value.kind == "forked"


def test_rotations_of_this_log_s_own_key_are_found_with_their_places() -> None:
    stored = [
        LOG[1],
        key_entry(2, NEW[1]),
        key_entry(3, NEWER[1], kind="decision"),
        key_entry(4, NEWER[1], name="counterseal.dev/other"),
        key_entry(5, NEWER[1], state="archived"),
        key_entry(6, NEWER[1], "key.archived"),
        key_entry(7, NEWER[1]),
    ]
    assert engine.rotations_in(stored, 10, ORIGIN, 2) == [
        Rotation(3, 11, NEW[1].public),
        Rotation(4, 16, NEWER[1].public),
    ]
    assert engine.rotations_in([LOG[1]], 0, ORIGIN, 0) == []
    assert engine.rotations_in([key_entry(2, NEW[1], state="")], 0, ORIGIN, 0) == [Rotation(1, 0, NEW[1].public)]


def test_both_keys_sign_while_their_overlap_lasts() -> None:
    one = Keyring((KEY,), (0,))
    assert one.signing(10, 100) == (KEY,)
    two = Keyring((KEY, NEW[1]), (0, 1000))
    for now, keys in ((1000, (KEY, NEW[1])), (1099, (KEY, NEW[1])), (1100, (NEW[1],)), (5000, (NEW[1],))):
        assert two.signing(now, 100) == keys
    three = Keyring((KEY, NEW[1], NEWER[1]), (0, 1000, 2000))
    assert three.signing(2050, 100) == (NEW[1], NEWER[1])


def test_the_key_before_is_retired_when_the_overlap_ends() -> None:
    assert Keyring((KEY,), (0,)).retired(10**6, 100) is None
    two = Keyring((KEY, NEW[1]), (0, 1000))
    assert two.retired(1099, 100) is None
    assert two.retired(1100, 100) == (KEY, 1100)
    assert two.retired(5000, 100) == (KEY, 1100)
    assert Keyring((KEY, NEW[1], NEWER[1]), (0, 1000, 2000)).retired(2100, 100) == (NEW[1], 2100)


def test_the_text_is_the_head_and_the_note_carries_only_good_signatures() -> None:
    text = engine.text_of(ORIGIN, frontier(5))
    good = SIGNING.sign(text.encode()).signature
    note = engine.note_of(text, [(KEY, good), (NEW[1], NEW[0].sign(text.encode()).signature)])
    assert open_checkpoint(note, [KEY, NEW[1]]).size == 5
    assert note == note_of(LOG[:5], OLD, NEW)
    for bad in (b"\0" * 64, SIGNING.sign(b"other").signature, NEW[0].sign(text.encode()).signature):
        with pytest.raises(VerificationError, match="not by the log's key"):
            engine.note_of(text, [(KEY, bad)])


def test_what_is_shown_is_the_cosigned_note_where_there_is_one() -> None:
    plain = published(5)
    assert plain.public == plain.note
    assert not plain.witnessed
    assert Published(plain.frontier, plain.root, plain.note, b"cosigned").public == b"cosigned"
