"""The token parser accepts one spelling of one form; everything else is refused without being repeated."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from counterseal.errors import TokenInvalid
from counterseal.rpc.keys import UnknownKey
from counterseal.rpc.txn_token import (
    TokenClaims,
    TokenVerifier,
    assemble,
    key_id,
    signing_input,
    verify,
)

KEY = SigningKey(b"\x07" * 32)
PUBLIC = bytes(KEY.verify_key)
NOW = 1_795_330_000
AUDIENCE = "org/prod"
CLAIMS = TokenClaims(
    issuer="spiffe://org/prod/svc/credentials",
    audience=AUDIENCE,
    issue_time=NOW,
    expire_time=NOW + 300,
    txn="t",
    subject="user:ana",
    requester="spiffe://org/prod/agent/a",
    tenant="acme",
    environment="prod",
    request_id="r",
    scope=("plan.propose", "plan.commit"),
    chain=({"sub": "b", "version": "2"}, {"sub": "a", "owner": "user:olga"}),
    session_id="s",
    subject_roles=("refund_operator",),
    person_id="p-17",
    constraints={"max_amount_minor": {"EUR": 20000}},
    epochs={"environment:prod": 2},
    auth_time=NOW - 10,
)


def signed(claims: TokenClaims) -> str:
    data = signing_input(claims, "ctx-prod:3")
    return assemble(data, KEY.sign(data).signature)


def forge(header: bytes, body: bytes) -> str:
    """A token with a good signature over any bytes."""
    data = _b64(header) + b"." + _b64(body)
    return (data + b"." + _b64(KEY.sign(data).signature)).decode()


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def check(raw: str, now_ms: int = NOW * 1000) -> TokenClaims:
    return verify(raw, PUBLIC, audience=AUDIENCE, now_ms=now_ms)


def parts(raw: str) -> tuple[bytes, dict[str, Any]]:
    header, body, _ = raw.split(".")
    decode: Callable[[str], bytes] = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return decode(header), json.loads(decode(body))


def test_what_was_signed_is_what_is_read() -> None:
    assert check(signed(CLAIMS)) == CLAIMS
    assert key_id(signed(CLAIMS)) == "ctx-prod:3"


def test_a_persons_token_has_no_actor() -> None:
    person = replace(CLAIMS, chain=(), roles=("approver",))
    assert check(signed(person)) == person


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_refused(position: int, difference: int) -> None:
    data = bytearray(signed(CLAIMS), "ascii")
    data[position % len(data)] ^= difference
    with pytest.raises(TokenInvalid):
        check(data.decode("latin-1"))


@given(st.text(max_size=200))
def test_any_text_is_refused_with_the_one_error(text: str) -> None:
    with pytest.raises(TokenInvalid):
        check(text)


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"none","kid":"ctx-prod:3","typ":"txntoken+jwt"}',
        b'{"alg":"HS256","kid":"ctx-prod:3","typ":"txntoken+jwt"}',
        b'{"alg":"EdDSA","kid":"ctx-prod:3","typ":"JWT"}',
        b'{"alg":"EdDSA","kid":"decision-prod:3","typ":"txntoken+jwt"}',
        b'{"alg":"EdDSA","kid":"ctx-prod:3\\n","typ":"txntoken+jwt"}',
        b'{"alg":"EdDSA","typ":"txntoken+jwt"}',
        b'{"alg":"EdDSA","crit":["x"],"kid":"ctx-prod:3","typ":"txntoken+jwt"}',
        b'{"alg":"EdDSA","jwk":{},"kid":"ctx-prod:3","typ":"txntoken+jwt"}',
        b'{"alg":"none","alg":"EdDSA","kid":"ctx-prod:3","typ":"txntoken+jwt"}',
    ],
)
def test_any_other_header_is_refused(header: bytes) -> None:
    _, body = parts(signed(CLAIMS))
    with pytest.raises(TokenInvalid):
        check(forge(header, json.dumps(body).encode()))


def _change(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, **changes}


def _context(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, "tctx": {**body["tctx"], **changes}}


@pytest.mark.parametrize(
    "change",
    [
        _change(aud="org/staging"),
        _change(aud=["org/prod"]),
        _change(exp=NOW + 301),
        _change(exp=NOW),
        _change(exp="never"),
        _change(iat=True),
        _change(sub=""),
        _change(admin=True),
        _change(tctx="acme"),
        _change(scope=["a"]),
        _change(act={"sub": "a", "role": "root"}),
        _change(act={"version": "1"}),
        _context(tenant="acme\n"),
        _context(tenant="../evil"),
        _context(tenant=None),
        _context(roles="approver"),
        _context(epoch={"environment:prod": -1}),
        _context(epoch={"environment:prod": True}),
        _context(constraints=[]),
        _context(unknown=1),
    ],
)
def test_a_claim_of_another_form_is_refused(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    header, body = parts(signed(CLAIMS))
    with pytest.raises(TokenInvalid):
        check(forge(header, json.dumps(change(body)).encode()))


def test_a_chain_of_nine_actors_is_refused() -> None:
    with pytest.raises(TokenInvalid):
        check(signed(replace(CLAIMS, chain=tuple({"sub": f"a{i}"} for i in range(9)))))


@pytest.mark.parametrize(("at", "good"), [(-6, False), (-5, True), (0, True), (299.999, True), (300, False)])
def test_a_token_lives_from_five_seconds_before_issue_until_its_end(at: float, good: bool) -> None:
    now_ms = NOW * 1000 + round(at * 1000)
    if good:
        assert check(signed(CLAIMS), now_ms) == CLAIMS
    else:
        with pytest.raises(TokenInvalid):
            check(signed(CLAIMS), now_ms)


def test_a_token_that_servers_would_refuse_for_its_size_is_never_made() -> None:
    with pytest.raises(ValueError, match="at most 4096"):
        signed(replace(CLAIMS, constraints={"forbid_tools": ["x" * 4000]}))


class World:
    def __init__(self) -> None:
        self.now_ms = NOW * 1000
        self.active = True
        self.verifier = TokenVerifier(self.key, audience=AUDIENCE, clock=lambda: self.now_ms, capacity=2)

    async def key(self, kid: str) -> bytes:
        if not self.active or kid != "ctx-prod:3":
            raise UnknownKey(kid)
        return PUBLIC


async def test_a_cached_token_still_expires() -> None:
    world, raw = World(), signed(CLAIMS)
    first = await world.verifier.verify(raw)
    assert await world.verifier.verify(raw) is first
    world.now_ms += 300_000
    with pytest.raises(TokenInvalid, match="expired"):
        await world.verifier.verify(raw)


async def test_a_cached_token_dies_with_its_key() -> None:
    world, raw = World(), signed(CLAIMS)
    await world.verifier.verify(raw)
    world.active = False
    with pytest.raises(TokenInvalid, match="not active"):
        await world.verifier.verify(raw)


async def test_the_cache_is_bounded() -> None:
    world = World()
    for index in range(10):
        await world.verifier.verify(signed(replace(CLAIMS, txn=f"t{index}")))
    assert len(world.verifier._verified) == 2
