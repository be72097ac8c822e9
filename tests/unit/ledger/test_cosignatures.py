"""Cosignatures of witnesses (C2SP tlog-cosignature) and the policies that ask for them (C2SP tlog-policy)."""

import json

import pytest
from nacl.signing import SigningKey

from counterseal.ledger import policy as policies
from counterseal.ledger.checkpoint import open_checkpoint, open_signed, own_lines, parse_text
from counterseal.ledger.encoding import b64
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import (
    COSIGNATURE,
    MAX_BYTES,
    MAX_TIME,
    VerifierKey,
    _key_id,
    cosignature,
    open_note,
    signature_line,
    split,
    split_vkey,
)
from counterseal.ledger.tree import MAX_SIZE
from support.exports import KEY, ORIGIN, SIGNING, files_of, log_of
from support.histories import W1, W2, W3, cosigned, pair, signed, witness
from support.requirements import requirement
from support.shared import shared_path

NOTE = files_of(log_of(3))["checkpoint"]
TEXT = NOTE.decode().partition("\n\n")[0] + "\n"
TIME = 1_795_000_000


def line(key: VerifierKey, value: bytes) -> bytes:
    return signature_line(key, value).encode()


def test_a_cosignature_signs_the_text_under_a_header_and_a_time() -> None:
    """The example of the specification, byte for byte."""
    key = W1[1]
    assert key.message("example.com/log\n1\nAAAA\n", 1679315147) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/log\n1\nAAAA\n"
    )
    assert cosignature(1, b"s" * 64) == b"\0\0\0\0\0\0\0\1" + b"s" * 64


def test_the_key_id_of_a_cosigner_is_made_with_its_own_algorithm_byte() -> None:
    vectors = json.loads(shared_path("vectors/ledger/c2sp-formats.json").read_text())
    vkey = vectors["cosign_vkeys"]["ed25519_cosig_type04"]
    key = VerifierKey.parse_cosigner(vkey)
    assert (key.algorithm, key.vkey) == (COSIGNATURE, vkey)
    with pytest.raises(VerificationError, match="not an Ed25519 key"):
        VerifierKey.parse(vkey)


def test_a_witness_key_published_with_type_1_is_the_same_cosigner() -> None:
    name, public = W1[1].name, W1[1].public
    assert VerifierKey.parse_cosigner(VerifierKey.make(name, public).vkey) == W1[1]


def test_cosigners_are_named_with_their_times() -> None:
    checkpoint, note = open_signed(cosigned(NOTE, W1, W2), [KEY, W1[1], W2[1]])
    assert checkpoint.size == 3
    assert note.signers == (KEY, W1[1], W2[1])
    assert note.times == {W1[1]: TIME, W2[1]: TIME}


def test_unknown_witnesses_and_algorithms_are_ignored() -> None:
    ml_dsa = "— pq.example ".encode() + b"AAAABgAAAABqAAAA\n"
    assert open_checkpoint(cosigned(NOTE, W3) + ml_dsa, [KEY, W1[1]]).size == 3


@requirement("ledger:witnesses")
@pytest.mark.parametrize("at", [0, 3, 7, 8, 40, 71])
def test_one_flipped_bit_of_a_known_cosignature_refuses_the_note(at: int) -> None:
    value = bytearray(cosignature(TIME, W1[0].sign(W1[1].message(TEXT, TIME)).signature))
    value[at] ^= 1
    with pytest.raises(VerificationError, match="does not verify"):
        open_checkpoint(NOTE + line(W1[1], bytes(value)), [KEY, W1[1]])


@pytest.mark.parametrize("length", [1, 8, 64, 71, 73])
def test_a_cosignature_of_another_length_refuses_the_note(length: int) -> None:
    value = (cosignature(TIME, W1[0].sign(W1[1].message(TEXT, TIME)).signature) + b"\0")[:length]
    with pytest.raises(VerificationError, match="does not verify"):
        open_checkpoint(NOTE + line(W1[1], value), [KEY, W1[1]])


def test_a_time_beyond_63_bits_is_refused_though_it_was_signed() -> None:
    for time, good in ((MAX_TIME, True), (MAX_TIME + 1, False)):
        data = cosigned(NOTE, W1, time=time)
        if good:
            assert open_signed(data, [KEY, W1[1]])[1].times == {W1[1]: time}
        else:
            with pytest.raises(VerificationError, match="does not verify"):
                open_signed(data, [KEY, W1[1]])


