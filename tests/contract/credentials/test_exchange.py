"""Exchange: each row of its table, and everybody who asks for more than is theirs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from counterseal.api.common.v1 import decision_pb2
from counterseal.api.credentials.v1 import token_pb2
from counterseal.canonical import canonical
from counterseal.clock import system_clock
from counterseal.documents.decision import (
    Context,
    ScopeEpoch,
    Statement,
    StepDecision,
    build_statement,
    nested_act,
    signing_input,
)
from counterseal.embedded.issuer import AUDIENCE, IssuerServer
from counterseal.embedded.issuer_keys import IssuerKeys, base64url
from counterseal.errors import (
    Contained,
    DecisionInvalid,
    InputInvalid,
    PeerNotAllowed,
    ServiceError,
    TenantMismatch,
    TokenInvalid,
    TokenRevoked,
)
from counterseal.identity import Caller, acting_for
from counterseal.ids import new_id
from counterseal.ledger.entry import parse
from counterseal.rpc.interceptor import Refusal
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.outbox import Outbox
from counterseal.rpc.txn_token import TokenClaims, TokenVerifier
from counterseal_credentials.config import CredentialsConfig, IssuerConfig, Workload
from counterseal_credentials.containment import store as barrier
from counterseal_credentials.containment.engine import ScopeState
from counterseal_credentials.registrations import Registrations
from counterseal_credentials.tokens.engine import Domain
from counterseal_credentials.tokens.exchange import Exchange
from counterseal_credentials.tokens.jwks_source import JwksSource
from counterseal_credentials.tokens.service import TokenService
from support import documents
from support.ledger import TinyLedger, serve
from support.postgres import FreshDatabase, open_directory
from support.signer import LocalSigner

BASE = "spiffe://counterseal.test/prod"
KID, DECISION_KID = "ctx-prod:1", "decision-prod:1"
DOMAIN = Domain(f"{BASE}/svc/credentials", "counterseal.test/prod", "prod")
BOT, NEXT, CLI, EXECUTOR = f"{BASE}/agent/refund-bot", f"{BASE}/agent/audit-bot", f"{BASE}/cli", f"{BASE}/svc/executor"
SCOPES = ("plan.commit", "plan.propose", "plan.read")


@pytest.fixture(scope="module")
def issuer() -> Iterator[IssuerServer]:
    """A real OpenID provider over TLS."""
    with open_directory("counterseal-issuer-") as home:
        belongs = {"tenants": ["acme", "globex"]}
        users = {"ana": {"roles": ["refund_operator"], **belongs}, "olga": {"roles": ["approver"], **belongs}}
        (home / "users.json").write_bytes(canonical(users))
        server = IssuerServer(home, 0)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        yield server
        server.stop()
        thread.join(5)


@dataclass
class Office:
    """The token service as one process has it."""

    service: TokenService
    issuer: IssuerServer
    engine: AsyncEngine
    ledger: TinyLedger
    outbox: Outbox
    verifier: TokenVerifier
    decisions: LocalSigner
    refused: list[Refusal]

    def login(self, user: str, client: str, algorithm: str = "EdDSA") -> str:
        return self.issuer.issuer.token(user, self.issuer.issuer.password, client, algorithm)

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = system_clock() // 1000
        return {
            "iss": self.issuer.issuer.url,
            "sub": "ana",
            "aud": AUDIENCE,
            "azp": "refund-bot",
            "iat": now,
            "exp": now + 600,
            "roles": ["refund_operator"],
            "tenants": ["acme", "globex"],
        } | changes

    def signed(self, algorithm: str = "EdDSA", keys: IssuerKeys | None = None, **changes: Any) -> str:
        claims = {name: value for name, value in self.claims(**changes).items() if value is not None}
        return (keys or self.issuer.issuer.keys).sign(claims, algorithm)

    async def exchange(self, peer: str, **fields: Any) -> TokenClaims:
        kind = peer.removeprefix(BASE + "/").split("/", maxsplit=1)[0]
        kind = "svc/executor" if peer == EXECUTOR else kind
        request = token_pb2.ExchangeTokenRequest(**fields)
        with acting_for(Caller(peer=peer, peer_kind=kind)):
            answer = await self.service.ExchangeToken(request, None)
        self.last = answer.txn_token
        claims = await self.verifier.verify(answer.txn_token)
        assert claims.expire_time == answer.expire_time.seconds
        return claims

    async def person(self, peer: str, jwt: str, **fields: Any) -> TokenClaims:
        return await self.exchange(peer, oidc_jwt=jwt, **{"tenant": "acme", "request_id": new_id()} | fields)

    async def stop(self, scope: str, epoch: int = 1, *, stopped: bool = True) -> None:
        async with self.engine.begin() as connection:
            await barrier.lock_exclusive(connection)
            await barrier.put(connection, ScopeState(scope, epoch, stopped, "OPERATOR"), system_clock())


def config(issuer: IssuerServer) -> CredentialsConfig:
    agent = {"kind": "agent", "owner": "user:olga", "tenants": ("acme", "globex"), "scopes": SCOPES}
    return CredentialsConfig(
        vault_address="https://vault",
        tenants=("acme", "globex"),
        issuers={
            "dev": IssuerConfig(
                issuer.issuer.url,
                AUDIENCE,
                f"{issuer.issuer.url}/jwks",
                issuer.ca_file,
                tenants_claim="tenants",
                primary=True,
            ),
            "other": IssuerConfig(
                "https://other.example", AUDIENCE, f"{issuer.issuer.url}/jwks", issuer.ca_file, tenants=("acme",)
            ),
        },
        workloads={
            "bot": Workload(BOT, agent="refund-bot", versions=("3.2.1",), **agent),  # type: ignore[arg-type]
            "next": Workload(NEXT, agent="audit-bot", versions=("1.0.0", "1.1.0"), **agent),  # type: ignore[arg-type]
            "off": Workload(f"{BASE}/agent/off-bot", agent="off-bot", versions=("1",), enabled=False, **agent),  # type: ignore[arg-type]
            "cli": Workload(CLI, kind="cli", tenants=("acme",), scopes=("approval.vote", "plan.read")),
        },
        persons={"ana": "p-17", "other/ana.private": "p-17"},
    )


@pytest_asyncio.fixture
async def office(issuer: IssuerServer, fresh_database: FreshDatabase) -> AsyncIterator[Office]:
    engine = create_async_engine(fresh_database("credentials").sqlalchemy_url)
    signer, decisions, ledger = LocalSigner(KID), LocalSigner(DECISION_KID, b"\x02" * 32), TinyLedger("credentials")
    settings, pool, refused = config(issuer), ThreadPoolExecutor(1), list[Refusal]()

    async def context_key(kid: str) -> bytes:
        if kid != KID:
            raise LookupError(kid)
        return signer.public_key

    async def decision_key(kid: str) -> bytes:
        if kid != DECISION_KID:
            raise LookupError(kid)
        return decisions.public_key

    async def newest() -> str:
        return KID

    async def record(refusal: Refusal) -> None:
        refused.append(refusal)

    verifier = TokenVerifier(context_key, audience=DOMAIN.audience, clock=system_clock)
    async with serve(ledger) as channel:
        outbox = Outbox(engine, LedgerClient(channel))
        registrations = Registrations(settings)
        exchange = Exchange(
            settings,
            registrations,
            DOMAIN,
            engine_=engine,
            signer=signer,
            kid=newest,
            verify_token=verifier.verify,
            decision_key=decision_key,
            jwks={alias: JwksSource(item, pool) for alias, item in settings.issuers.items()},
            outbox=outbox,
            clock=system_clock,
            new_id=new_id,
        )
        service = TokenService(exchange, None, registrations, record)  # type: ignore[arg-type] # keys: not asked here
        yield Office(service, issuer, engine, ledger, outbox, verifier, decisions, refused)
    await engine.dispose()
    pool.shutdown()


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256", "ES256"])
async def test_an_agent_gets_a_token_with_itself_as_actor_and_without_roles(office: Office, algorithm: str) -> None:
    claims = await office.person(BOT, office.login("ana", "refund-bot", algorithm))
    assert claims.subject == "user:ana"
    assert claims.person_id == "p-17"
    assert claims.roles == ()
    assert claims.subject_roles == ("refund_operator",)
    assert claims.chain == ({"sub": "refund-bot", "version": "3.2.1", "owner": "user:olga"},)
    assert (claims.requester, claims.scope) == (BOT, SCOPES)
    assert claims.auth_time is None
    assert claims.expire_time - claims.issue_time <= 300
    assert set(claims.epochs or {}) >= {"environment:prod", "tenant:acme", "agent:acme/refund-bot"}


async def test_a_person_at_the_cli_gets_roles_and_auth_time_and_no_actor(office: Office) -> None:
    claims = await office.person(CLI, office.login("olga", "counterseal-cli"))
    assert (claims.chain, claims.roles, claims.subject) == ((), ("approver",), "user:olga")
    assert claims.auth_time is not None


@pytest.mark.parametrize("tenants", [["globex"], [], None, ["acme-two"]])
async def test_a_person_acts_only_where_their_own_token_says_they_belong(
    office: Office, tenants: list[str] | None
) -> None:
    # The certificates of command line and agent serve both tenants: they cannot say whose the person is.
    with pytest.raises(TenantMismatch):
        await office.person(BOT, office.signed(tenants=tenants))
    with pytest.raises(TenantMismatch):
        await office.person(CLI, office.signed(tenants=tenants, azp="counterseal-cli"))


async def test_a_person_of_one_tenant_reaches_it_through_an_agent_of_two(office: Office) -> None:
    jwt = office.signed(tenants=["globex"])
    assert (await office.person(BOT, jwt, tenant="globex")).tenant == "globex"


def test_a_deployment_of_two_tenants_must_say_whose_an_issuers_people_are(issuer: IssuerServer) -> None:
    settings = config(issuer)
    with pytest.raises(ValueError, match="tenants_claim"):
        replace(settings, issuers={"dev": replace(settings.issuers["dev"], tenants_claim=None)})
    replace(settings, tenants=("acme",), issuers={"dev": replace(settings.issuers["dev"], tenants_claim=None)})


async def test_every_exchange_is_recorded(office: Office) -> None:
    claims = await office.person(BOT, office.login("ana", "refund-bot"))
    await asyncio.sleep(0.35)
    await office.outbox.relay_once()
    entry = parse(office.ledger.log[0])
    assert (entry.type, entry.document["txn"]) == ("token.exchanged", claims.txn)
    assert entry.data["grant_type"] == "oidc"
    assert office.last.encode() not in office.ledger.log[0]


async def test_two_accounts_of_one_person_are_one_person_with_two_subjects(office: Office) -> None:
    first = await office.person(BOT, office.signed())
    second = await office.person(BOT, office.signed(iss="https://other.example", sub="ana.private"))
    assert first.person_id == second.person_id == "p-17"
    assert (first.subject, second.subject) == ("user:ana", "user:other/ana.private")
    third = await office.person(BOT, office.signed(iss="https://other.example", sub="ana"))
    assert third.person_id == "other/ana", "the same name at another issuer is another person"


REFUSED: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "somebody-else"},
    "no audience": {"aud": None},
    "an unknown issuer": {"iss": "https://evil.example"},
    "no issuer": {"iss": None},
    "no azp": {"azp": None},
    "the CLI's azp at an agent": {"azp": "counterseal-cli"},
    "another agent's azp": {"azp": "audit-bot"},
    "no subject": {"sub": None},
    "a subject with a slash": {"sub": "other/ana"},
    "a subject with a line break": {"sub": "ana\n"},
    "expired": {"iat": 1_700_000_000, "exp": 1_700_000_600},
    "a life of ten years": {"exp": 2_100_000_000},
    "no expiry": {"exp": None},
    "issued in the future": {"iat": 2_000_000_000, "exp": 2_000_000_600},
    "not valid yet": {"nbf": 2_000_000_000},
    "a time that is text": {"exp": "soon"},
    "a time that is a flag": {"iat": True},
    "roles as one text": {"roles": "approver"},
    "a role with a space": {"roles": ["approver operator"]},
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_persons_token_that_says_this_is_refused(office: Office, what: str) -> None:
    with pytest.raises(TokenInvalid):
        await office.person(BOT, office.signed(**REFUSED[what]))
    assert [refusal.reason for refusal in office.refused] == ["TOKEN_INVALID"]


async def test_a_token_signed_by_somebody_elses_keys_is_refused(
    office: Office, tmp_path_factory: pytest.TempPathFactory
) -> None:
    foreign = IssuerKeys.kept(tmp_path_factory.mktemp("foreign"))
    for algorithm in ("EdDSA", "RS256", "ES256"):
        with pytest.raises(TokenInvalid):
            await office.person(BOT, office.signed(algorithm, foreign))


def headed(**header: str) -> str:
    return base64url(canonical(header))


async def test_none_hmac_and_duplicate_keys_are_refused(office: Office) -> None:
    good = office.signed()
    header, claims, signature = good.split(".")
    duplicate = base64url(canonical(office.claims())[:-1] + b',"sub":"olga"}')
    eddsa = {"alg": "EdDSA", "kid": "dev-EdDSA"}
    for raw in (
        f"{headed(alg='none')}.{claims}.",
        f"{headed(alg='HS256', kid='dev-EdDSA', typ='JWT')}.{claims}.{signature}",
        f"{header}.{duplicate}.{signature}",
        f"{headed(**eddsa, typ='txntoken+jwt')}.{claims}.{signature}",
        f"{headed(**eddsa)}.{claims}.{signature}",
        f"{headed(alg='EdDSA', typ='JWT')}.{claims}.{signature}",
        good + "=",
        good[:-4] + "AAAA",
        "",
    ):
        with pytest.raises(TokenInvalid):
            await office.person(BOT, raw)


async def test_the_actor_is_the_peers_registration_and_unknown_or_disabled_peers_get_nothing(office: Office) -> None:
    for peer in (f"{BASE}/agent/ghost-bot", f"{BASE}/agent/off-bot", f"{BASE}/console"):
        with pytest.raises(PeerNotAllowed):
            await office.person(peer, office.signed(azp=peer.rpartition("/")[2]))


async def test_an_agent_cannot_log_in_as_a_persons_client(office: Office) -> None:
    with pytest.raises(TokenInvalid):
        await office.person(CLI, office.login("olga", "refund-bot"))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"tenant": "globex-eu"}, PeerNotAllowed),
        ({"tenant": ""}, PeerNotAllowed),
        ({"request_id": ""}, InputInvalid),
        ({"request_id": "R1"}, InputInvalid),
        ({"session_id": "a b"}, InputInvalid),
        ({"scopes": ["approval.vote"]}, InputInvalid),
        ({"scopes": ["plan.read", "roles"]}, InputInvalid),
        ({"agent_version": "9.9.9"}, InputInvalid),
        ({"constraints": b'{"unknown":1}'}, InputInvalid),
        ({"constraints": b'{"read_only": true}'}, InputInvalid),
    ],
)
async def test_a_request_that_asks_for_more_or_for_nonsense_is_refused(
    office: Office, fields: dict[str, Any], error: type[ServiceError]
) -> None:
    with pytest.raises(error):
        await office.person(BOT, office.login("ana", "refund-bot"), **fields)


async def test_scopes_and_constraints_narrow(office: Office) -> None:
    limits = canonical({"max_amount_minor": {"EUR": 20000}})
    claims = await office.person(
        BOT, office.login("ana", "refund-bot"), scopes=["plan.read"], constraints=limits, session_id="s-1"
    )
    assert (claims.scope, claims.constraints) == (("plan.read",), {"max_amount_minor": {"EUR": 20000}})
    first = office.last
    looser = canonical({"max_amount_minor": {"EUR": 90000, "USD": 5}, "forbid_tools": ["shop.refund"]})
    joined = await office.exchange(NEXT, txn_token=first, constraints=looser, agent_version="1.1.0")
    assert joined.constraints == {"max_amount_minor": {"EUR": 20000, "USD": 5}, "forbid_tools": ["shop.refund"]}
    assert joined.scope == ("plan.read",)
    assert (joined.txn, joined.subject, joined.request_id, joined.session_id) == (
        claims.txn,
        claims.subject,
        claims.request_id,
        "s-1",
    )
    assert [link["sub"] for link in joined.chain] == ["audit-bot", "refund-bot"]
    assert joined.expire_time <= claims.expire_time
    with pytest.raises(InputInvalid):
        await office.exchange(NEXT, txn_token=first, scopes=["plan.commit"], agent_version="1.1.0")


async def test_an_agent_joins_a_chain_once_and_nobody_joins_a_persons_own_token(office: Office) -> None:
    await office.person(BOT, office.login("ana", "refund-bot"))
    first = office.last
    with pytest.raises(TokenInvalid):
        await office.exchange(BOT, txn_token=first)
    await office.exchange(NEXT, txn_token=first, agent_version="1.0.0")
    with pytest.raises(TokenInvalid):
        await office.exchange(BOT, txn_token=office.last)
    await office.person(CLI, office.login("olga", "counterseal-cli"))
    with pytest.raises(TokenInvalid):
        await office.exchange(BOT, txn_token=office.last)
    with pytest.raises(PeerNotAllowed):
        await office.exchange(CLI, txn_token=first)
    with pytest.raises(InputInvalid):
        await office.exchange(NEXT, txn_token=first, tenant="globex", agent_version="1.0.0")


async def test_a_forged_txn_token_joins_nothing(office: Office) -> None:
    await office.person(BOT, office.login("ana", "refund-bot"))
    header, claims, signature = office.last.split(".")
    for raw in (f"{header}.{claims}.{base64url(b'0' * 64)}", f"{header}.{claims[:-2]}AA.{signature}", "x.y.z"):
        with pytest.raises(TokenInvalid):
            await office.exchange(NEXT, txn_token=raw, agent_version="1.0.0")


@pytest.mark.parametrize("scope", ["environment:prod", "tenant:acme", "agent:acme/refund-bot"])
async def test_in_a_stopped_scope_agents_get_no_token_and_people_do(office: Office, scope: str) -> None:
    await office.person(BOT, office.login("ana", "refund-bot"))
    old = office.last
    await office.stop(scope)
    with pytest.raises(Contained):
        await office.person(BOT, office.login("ana", "refund-bot"))
    with pytest.raises(Contained):
        await office.exchange(NEXT, txn_token=old, agent_version="1.0.0")
    assert (await office.person(CLI, office.login("olga", "counterseal-cli"))).roles == ("approver",)
    await office.stop(scope, 2, stopped=False)
    with pytest.raises(TokenRevoked):  # dead for good, also after the lift
        await office.exchange(NEXT, txn_token=old, agent_version="1.0.0")
    claims = await office.person(BOT, office.login("ana", "refund-bot"))
    assert (claims.epochs or {})[scope] == 2


def decided(**changes: Any) -> tuple[Statement, bytes]:
    """A COMMIT decision about a plan of `acme`, and the plan's bytes."""
    plan = documents.plan(documents.draft_document(deadline_seconds=600), plan_id=new_id())
    chain = ({"sub": "refund-bot", "version": "3.2.1", "owner": "user:olga"},)
    now = system_clock()
    statement = Statement(
        decision_id=new_id(),
        purpose="COMMIT",
        outcome="ALLOW",
        reason_codes=("APPROVED",),
        tenant="acme",
        environment="prod",
        request_id=plan.request_id,
        txn=new_id(),
        subject="user:ana",
        agent="refund-bot",
        agent_version="3.2.1",
        act=nested_act(chain),
        context=Context("p-17", "s-1", (), ("refund_operator",), {"read_only": False}),
        plan_digest=plan.digest,
        card_digest=None,
        snapshot_id=documents.DIGEST,
        task_id=None,
        votes=(),
        taint=False,
        steps=(StepDecision("s1", 3, ()),),
        containment=(ScopeEpoch("tool:acme/shop.refund", 0),),
        audience=("executor", "credentials"),
        issue_time_ms=now - 90_000,
        expire_time_ms=now - 30_000,
    )
    return replace(statement, **changes), plan.body


