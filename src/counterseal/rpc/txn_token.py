"""The `txn-token`: on whose behalf a call is made (draft-ietf-oauth-transaction-tokens, compact JWS, Ed25519).

Pure functions build and verify it; `TokenVerifier` adds the key look-up and a cache of verified tokens, because an
Ed25519 check costs more than half of an empty call. Expiry and key state are checked on every call, cached or not.

Signed by the environment's transit key `ctx-<env>`; kid `ctx-<env>:<version>`. Times are seconds since 1970.
"""

import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from counterseal.canonical import JsonObject, canonical, parse_strict
from counterseal.clock import Clock
from counterseal.errors import NotCanonical, TokenInvalid
from counterseal.identity import Caller, SpiffeId

MAX_TOKEN_BYTES = 4096
MAX_LIFE_SECONDS = 300
MAX_ACTORS = 8
CLOCK_SKEW_SECONDS = 5
TYPE = "txntoken+jwt"

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_KID = re.compile(r"ctx-[a-z0-9]+(?:-[a-z0-9]+)*:[1-9][0-9]{0,8}")
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_CLAIMS = frozenset({"iss", "aud", "iat", "exp", "txn", "sub", "scope", "req_wl", "act", "auth_time", "tctx"})
_CONTEXT = frozenset(
    {
        "tenant",
        "environment",
        "request_id",
        "session_id",
        "roles",
        "subject_roles",
        "person_id",
        "constraints",
        "epoch",
    }
)
_ACTOR = frozenset({"sub", "version", "owner", "act"})


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """A token's content. `chain` is the `act` claim flattened, outermost actor first; empty on a person's own token.

    issue_time, expire_time, auth_time: seconds since 1970. requester: the SPIFFE id the token was issued to (`req_wl`).
    """

    issuer: str
    audience: str
    issue_time: int
    expire_time: int
    txn: str
    subject: str
    requester: str
    tenant: str
    environment: str
    request_id: str
    scope: tuple[str, ...] = ()
    chain: tuple[Mapping[str, Any], ...] = ()
    session_id: str | None = None
    roles: tuple[str, ...] = ()
    subject_roles: tuple[str, ...] = ()
    person_id: str | None = None
    constraints: Mapping[str, Any] | None = None
    epochs: Mapping[str, int] | None = None
    auth_time: int | None = None

    def caller(self, peer: SpiffeId, raw: str) -> Caller:
        """Return the caller that `peer` is when it presents this token."""
        actor = self.chain[0] if self.chain else {}
        return Caller(
            peer=peer.uri,
            peer_kind=peer.kind,
            token=raw,
            subject=self.subject,
            person_id=self.person_id,
            agent=actor.get("sub"),
            agent_version=actor.get("version"),
            chain=self.chain,
            tenant=self.tenant,
            environment=self.environment,
            request_id=self.request_id,
            session_id=self.session_id,
            txn=self.txn,
            scope=frozenset(self.scope),
            roles=frozenset(self.roles),
            subject_roles=frozenset(self.subject_roles),
            constraints=self.constraints or {},
            epochs=self.epochs or {},
            auth_time_ms=None if self.auth_time is None else self.auth_time * 1000,
            expire_time_ms=self.expire_time * 1000,
        )


def signing_input(claims: TokenClaims, kid: str) -> bytes:
    """Return the bytes that the transit key signs: base64url header, a dot, base64url claims (RFC 7515 section 5.1)."""
    header = canonical({"alg": "EdDSA", "typ": TYPE, "kid": kid})
    return _encode(header) + b"." + _encode(canonical(_document(claims)))


def assemble(signed: bytes, signature: bytes) -> str:
    """Return the compact token of what was signed. Raises ValueError when it would exceed what servers accept."""
    token = signed + b"." + _encode(signature)
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"the token would have {len(token)} bytes; at most {MAX_TOKEN_BYTES} are accepted")
    return token.decode("ascii")


def key_id(raw: str) -> str:
    """Return the `kid` that a token names, from its strictly parsed header; nothing is verified yet."""
    return _split(raw)[0]


