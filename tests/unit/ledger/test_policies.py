"""Trust policies (C2SP tlog-policy) octet by octet: what a name may be, what a peer has, and which keys are one key."""

import pytest

from counterseal.ledger import policy as policies
from counterseal.ledger.ed25519 import is_valid_key
from counterseal.ledger.encoding import b64
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import COSIGNATURE, VerifierKey, _key_id
from support.exports import KEY, ORIGIN
from support.histories import W1, W2, pair

OCTETS = [bytes([one]) for one in (*range(0x21, 0x7F), *range(0x80, 0x100))]
CONTROL = [bytes([one]) for one in (*range(0x20), 0x7F) if one not in (0x09, 0x0A)]


@pytest.mark.parametrize("octet", OCTETS)
def test_a_name_is_whatever_octets_stand_between_white_space(octet: bytes) -> None:
    vkey = W1[1].vkey.encode()
    for name in (octet, b"A" + octet, octet + b"A", octet * 3):
        text = b"witness " + name + b" " + vkey + b"\ngroup its-group all " + name + b"\nquorum its-group\n"
        policy = policies.parse(text)
        assert policy.witnesses[0].name.encode("utf-8", "surrogateescape") == name
        assert policy.is_met_by([W1[1]])
        assert not policy.is_met_by([W2[1]])
        assert policies.parse(b"quorum none\n" + b"#" + name).quorum == "none"


@pytest.mark.parametrize("octet", CONTROL)
@pytest.mark.parametrize("place", [b"%squorum none\n", b"quorum%snone\n", b"quorum none%s\n", b"quorum none\n# %s\n"])
def test_a_control_character_is_refused_anywhere(octet: bytes, place: bytes) -> None:
    with pytest.raises(VerificationError, match="control character"):
        policies.parse(place % octet)


def test_names_that_differ_are_two_names() -> None:
    a, b = W1[1].vkey, W2[1].vkey
    for one, other in (("a", "A"), ("a", "a!"), ("a", "!a"), ("\u00e9", "e\u0301"), ("none!", "a"), ("a", "a\u00a0")):
        policy = policies.parse(f"witness {one} {a}\nwitness {other} {b}\nquorum {other}\n".encode())
        assert policy.is_met_by([W2[1]])
        assert not policy.is_met_by([W1[1]])


def test_a_log_bears_its_key_s_name_a_witness_its_own_and_either_may_say_where_it_answers() -> None:
    for url in ("", "https://example.com/x"):
        policy = policies.parse(f"log {KEY.vkey} {url}\nwitness A {W1[1].vkey} {url}\nquorum A\n".encode())
        assert policy.logs == (policies.Peer(ORIGIN, KEY, url),)
        assert policy.witnesses == (policies.Peer("A", W1[1], url),)
        assert (policy.log_keys, policy.witness_keys) == ([KEY], [W1[1]])


def test_a_key_is_told_from_others_by_every_byte() -> None:
    """Listed twice under two names one witness would be two: so it is refused, and any other key is not."""
    for at in (0, 1, 15, 31):
        nearby = next(
            found
            for step in range(1, 256)
            if is_valid_key(found := KEY.public[:at] + bytes([KEY.public[at] ^ step]) + KEY.public[at + 1 :])
        )
        for kind, algorithm in (("log", 1), ("witness a", COSIGNATURE)):
            first = VerifierKey.make("a", KEY.public, algorithm)
            second = VerifierKey.make("b", nearby, algorithm)
            other = kind.replace(" a", " b")
            policy = policies.parse(f"{kind} {first.vkey}\n{other} {second.vkey}\nquorum none\n".encode())
            assert len(policy.logs) + len(policy.witnesses) == 2
            same = VerifierKey.make("b", KEY.public, algorithm)
            with pytest.raises(VerificationError, match=f"key of this {kind.split(' ', 1)[0]} was listed before"):
                policies.parse(f"{kind} {first.vkey}\n{other} {same.vkey}\nquorum none\n".encode())


def test_one_key_may_be_a_log_and_a_witness() -> None:
    witness = VerifierKey.make("w", KEY.public, COSIGNATURE)
    policy = policies.parse(f"log {KEY.vkey}\nwitness w {witness.vkey}\nquorum w\n".encode())
    assert (policy.log_keys, policy.witness_keys) == ([KEY], [witness])
    assert not policy.is_met_by([KEY]), "as a log it signs, it does not cosign"
    assert policy.is_met_by([witness])


def unknown(name: str, algorithm: int = 0xFF) -> str:
    material = bytes([algorithm]) + name.encode() * 32
    return f"{name}+{_key_id(name, material).hex()}+{b64(material)}"


def test_peers_of_an_unknown_algorithm_are_listed_and_never_count() -> None:
    text = f"log {unknown('l')}\nlog {unknown('m', 5)}\nwitness a {unknown('w')}\nwitness b {unknown('x', 0)}\n"
    policy = policies.parse(f"{text}quorum a\n".encode())
    assert [(one.name, one.key) for one in (*policy.logs, *policy.witnesses)] == [
        ("l", None),
        ("m", None),
        ("a", None),
        ("b", None),
    ]
    assert (policy.log_keys, policy.witness_keys) == ([], [])
    assert not policy.is_met_by([])
    assert not policy.is_met_by([W1[1], KEY])


@pytest.mark.parametrize("least", ["0", "4", "-1", "+1", "1.", "01", "one", "ALL", "", "\u0661", "9" * 10, "9" * 5000])
def test_a_group_wants_all_any_or_a_number_of_its_members(least: str) -> None:
    lines = [f"witness w{n} {pair(n)[1].vkey}\n" for n in range(1, 4)]
    with pytest.raises(VerificationError, match=r"none of: (all, any|log)"):
        policies.parse("".join([*lines, f"group g {least} w1 w2 w3\nquorum g\n"]).encode())


def test_a_refused_line_is_named_by_its_number() -> None:
    for before in range(4):
        with pytest.raises(VerificationError) as caught:
            policies.parse(b"\n" * before + b"quorum nobody\nquorum none")
        assert caught.value.where == f"line {before + 1}"