async def continued(office: Office, statement: Statement, plan: bytes, **wire: Any) -> TokenClaims:
    body = build_statement(statement).body
    signature, _ = await office.decisions.sign(signing_input(body))
    fields = {"statement": body, "signature": signature, "key": DECISION_KID} | wire
    decision = decision_pb2.SignedDecision(**fields)
    peer = EXECUTOR
    return await office.exchange(peer, signed_decision=decision, canonical_plan=plan)


async def test_a_signed_decision_is_continued_after_its_own_life(office: Office) -> None:
    statement, plan = decided()
    claims = await continued(office, statement, plan)
    assert claims.scope == (f"plan:{statement.plan_digest}",)
    assert (claims.txn, claims.subject, claims.tenant, claims.request_id) == (
        statement.txn,
        "user:ana",
        "acme",
        statement.request_id,
    )
    assert claims.chain == ({"sub": "refund-bot", "version": "3.2.1", "owner": "user:olga"},)
    assert (claims.person_id, claims.session_id, claims.roles) == ("p-17", "s-1", ())
    assert (claims.subject_roles, claims.constraints) == (("refund_operator",), {"read_only": False})
    assert claims.requester == EXECUTOR


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "PREVIEW"},
        {"outcome": "DENY"},
        {"outcome": "REQUIRE_APPROVAL"},
        {"audience": ("executor",)},
        {"environment": "staging"},
        {"tenant": "globex"},
        {"plan_digest": "sha256:" + "00" * 32},
    ],
)
async def test_a_decision_that_gives_no_commit_of_this_plan_is_not_continued(
    office: Office, changes: dict[str, Any]
) -> None:
    statement, plan = decided(**changes)
    with pytest.raises(DecisionInvalid):
        await continued(office, statement, plan)


