"""What a foreign issuer's token must say before it names a person here (OpenID Connect Core 1.0 section 3.1.3.7).

Pure: issuer settings, verified claims, time in; a person out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import JsonObject
from counterseal.errors import TokenInvalid
from counterseal_credentials.config import IssuerConfig
from counterseal_credentials.tokens.jose import Jws

MAX_LIFE_SECONDS = 3600
SKEW_SECONDS = 5
MAX_ROLES = 64

_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_ROLE = re.compile(r"[a-z0-9][a-z0-9_.:-]{0,63}")


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the token names. subject: `user:` + the issuer's alias, if it is not the primary one, and its `sub`.

    client: the `azp`. auth_time: when the person last logged in, seconds since 1970, None if not said.
    expire_time: when the issuer's token ends, seconds since 1970. tenants: where the person belongs; None: not said, in
    a deployment of one tenant.
    """

    subject: str
    person_id: str
    roles: tuple[str, ...]
    tenants: tuple[str, ...] | None
    client: str
    auth_time: int | None
    expire_time: int


def issuer_of(token: Jws, claims: JsonObject, issuers: Mapping[str, IssuerConfig]) -> str:
    """Return the alias of the issuer that unverified claims name. Raises TokenInvalid for an unknown one."""
    for alias, issuer in issuers.items():
        if claims.get("iss") == issuer.issuer:
            if token.algorithm not in issuer.algorithms:
                raise TokenInvalid("the issuer does not sign with this algorithm")
            if token.type not in issuer.types:
                raise TokenInvalid("the subject token is of another type")
            return alias
    raise TokenInvalid("the subject token's issuer is not trusted here")


def person_of(alias: str, issuer: IssuerConfig, claims: JsonObject, persons: Mapping[str, str], now_ms: int) -> Person:
    """Return the person that verified claims name at `now_ms`. Raises TokenInvalid."""
    now = now_ms // 1000
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if issuer.audience not in audiences:
        raise TokenInvalid("the subject token is for another audience")
    issued, expires = (_time(claims, name) for name in ("iat", "exp"))
    if issued is None or expires is None or not 0 < expires - issued <= MAX_LIFE_SECONDS:
        raise TokenInvalid("the subject token's life is absent or longer than allowed")
    if now >= expires or now < issued - SKEW_SECONDS or now < (_time(claims, "nbf") or 0) - SKEW_SECONDS:
        raise TokenInvalid("the subject token has expired or is not valid yet")
    subject = claims.get("sub")
    client = claims.get("azp")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise TokenInvalid("the subject token's sub is not a name that is accepted")
    if not isinstance(client, str) or not client:
        raise TokenInvalid("the subject token does not say for which client it was issued (azp)")
    name = subject if issuer.primary else f"{alias}/{subject}"
    return Person(
        subject=f"user:{name}",
        person_id=persons.get(name, name),
        roles=_names(claims.get(issuer.roles_claim, []), "roles"),
        tenants=_tenants(issuer, claims),
        client=client,
        auth_time=_time(claims, "auth_time"),
        expire_time=expires,
    )


def _tenants(issuer: IssuerConfig, claims: JsonObject) -> tuple[str, ...] | None:
    if issuer.tenants_claim is not None:
        return _names(claims.get(issuer.tenants_claim, []), "tenants")
    return issuer.tenants or None


def _names(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_ROLES:
        raise TokenInvalid(f"the subject token's {what} have the wrong form")
    if not all(isinstance(name, str) and _ROLE.fullmatch(name) for name in value):
        raise TokenInvalid(f"the subject token's {what} have the wrong form")
    return tuple(sorted(set(value)))


def _time(claims: JsonObject, name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise TokenInvalid(f"the subject token's {name} is not a time")
    return value