def test_a_plain_signature_is_no_cosignature_and_a_cosignature_no_signature() -> None:
    plain = W1[0].sign(TEXT.encode()).signature
    with pytest.raises(VerificationError, match="does not verify"):
        open_note(NOTE + line(W1[1], cosignature(TIME, plain)), [KEY, W1[1]])
    log_as_witness = (SIGNING, VerifierKey.make(ORIGIN, KEY.public, COSIGNATURE))
    only = cosigned(TEXT.encode() + b"\n", log_as_witness)
    with pytest.raises(VerificationError, match="no signature by a known key"):
        open_note(only, [KEY])


@requirement("ledger:witnesses")
def test_a_witness_that_is_named_like_the_log_does_not_sign_for_it() -> None:
    """Only a key that signs, not one that cosigns, can stand for the log."""
    impostor = witness(31, ORIGIN)
    note = cosigned(TEXT.encode() + b"\n", impostor)
    assert open_note(note, [impostor[1]]).signers == (impostor[1],)
    with pytest.raises(VerificationError, match="not signed by that log's key"):
        open_checkpoint(note, [impostor[1]])


def test_the_latest_of_two_times_by_one_witness_counts() -> None:
    for first, second in ((5, 9), (9, 5), (0, 0)):
        data = cosigned(cosigned(NOTE, W1, time=first), W1, time=second)
        assert open_signed(data, [KEY, W1[1]])[1].times == {W1[1]: max(first, second)}


def test_a_text_without_its_last_newline_is_refused_though_the_rest_is_good() -> None:
    assert parse_text(TEXT + "ext\n").extensions == ("ext",)
    with pytest.raises(VerificationError, match="does not end in a newline"):
        parse_text(TEXT + "ext")


def test_the_log_s_own_lines_are_what_the_note_was_before_it_was_cosigned() -> None:
    assert own_lines(cosigned(NOTE, W1, W2), ORIGIN) == NOTE
    assert own_lines(NOTE, ORIGIN) == NOTE
    both = signed(TEXT, (SIGNING, KEY), pair(11))
    assert own_lines(cosigned(both, W1), ORIGIN) == both
    with pytest.raises(VerificationError, match="no signature of"):
        own_lines(NOTE, "other")
    with pytest.raises(VerificationError):
        own_lines(b"nothing", ORIGIN)


# --- policies ---


def policy_of(*lines: str) -> policies.Policy:
    return policies.parse("".join(one + "\n" for one in lines).encode())


LOG = f"log {KEY.vkey} https://example.com/log"
WITNESSES = [f"witness {name} {one[1].vkey}" for name, one in (("A", W1), ("B", W2), ("C", W3))]


def test_policies_of_the_specification() -> None:
    vectors = json.loads(shared_path("vectors/ledger/c2sp-formats.json").read_text())
    for text in vectors["tlog_policy_bad"]:
        with pytest.raises(VerificationError):
            policies.parse(text.encode())
    for text in vectors["tlog_policy_good"]:
        policy = policies.parse(text.encode())
        assert [one.name for one in policy.witnesses] == ["w1", "w2"]
        assert policy.groups == {"g1": (2, ("w1", "w2"))}
        assert policy.witnesses[0].url == "https://sigsum.org/witness/"
        assert policy.witnesses[0].key is not None
        assert policy.witnesses[0].key.algorithm == COSIGNATURE