async def test_a_forged_decision_or_other_bytes_are_not_continued(office: Office) -> None:
    statement, plan = decided()
    for wire in ({"signature": b"\x00" * 64}, {"key": "decision-prod:7"}, {"key": KID}):
        with pytest.raises(DecisionInvalid):
            await continued(office, statement, plan, **wire)
    with pytest.raises(DecisionInvalid):
        await continued(office, statement, plan.replace(b'"amount_minor":1500', b'"amount_minor":1501'))


def id_of(time_ms: int) -> str:
    return new_id(lambda: time_ms)


async def test_after_the_plans_deadline_only_undoing_is_continued_and_only_for_a_while(office: Office) -> None:
    day = 24 * 3600 * 1000
    for days, scope in ((2, "undo"), (40, None)):
        made = system_clock() - days * day
        plan = documents.plan(documents.draft_document(deadline_seconds=600), plan_id=id_of(made))
        statement, _ = decided(plan_digest=plan.digest, request_id=plan.request_id)
        if scope is None:
            with pytest.raises(DecisionInvalid):
                await continued(office, statement, plan.body)
        else:
            assert (await continued(office, statement, plan.body)).scope == (f"undo:{plan.digest}",)


async def test_nothing_is_continued_in_a_stopped_scope_of_the_plan(office: Office) -> None:
    statement, plan = decided()
    await office.stop("tool:acme/shop.refund")
    with pytest.raises(Contained):
        await continued(office, statement, plan)


