"""The hammer: each way in which a ledger could contradict itself is a finding, and its traffic is what it says."""

from collections.abc import Sequence
from random import Random

import pytest
from bench.hammer.book import Book
from bench.hammer.traffic import Mix

from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.ledger.tree import leaf_hash, root_of
from support.entries import NOW, received

IDS = [new_id() for _ in range(4)]


def entry(event_id: str, producer: str = "executor", cause: str = "claim") -> bytes:
    data = {"from_state": "COMMITTED", "to_state": "RUNNING", "cause": cause}
    content = {"v": 1, "type": "plan.changed", "event_id": event_id, "event_time_ms": NOW, "tenant": "acme"}
    return entries.build({**content, "environment": "prod", "data": data}, entries.Srv(NOW, producer))


LOG = [entry(IDS[0], "audit"), *(entry(one) for one in IDS[1:])]


def book_of(log: Sequence[bytes]) -> Book:
    """What the ledger said about every entry of ours."""
    book = Book()
    for index, (event_id, data) in enumerate(zip(IDS, log, strict=True)):
        if index:
            book.sending(event_id)
            book.acknowledged(event_id, index, leaf_hash(data), duplicate=False)
    return book


def findings(book: Book, log: Sequence[bytes] = LOG) -> list[str]:
    book.check_log(log)
    return book.contradictions.kept


def test_a_log_that_is_as_it_was_acknowledged_has_no_contradiction_and_the_root_of_its_bytes() -> None:
    book = book_of(LOG)
    assert book.check_log(LOG).root() == root_of(leaf_hash(data) for data in LOG)
    assert book.contradictions.count == 0
    assert (book.entries, book.end) == (3, 4)


def test_a_repetition_has_the_same_index_and_counts_once() -> None:
    book = book_of(LOG)
    book.acknowledged(IDS[2], 2, leaf_hash(LOG[2]), duplicate=True)
    assert (book.entries, book.acknowledgements, book.duplicates) == (3, 4, 1)
    assert findings(book) == []


def test_an_acknowledged_entry_that_is_not_there_is_lost() -> None:
    assert any(text.startswith("lost: ") for text in findings(book_of(LOG), LOG[:3]))


@pytest.mark.parametrize(
    ("index", "leaf", "duplicate", "says"),
    [
        (3, leaf_hash(LOG[2]), True, "at index 2 and again at 3"),
        (2, leaf_hash(LOG[3]), True, "two leaf hashes"),
        (2, leaf_hash(LOG[2]), False, "as new twice"),
    ],
    ids=["another index", "another leaf", "new again"],  # the leaves are other ones in every process
)
def test_an_answer_that_contradicts_an_earlier_one(index: int, leaf: bytes, duplicate: bool, says: str) -> None:
    book = book_of(LOG)
    book.acknowledged(IDS[2], index, leaf, duplicate=duplicate)
    assert says in book.contradictions.kept[0]


def test_one_index_for_two_events() -> None:
    book = book_of(LOG)
    book.acknowledged(new_id(), 2, leaf_hash(LOG[2]), duplicate=False)
    assert "for two events" in book.contradictions.kept[0]


def test_an_entry_in_the_log_twice() -> None:
    found = findings(book_of(LOG), [*LOG, LOG[1]])
    assert any("is in the log at 1 and 4" in text for text in found)


def test_entries_in_another_order_than_acknowledged() -> None:
    found = findings(book_of(LOG), [LOG[0], LOG[2], LOG[1], LOG[3]])
    assert [text for text in found if "is not the one that was acknowledged there" in text] == found
    assert len(found) == 2


def test_changed_bytes() -> None:
    found = findings(book_of(LOG), [LOG[0], entry(IDS[1], cause="other"), *LOG[2:]])
    assert found == ["the entry at index 1 is not the one that was acknowledged there"]


def test_an_entry_that_nobody_was_told_of_or_sent() -> None:
    book, unanswered, unknown = book_of(LOG), new_id(), new_id()
    book.sending(unanswered)
    found = findings(book, [*LOG, entry(unanswered), entry(unknown), entry(new_id(), "credentials")])
    assert found == ["the entry at index 4 was acknowledged to nobody", "the entry at index 5 was sent by nobody"]


def test_a_reader_that_sees_another_leaf() -> None:
    book = book_of(LOG)
    book.check_read(2, leaf_hash(LOG[2]))
    book.check_read(0, leaf_hash(LOG[0]))  # not ours: nothing to compare with
    assert book.contradictions.count == 0
    book.check_read(2, leaf_hash(LOG[3]))
    assert book.contradictions.count == 1


def test_other_content_under_a_known_id_must_be_refused_for_that_reason() -> None:
    book = Book()
    book.reuse(IDS[1], "IDEMPOTENCY_KEY_REUSED")
    assert (book.reuses_refused, book.contradictions.count) == (1, 0)
    book.reuse(IDS[1], "")
    book.reuse(IDS[1], "INPUT_INVALID")
    assert book.contradictions.count == 2


def test_traffic_repeats_a_tenth_exactly_and_reuses_only_what_was_acknowledged() -> None:
    mix = Mix(Random(1), duplicates=0.1, reuses=0.05)
    seen: dict[str, bytes] = {}
    counts = {"fresh": 0, "again": 0, "other": 0}
    for number in range(4000):
        planned = mix.next()
        content = planned.request.SerializeToString(deterministic=True)
        counts[planned.kind] += 1
        if planned.kind == "fresh":
            assert planned.request.event_id not in seen
            seen[planned.request.event_id] = content
            if number % 2:
                mix.taken(planned.request)
        elif planned.kind == "again":
            assert content == seen[planned.request.event_id]
        else:
            assert content != seen[planned.request.event_id]
    assert 300 < counts["again"] < 500
    assert 120 < counts["other"] < 280


def test_nothing_is_reused_before_it_was_acknowledged() -> None:
    mix = Mix(Random(1), duplicates=0.0, reuses=1.0)
    assert {mix.next().kind for _ in range(50)} == {"fresh"}
    mix.taken(received())
    assert {mix.next().kind for _ in range(50)} == {"other"}