def test_white_space_comments_and_octets_above_ascii_are_what_the_format_says() -> None:
    text = "\t log  " + KEY.vkey + " \n\n  # ä comment\n#\nwitness ä\t" + W1[1].vkey + "\n\tquorum ä\n"
    policy = policies.parse(text.encode("latin-1"))
    assert policy.quorum == "\udce4"
    assert policy.is_met_by([W1[1]])
    assert policies.parse(b"quorum none") == policies.Policy((), (), {}, "none"), "the last newline may be missing"
    kelvin = policies.parse(f"witness K {W1[1].vkey}\nwitness \u212a {W2[1].vkey}\nquorum K\n".encode())
    assert kelvin.is_met_by([W1[1]])
    assert not kelvin.is_met_by([W2[1]])


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "no quorum line"),
        (["quorum none", "quorum none"], "a second quorum"),
        (["quorum nobody"], "not defined"),
        (["quorum A", WITNESSES[0]], "not defined"),
        (["quorum"], "none of: log"),
        (["quorum none none"], "none of: log"),
        (["log"], "none of: log"),
        ([LOG + " more"], "none of: log"),
        ([LOG, f"log {KEY.vkey}"], "listed before"),
        ([LOG, f"log {pair(7, 'other')[1].vkey}"], "listed before"),
        ([WITNESSES[0], WITNESSES[0]], "was defined before"),
        ([WITNESSES[0], f"witness Z {W1[1].vkey}"], "listed before"),
        ([WITNESSES[0], f"witness Z {VerifierKey.make('other', W1[1].public).vkey}"], "listed before"),
        (["witness A"], "none of: log"),
        ([WITNESSES[0] + " https://w more"], "none of: log"),
        ([f"witness none {W1[1].vkey}"], "predefined"),
        ([f"witness A {W1[1].vkey[:-1]}"], "base64"),
        ([f"log {W1[1].vkey}"], "not an Ed25519 key"),
        ([*WITNESSES, "group G all"], "none of: log"),
        ([*WITNESSES, "group none all A"], "predefined"),
        ([*WITNESSES, "group A all B"], "was defined before"),
        ([*WITNESSES, "group G 0 A"], "none of: all"),
        ([*WITNESSES, "group G 3 A B"], "none of: all"),
        ([*WITNESSES, "group G 01 A B"], "none of: all"),
        ([*WITNESSES, "group G some A B"], "none of: all"),
        ([*WITNESSES, "group G all A A"], "already"),
        ([*WITNESSES, "group G all A", "group H all A"], "already"),
        ([*WITNESSES, "group G all none"], "not defined"),
        ([*WITNESSES, "group G all G"], "not defined"),
        ([*WITNESSES, "group G all H", "group H all A"], "not defined"),
        (["nonsense"], "none of: log"),
        (["quorum none\r"], "control character"),
        (["quorum none\x7f"], "control character"),
        (["quorum none\x0b"], "control character"),
    ],
)
def test_a_bad_policy_is_refused(lines: list[str], why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        policy_of(*lines)


def test_an_algorithm_that_is_not_ours_is_listed_but_never_counts() -> None:
    material = b"\x06" + b"m" * 1312
    vkey = f"pq.example+{_key_id('pq.example', material).hex()}+{b64(material)}"
    assert split_vkey(vkey) == ("pq.example", material)
    policy = policy_of(f"witness PQ {vkey}", WITNESSES[0], "group G all PQ A", "quorum G")
    assert policy.witness_keys == [W1[1]]
    assert not policy.is_met_by([W1[1]])
    with pytest.raises(VerificationError, match="key id"):
        policy_of(f"witness PQ {vkey.replace('pq.example', 'px.example')}", "quorum PQ")


@pytest.mark.parametrize(
    ("lines", "met", "unmet"),
    [
        (["quorum none"], ["", "A"], []),
        (["quorum A"], ["A", "AB"], ["", "B"]),
        (["group G any A B C", "quorum G"], ["A", "C", "ABC"], [""]),
        (["group G all A B C", "quorum G"], ["ABC"], ["AB", "BC", ""]),
        (["group G 3 A B C", "quorum G"], ["ABC"], ["AB", "BC", ""]),
        (["group G 2 A B C", "quorum G"], ["AB", "BC", "ABC"], ["A", "C", ""]),
        (["group G any A B", "group H all G C", "quorum H"], ["AC", "BC"], ["AB", "C", "A"]),
        (["group G all A B", "quorum A"], ["A"], ["B"]),
    ],
)
def test_a_quorum_is_met_by_these_and_by_no_others(lines: list[str], met: list[str], unmet: list[str]) -> None:
    policy = policy_of(*WITNESSES, *lines)
    keys = {"A": W1[1], "B": W2[1], "C": W3[1]}
    for names, verdict in [(one, True) for one in met] + [(one, False) for one in unmet]:
        assert policy.is_met_by(keys[name] for name in names) == verdict, names


@requirement("ledger:witnesses")
def test_a_checkpoint_without_its_quorum_is_incomplete_and_one_with_a_bad_cosignature_tampered() -> None:
    policy = policy_of(LOG, *WITNESSES, "group G 2 A B C", "quorum G")
    witnessed = policy.open(cosigned(NOTE, W1, W3))
    assert (witnessed.checkpoint.size, witnessed.times) == (3, {"A": TIME, "C": TIME})
    with pytest.raises(VerificationError, match="not cosigned by the quorum 'G'; witnesses that did: B") as caught:
        policy.open(cosigned(NOTE, W2))
    assert caught.value.kind == "incomplete"
    other = signed(TEXT.replace("\n3\n", "\n4\n"), (SIGNING, KEY))
    moved = other + cosigned(NOTE, W1, W3)[len(NOTE) :]
    with pytest.raises(VerificationError, match="does not verify") as caught:
        policy.open(moved)
    assert caught.value.kind == "tampered"


def test_only_a_listed_log_or_one_that_the_reader_names_is_accepted() -> None:
    policy = policy_of("quorum none")
    with pytest.raises(VerificationError):
        policy.open(NOTE)
    assert policy.open(NOTE, [KEY]).checkpoint.size == 3
    assert policy_of(LOG, "quorum none").open(NOTE, [KEY]).checkpoint.size == 3


def test_limits_of_a_policy_are_above_what_the_specification_wants() -> None:
    keys = [witness(seed, f"w{seed}")[1] for seed in range(40, 72)]
    logs = [pair(seed, f"l{seed}")[1] for seed in range(80, 112)]
    lines = [f"log {key.vkey}" for key in logs] + [f"witness {key.name} {key.vkey}" for key in keys]
    lines += ["group g40 all w40", *(f"group g{n} any g{n - 1} w{n}" for n in range(41, 72)), "quorum g71"]
    policy = policy_of(*lines)
    assert policy.is_met_by([keys[0]])
    assert not policy.is_met_by([])
    with pytest.raises(VerificationError, match="at most"):
        policies.parse(b"#" * ((1 << 20) + 1))


def test_the_limits_are_the_stated_ones() -> None:
    assert (MAX_TIME, MAX_SIZE, MAX_BYTES) == (2**63 - 1, 2**63 - 1, 1_000_000)
    line = signature_line(KEY, b"s" * 64).encode()
    longest = b"x" * (MAX_BYTES - len(line) - 2) + b"\n\n" + line
    assert len(longest) == MAX_BYTES
    assert len(split(longest)[1]) == 1
    with pytest.raises(VerificationError, match="at most"):
        split(b"x" + longest)
    comment = b"#" + b"x" * (policies.MAX_BYTES - 13) + b"\nquorum none"
    assert len(comment) == policies.MAX_BYTES
    assert policies.parse(comment).quorum == "none"
    with pytest.raises(VerificationError, match="at most"):
        policies.parse(comment + b"\n")


def test_what_only_looks_like_a_note_is_none() -> None:
    line = signature_line(KEY, b"s" * 64)
    assert split(f"\n\n{line}".encode())[0] == "\n", "a text may be one empty line"
    with pytest.raises(VerificationError, match="no blank line"):
        split(f"x{line}".encode())


def test_a_vkey_of_any_algorithm_has_a_name_an_id_and_material() -> None:
    def vkey(name: str, material: bytes) -> str:
        return f"{name}+{_key_id(name, material).hex()}+{b64(material)}"

    assert split_vkey(vkey("a", b"\x07k")) == ("a", b"\x07k")
    for bad in (vkey("a b", b"\x07k"), vkey("", b"\x07k"), vkey("a", b"\x07"), vkey("a", b"")):
        with pytest.raises(VerificationError):
            split_vkey(bad)


def test_a_policy_names_the_line_that_is_wrong_and_peers_need_no_url() -> None:
    with pytest.raises(VerificationError) as caught:
        policy_of("quorum none", "nonsense")
    assert caught.value.where == "line 2"
    assert policy_of(WITNESSES[0], "quorum A").witnesses[0].url == ""


def test_how_many_may_be_defined_is_limited() -> None:
    most = policies.MAX_DEFINED
    assert most == 256
    seeds = [bytes([n // 250 + 1, n % 250]) + b"k" * 30 for n in range(most + 1)]
    publics = [bytes(SigningKey(seed).verify_key) for seed in seeds]
    logs = [f"log {VerifierKey(f'l{n}', public).vkey}" for n, public in enumerate(publics)]
    witnesses = [f"witness w{n} {VerifierKey(f'w{n}', public, COSIGNATURE).vkey}" for n, public in enumerate(publics)]
    assert len(policy_of(*logs[:most], "quorum none").logs) == most
    assert len(policy_of(*witnesses[:most], "quorum none").witnesses) == most
    for lines in (logs, witnesses):
        with pytest.raises(VerificationError, match="more than 256"):
            policy_of(*lines, "quorum none")