def verify(raw: str, public_key: bytes, *, audience: str, now_ms: int) -> TokenClaims:
    """Return the claims of a token whose signature, form, audience and life are all good at `now_ms`.

    public_key: 32 bytes, of the token's `kid`. Raises TokenInvalid, which never repeats the token.
    """
    _, signed, signature, body = _split(raw)
    try:
        VerifyKey(public_key).verify(signed, signature)
    except (BadSignatureError, ValueError):
        raise TokenInvalid("the token's signature does not verify") from None
    claims = _claims(_object(body))
    if claims.audience != audience:
        raise TokenInvalid("the token is for another audience")
    check_life(claims, now_ms)
    return claims


def check_life(claims: TokenClaims, now_ms: int) -> None:
    """Raise TokenInvalid unless `iat - 5 s <= now < exp` and the token lives at most 300 s."""
    if not 0 < claims.expire_time - claims.issue_time <= MAX_LIFE_SECONDS:
        raise TokenInvalid("the token's life is longer than allowed")
    if now_ms >= claims.expire_time * 1000:
        raise TokenInvalid("the token has expired")
    if now_ms < (claims.issue_time - CLOCK_SKEW_SECONDS) * 1000:
        raise TokenInvalid("the token is not valid yet")


class TokenVerifier:
    """Verifies tokens for one environment: keys by kid, and a bounded cache of tokens verified before.

    The cache is keyed by the whole token. A hit still asks for the key, so a token of a key that was archived or
    compromised since is refused, and still checks the token's life against the clock.
    """

    def __init__(
        self, key: Callable[[str], Awaitable[bytes]], *, audience: str, clock: Clock, capacity: int = 4096
    ) -> None:
        self._key = key
        self._audience = audience
        self._clock = clock
        self._capacity = capacity
        self._verified: OrderedDict[str, tuple[str, bytes, TokenClaims]] = OrderedDict()

    async def verify(self, raw: str) -> TokenClaims:
        """Return the verified claims. Raises TokenInvalid, or the look-up's error when keys are out of reach."""
        known = self._verified.get(raw)
        kid = known[0] if known else key_id(raw)
        try:
            public_key = await self._key(kid)
        except LookupError:
            self._verified.pop(raw, None)
            raise TokenInvalid("the token is signed by a key that is not active here") from None
        now_ms = self._clock()
        if known and known[1] == public_key:
            self._verified.move_to_end(raw)
            check_life(known[2], now_ms)
            return known[2]
        claims = verify(raw, public_key, audience=self._audience, now_ms=now_ms)
        self._verified[raw] = (kid, public_key, claims)
        while len(self._verified) > self._capacity:
            self._verified.popitem(last=False)
        return claims


def _document(claims: TokenClaims) -> JsonObject:
    context: JsonObject = {
        "tenant": claims.tenant,
        "environment": claims.environment,
        "request_id": claims.request_id,
        "roles": list(claims.roles),
        "subject_roles": list(claims.subject_roles),
        "constraints": dict(claims.constraints or {}),
        "epoch": dict(claims.epochs or {}),
    }
    if claims.session_id is not None:
        context["session_id"] = claims.session_id
    if claims.person_id is not None:
        context["person_id"] = claims.person_id
    document: JsonObject = {
        "iss": claims.issuer,
        "aud": claims.audience,
        "iat": claims.issue_time,
        "exp": claims.expire_time,
        "txn": claims.txn,
        "sub": claims.subject,
        "scope": " ".join(claims.scope),
        "req_wl": claims.requester,
        "tctx": context,
    }
    if claims.auth_time is not None:
        document["auth_time"] = claims.auth_time
    actor: JsonObject | None = None
    for link in reversed(claims.chain):
        actor = {**link, **({"act": actor} if actor else {})}
    if actor is not None:
        document["act"] = actor
    return document


