"""Foreign tokens: the RFCs' own examples pass, every known way to choose the algorithm is refused."""

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.canonical import parse_strict
from counterseal.embedded.issuer_keys import IssuerKeys, base64url
from counterseal.errors import TokenInvalid
from counterseal_credentials.tokens import jose

# RFC 8037 appendix A.4 and A.2; RFC 7515 appendices A.2 and A.3 (Trust Legal Provisions of the IETF).
RFC8037_TOKEN = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)
RFC8037_JWK = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
RFC7515_PAYLOAD = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
RFC7515_RS256 = (
    "eyJhbGciOiJSUzI1NiJ9." + RFC7515_PAYLOAD + "."
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1"
    "dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jz"
    "DwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
RFC7515_RSA = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS"
    "-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdV"
    "MTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "e": "AQAB",
}
RFC7515_ES256 = (
    "eyJhbGciOiJFUzI1NiJ9." + RFC7515_PAYLOAD + "."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
RFC7515_EC = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}


def token(header: object, claims: object = None, signature: bytes = b"\x00" * 64) -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims or {"sub": "ana"}).encode(), signature]
    return ".".join(base64url(part) for part in parts)


def test_the_ed25519_example_of_rfc_8037_verifies() -> None:
    taken = jose.split(RFC8037_TOKEN)
    key = jose.read_jwk(RFC8037_JWK)
    assert key.verify(taken.message, taken.signature)
    assert not key.verify(taken.message + b"x", taken.signature)


@pytest.mark.parametrize(("raw", "jwk"), [(RFC7515_RS256, RFC7515_RSA), (RFC7515_ES256, RFC7515_EC)])
def test_the_examples_of_rfc_7515_verify(raw: str, jwk: dict[str, str]) -> None:
    taken = jose.split(raw)
    assert jose.check(taken, jose.read_jwk(jwk))["iss"] == "joe"


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "ES256K", "ES384", "PS256", "", None, 5])
def test_an_algorithm_that_we_do_not_pin_is_refused(algorithm: object) -> None:
    with pytest.raises(TokenInvalid):
        jose.split(token({"alg": algorithm, "kid": "a"}))


def test_hmac_with_the_public_key_as_secret_is_refused() -> None:
    message = token({"alg": "HS256", "kid": "a"}).rsplit(".", 1)[0]
    public = base64.urlsafe_b64decode(RFC8037_JWK["x"] + "=")
    forged = hmac.new(public, message.encode(), hashlib.sha256).digest()
    with pytest.raises(TokenInvalid):
        jose.split(f"{message}.{base64url(forged)}")


def test_a_key_serves_its_own_algorithm_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = IssuerKeys.kept(tmp_path_factory.mktemp("keys"))
    published = jose.read_jwks(keys.jwks())
    for algorithm in jose.ALGORITHMS:
        taken = jose.split(keys.sign({"sub": "ana"}, algorithm))
        for kid, key in published.items():
            if kid == f"dev-{algorithm}":
                assert jose.check(taken, key) == {"sub": "ana"}
            else:
                with pytest.raises(TokenInvalid):
                    jose.check(taken, key)


@pytest.mark.parametrize(
    "extra", [{"crit": ["exp"]}, {"jwk": RFC8037_JWK}, {"jku": "https://evil"}, {"x5u": "https://evil"}, {"b64": False}]
)
def test_a_header_that_brings_its_own_key_or_rules_is_refused(extra: dict[str, object]) -> None:
    with pytest.raises(TokenInvalid):
        jose.split(token({"alg": "EdDSA", "kid": "a", **extra}))


def test_duplicate_keys_are_refused_in_header_and_claims() -> None:
    header = base64url(b'{"alg":"EdDSA","alg":"RS256"}')
    with pytest.raises(TokenInvalid):
        jose.split(f"{header}.e30.AAAA")
    with pytest.raises(TokenInvalid):
        jose.json_object(b'{"sub":"ana","sub":"olga"}')


def test_a_signature_of_another_length_or_der_is_refused() -> None:
    key = jose.read_jwk(RFC7515_EC)
    taken = jose.split(RFC7515_ES256)
    assert not key.verify(taken.message, taken.signature + b"\x00")
    assert not key.verify(taken.message, b"\x30\x44" + taken.signature)


def test_an_ed25519_signature_with_s_beyond_the_order_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    taken = jose.split(RFC8037_TOKEN)
    s = int.from_bytes(taken.signature[32:], "little") + order
    assert not jose.read_jwk(RFC8037_JWK).verify(taken.message, taken.signature[:32] + s.to_bytes(32, "little"))


def test_unusable_keys_of_a_jwks_are_passed_over() -> None:
    good = {**RFC8037_JWK, "kid": "good"}
    bad = [
        {**RFC8037_JWK, "kid": "enc", "use": "enc"},
        {**RFC8037_JWK, "kid": "short", "x": "AAAA"},
        {**RFC8037_JWK, "kid": "other", "alg": "ES256"},
        {**RFC7515_EC, "kid": "off-curve", "y": base64url(b"\x01" * 32)},
        {**RFC7515_RSA, "kid": "weak", "n": base64url(b"\xc1" * 64)},
        {"kty": "oct", "k": "AAAA", "kid": "oct"},
        RFC8037_JWK,
        "text",
    ]
    assert set(jose.read_jwks({"keys": [good, *bad]})) == {"good"}
    assert jose.read_jwks({"keys": [good, {**RFC7515_EC, "kid": "good"}]}) == {}
    assert jose.read_jwks({"keys": "x"}) == {}


@given(st.text(max_size=200))
def test_whatever_text_comes_only_token_invalid_is_raised(text: str) -> None:
    try:
        taken = jose.split(text)
        jose.check(taken, jose.read_jwk(RFC8037_JWK))
    except TokenInvalid:
        pass


def test_the_strict_parser_is_the_one_that_reads_claims() -> None:
    assert parse_strict(b'{"a":1}') == jose.json_object(b'{"a":1}')
