"""Who a call is made by and for: the peer's SPIFFE id, and the facts of its verified `txn-token`."""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_SEGMENT = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_SPIFFE = re.compile(
    rf"spiffe://(?P<domain>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)/(?P<environment>{_SEGMENT})/"
    rf"(?:(?P<group>svc|agent)/(?P<name>{_SEGMENT})|(?P<plain>cli|console|operator))"
)
MAX_SPIFFE_ID_LENGTH = 255


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A workload of our trust domain: `spiffe://<domain>/<environment>/{svc/<s>|agent/<a>|cli|console|operator}`.

    kind: what the method table lists: `svc/<service>` for services, `agent` for every agent, else the last segment.
    name: the service's or agent's bare name, empty for the others.
    """

    uri: str
    trust_domain: str
    environment: str
    kind: str
    name: str

    @classmethod
    def parse(cls, uri: str) -> "SpiffeId":
        """Parse a URI; raises ValueError for anything but the forms above."""
        match = _SPIFFE.fullmatch(uri) if len(uri) <= MAX_SPIFFE_ID_LENGTH else None
        if match is None:
            raise ValueError("not a SPIFFE id of a Counterseal workload")
        group, name = match["group"], match["name"] or ""
        kind = match["plain"] or (f"svc/{name}" if group == "svc" else "agent")
        return cls(uri=uri, trust_domain=match["domain"], environment=match["environment"], kind=kind, name=name)


def service_spiffe_id(trust_domain: str, environment: str, service: str) -> str:
    """Return the SPIFFE id of one of our services."""
    return f"spiffe://{trust_domain}/{environment}/svc/{service}"


def audience(trust_domain: str, environment: str) -> str:
    """Return the `aud` of this environment's tokens: `<trust domain>/<environment>`."""
    return f"{trust_domain}/{environment}"


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified identity of one call. Text fields are empty where no token travelled (`token is None`).

    peer, peer_kind: the mTLS certificate's SPIFFE id and its kind in the method table.
    token: the raw `txn-token`, to be forwarded unchanged as metadata of calls made for this caller.
    subject: `user:<sub>` or `schedule:<name>`; person_id: the person behind it, one across issuers; None for schedules.
    agent, agent_version: the outermost actor's bare name and version; None on a person's own token.
    chain: the `act` claim flattened, outermost actor first; each mapping has `sub`, and `version`, `owner` if known.
    scope: space-separated scopes as a set. roles: what the person may do (never set beside an actor); subject_roles:
    facts about the subject for rules only. constraints: the request's own limits. epochs: containment scope -> epoch.
    auth_time_ms: when the person last logged in; expire_time_ms: when the token ends (both milliseconds since 1970).
    """

    peer: str
    peer_kind: str
    token: str | None = None
    subject: str = ""
    person_id: str | None = None
    agent: str | None = None
    agent_version: str | None = None
    chain: tuple[Mapping[str, Any], ...] = ()
    tenant: str = ""
    environment: str = ""
    request_id: str = ""
    session_id: str | None = None
    txn: str = ""
    scope: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    subject_roles: frozenset[str] = frozenset()
    constraints: Mapping[str, Any] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    auth_time_ms: int | None = None
    expire_time_ms: int = 0

    def forward(self) -> tuple[tuple[str, str], ...]:
        """Metadata for a call made on this caller's behalf: its token, byte for byte. Channels add the trace."""
        return ((TOKEN_METADATA_KEY, self.token),) if self.token is not None else ()


TOKEN_METADATA_KEY = "txn-token"  # noqa: S105 (a metadata key, not a secret)

_current: ContextVar[Caller] = ContextVar("counterseal_caller")


def current_caller() -> Caller:
    """Return the caller of the RPC being handled; raises LookupError outside of one."""
    return _current.get()


class acting_for:  # noqa: N801 (read as a word: `with acting_for(caller)`)
    """Make `caller` the current one for the block (the interceptor does; tests of handlers may).

    A class and not a generator: it is on the path of every call.
    """

    __slots__ = ("_caller", "_token")

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __enter__(self) -> None:
        self._token = _current.set(self._caller)

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)