def _split(raw: str) -> tuple[str, bytes, bytes, bytes]:
    if len(raw) > MAX_TOKEN_BYTES:
        raise TokenInvalid("the token is too long")
    parts = raw.split(".")
    if len(parts) != 3:
        raise TokenInvalid("the token is not a compact JWS")
    header = _object(_decode(parts[0]))
    kid = header.get("kid")
    # The exact header: no `alg` choice, no `crit`, `jku`, `jwk` or anything else that a verifier could follow.
    if header != {"alg": "EdDSA", "typ": TYPE, "kid": kid} or not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise TokenInvalid("the token's header is not that of a txn-token")
    body, signature = _decode(parts[1]), _decode(parts[2])  # all three parts are ASCII from here on
    return kid, f"{parts[0]}.{parts[1]}".encode("ascii"), signature, body


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: str) -> bytes:
    if not _BASE64URL.fullmatch(text):
        raise TokenInvalid("the token is not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise TokenInvalid("the token is not base64url") from None
    if _encode(data).decode() != text:  # spare bits set: a second spelling of the same token
        raise TokenInvalid("the token is not base64url in its one form")
    return data


def _object(data: bytes) -> JsonObject:
    try:
        return parse_strict(data)
    except NotCanonical:
        raise TokenInvalid("the token does not hold strict JSON") from None


def _claims(document: JsonObject) -> TokenClaims:
    _only(document, _CLAIMS)
    context = document.get("tctx")
    if not isinstance(context, dict):
        raise TokenInvalid("the token has no context")
    _only(context, _CONTEXT)
    return TokenClaims(
        issuer=_text(document, "iss"),
        audience=_text(document, "aud"),
        issue_time=_seconds(document, "iat"),
        expire_time=_seconds(document, "exp"),
        txn=_text(document, "txn"),
        subject=_text(document, "sub"),
        requester=_text(document, "req_wl"),
        scope=tuple(_string(document.get("scope", ""), "scope").split()),
        chain=_chain(document.get("act")),
        tenant=_name(context, "tenant"),
        environment=_name(context, "environment"),
        request_id=_text(context, "request_id"),
        session_id=_text(context, "session_id") if "session_id" in context else None,
        roles=_texts(context, "roles"),
        subject_roles=_texts(context, "subject_roles"),
        person_id=_text(context, "person_id") if "person_id" in context else None,
        constraints=_mapping(context, "constraints"),
        epochs=_epochs(context),
        auth_time=_seconds(document, "auth_time") if "auth_time" in document else None,
    )


def _only(document: JsonObject, known: frozenset[str]) -> None:
    if not document.keys() <= known:
        raise TokenInvalid("the token holds an unknown claim")


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > 2048:
        raise TokenInvalid(f"the token's {name} is not text")
    return value


def _text(document: JsonObject, name: str) -> str:
    value = _string(document.get(name), name)
    if not value:
        raise TokenInvalid(f"the token's {name} is empty")
    return value


def _name(document: JsonObject, name: str) -> str:
    value = _text(document, name)
    if len(value) > 24 or not _NAME.fullmatch(value):
        raise TokenInvalid(f"the token's {name} is not a name")
    return value


def _seconds(document: JsonObject, name: str) -> int:
    value = document.get(name)
    if type(value) is not int or value < 0:
        raise TokenInvalid(f"the token's {name} is not a time")
    return value


def _texts(document: JsonObject, name: str) -> tuple[str, ...]:
    values = document.get(name, [])
    if not isinstance(values, list):
        raise TokenInvalid(f"the token's {name} is not a list")
    return tuple(_string(value, name) for value in values)


def _mapping(document: JsonObject, name: str) -> Mapping[str, Any]:
    value = document.get(name, {})
    if not isinstance(value, dict):
        raise TokenInvalid(f"the token's {name} is not an object")
    return value


def _epochs(context: JsonObject) -> Mapping[str, int]:
    epochs = _mapping(context, "epoch")
    if any(type(epoch) is not int or epoch < 0 for epoch in epochs.values()):
        raise TokenInvalid("the token's epoch is not an integer")
    return epochs


def _chain(actor: Any) -> tuple[Mapping[str, Any], ...]:
    links: list[Mapping[str, Any]] = []
    while actor is not None:
        if not isinstance(actor, dict) or len(links) == MAX_ACTORS:
            raise TokenInvalid("the token's act is not a chain of at most 8 actors")
        _only(actor, _ACTOR)
        _text(actor, "sub")
        links.append({key: _string(value, f"act.{key}") for key, value in actor.items() if key != "act"})
        actor = actor.get("act")
    return tuple(links)
