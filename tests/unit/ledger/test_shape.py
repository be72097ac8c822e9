"""The fast reader of entries accepts nothing that the slow one refuses, and says the same of what it accepts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.registry import REGISTRY
from support.golden import entries_of_every_type

EVERY = entries_of_every_type()
BY_TYPE = {entries.parse_slowly(data).type: data for data in EVERY}


def agree(data: bytes) -> bool:
    """Whether the fast reader accepts; where it does, the slow one must, with the same fields."""
    fast = entries._recognise(data)
    if fast is None:
        return False
    slow = entries.parse_slowly(data)
    assert fast == slow
    assert fast.document == slow.document
    return True


@pytest.mark.parametrize("kind", sorted(REGISTRY))
def test_a_good_entry_of_every_type_is_recognised(kind: str) -> None:
    assert agree(BY_TYPE[kind])


@pytest.mark.parametrize("kind", sorted(REGISTRY))
def test_each_optional_field_may_be_absent_and_each_required_one_not(kind: str) -> None:
    document = json.loads(BY_TYPE[kind])
    for holder in (document, document["data"], document["srv"]):
        for name in list(holder):
            value = holder.pop(name)
            data = entries.encode(document)
            try:
                entries.parse_slowly(data)
                good = True
            except VerificationError:
                good = False
            assert agree(data) == good, name
            holder[name] = value
    for pair in (("seq", "stream"), ("_sd", "_sd_alg")):
        if all(name in document for name in pair):
            less = {name: value for name, value in document.items() if name not in pair}
            assert agree(entries.encode(less))
    bare = {**document, "data": {n: v for n, v in document["data"].items() if n in REGISTRY[kind].clear.required}}
    assert agree(entries.encode(bare))


def test_a_commit_under_another_id_than_its_digest_gives_is_not_recognised() -> None:
    document = json.loads(BY_TYPE[entries.COMMITTED])
    other = entries.encode({**document, "event_id": json.loads(BY_TYPE["plan.proposed"])["event_id"]})
    assert not agree(other)
    with pytest.raises(VerificationError, match="derived from the plan digest"):
        entries.parse(other)


VALUES = st.one_of(
    st.integers(-1, 2**54),
    st.booleans(),
    st.none(),
    st.just([]),
    st.just({}),
    st.sampled_from(["", "a", "A", "user:ana", "p_" + "a" * 26, "x" * 129, 'q"', "é", "sha256:" + "0" * 64, "\n", "0"]),
    st.floats(allow_nan=False),
)


@settings(max_examples=400)
@given(st.sampled_from(EVERY), st.data())
def test_whatever_value_stands_wherever_the_two_agree(good: bytes, data: st.DataObject) -> None:
    document = json.loads(good)
    holder = data.draw(st.sampled_from([document, document["data"], document["srv"]]))
    name = data.draw(st.sampled_from(sorted(holder)))
    if isinstance(holder[name], list) and holder[name]:
        holder[name] = data.draw(
            st.sampled_from([holder[name] * 2, [], holder[name] * 256, holder[name] * 257, holder[name][::-1]])
            | st.lists(VALUES, max_size=3)
        )
    else:
        holder[name] = data.draw(VALUES)
    agree(json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode())


@settings(max_examples=400)
@given(st.sampled_from(EVERY), st.data())
def test_whatever_bytes_are_changed_the_two_agree(good: bytes, data: st.DataObject) -> None:
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        if data.draw(st.booleans()):
            raw[at] = data.draw(st.sampled_from(b'0129azAZ_-:.,"{}[]\\ \x00\xff'))
        else:
            del raw[at : at + data.draw(st.integers(1, 40))]
    agree(bytes(raw))


def test_sealed_digests_out_of_order_or_twice_are_left_to_the_slow_reader() -> None:
    document = json.loads(BY_TYPE["plan.proposed"])
    assert len(document["_sd"]) > 2
    for digests in (document["_sd"][::-1], [document["_sd"][0]] * 2, []):
        assert not agree(entries.encode({**document, "_sd": digests}))
        with pytest.raises(VerificationError, match="_sd"):
            entries.parse(entries.encode({**document, "_sd": digests}))


def test_the_largest_number_is_read_by_the_slow_reader_and_is_good() -> None:
    document = json.loads(BY_TYPE["log.heartbeat"])
    for size, fast in ((10**15 - 1, True), (2**53 - 1, False)):
        document["data"]["size"] = size
        assert agree(entries.encode(document)) == fast
        assert entries.parse(entries.encode(document)).data["size"] == size
    document["data"]["size"] = 2**53
    with pytest.raises(VerificationError):
        entries.parse(entries.encode(document))