async def test_only_the_executor_continues_and_it_exchanges_nothing_else(office: Office) -> None:
    statement, plan = decided()
    body = build_statement(statement).body
    signature, _ = await office.decisions.sign(signing_input(body))
    decision = decision_pb2.SignedDecision(statement=body, signature=signature, key=DECISION_KID)
    for peer in (BOT, CLI):
        with pytest.raises(PeerNotAllowed):
            await office.exchange(peer, signed_decision=decision, canonical_plan=plan)
    with pytest.raises(PeerNotAllowed):
        await office.person(EXECUTOR, office.login("ana", "refund-bot"))
    with pytest.raises(InputInvalid):
        await office.exchange(BOT)


async def test_a_refusal_names_no_tenant_that_is_not_the_workloads_own(office: Office) -> None:
    for tenant in ("victim", "acme"):
        with pytest.raises(ServiceError):
            await office.person(BOT, "x.y.z", tenant=tenant)
    assert [refusal.tenant for refusal in office.refused] == ["", "acme"]


async def test_an_issuer_that_is_away_logs_nobody_out_whose_keys_are_known(office: Office) -> None:
    await office.person(BOT, office.login("ana", "refund-bot"))
    source = office.service._exchange._jwks["dev"]
    source._fetched_at = None
    source._tried_at = None
    source._issuer = replace(source._issuer, jwks_url="https://127.0.0.1:1/jwks")
    await office.person(BOT, office.login("ana", "refund-bot"))
