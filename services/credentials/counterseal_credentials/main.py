"""The credentials service: configuration -> dependencies -> servicers."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from counterseal.api.audit.v1 import ledger_pb2, reader_pb2_grpc
from counterseal.api.credentials.v1 import grant_admin_pb2_grpc, grant_pb2_grpc, token_pb2_grpc
from counterseal.identity import audience
from counterseal.rpc.erasure import ErasureFollower, remember
from counterseal.rpc.keys import KeyCache, PublicKey
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.outbox import Outbox
from counterseal.rpc.refusals import RefusalRecorder
from counterseal.rpc.runtime import Registration, Runtime, run_service
from counterseal.rpc.txn_token import TokenVerifier
from counterseal.vault.broker import Broker
from counterseal.vault.names import Environment
from counterseal_credentials.config import CredentialsConfig
from counterseal_credentials.containment.follower import Freshness, follow
from counterseal_credentials.containment.kill import Barrier
from counterseal_credentials.grants.admin_service import GrantAdminService
from counterseal_credentials.grants.death import Undertaker
from counterseal_credentials.grants.entries import Entries
from counterseal_credentials.grants.intents import IntentReader
from counterseal_credentials.grants.lending import Lender
from counterseal_credentials.grants.reconciler import Reconciler
from counterseal_credentials.grants.service import GrantService
from counterseal_credentials.registrations import Registrations
from counterseal_credentials.tokens.engine import Domain
from counterseal_credentials.tokens.exchange import Exchange
from counterseal_credentials.tokens.jwks_source import JwksSource
from counterseal_credentials.tokens.keys import PublishedKeys
from counterseal_credentials.tokens.service import TokenService

ISSUING_THREADS, REVOKING_THREADS, JWKS_THREADS = 8, 4, 2


async def build(rt: Runtime) -> Sequence[Registration]:
    """Make the servicers and start the background work."""
    config = CredentialsConfig.of(rt.config)
    registrations = Registrations(config)
    rt.on_hangup = lambda: registrations.reload(lambda: CredentialsConfig.of(rt.reread()))
    environment = Environment(rt.environment)
    outbox = Outbox(rt.engine, LedgerClient(rt.channel("audit")), on_ack=remember)
    published = PublishedKeys(rt.engine, rt.vault, environment, outbox, rt.clock, rt.new_id)

    async def verification_keys() -> Mapping[str, PublicKey]:
        return {
            kid: PublicKey(key.public_key, key.state == "active")
            for kid, key in (await published.all()).items()
            if key.state != "compromised"
        }

    keys = rt.keys = KeyCache(verification_keys)
    rt.tokens = TokenVerifier(keys.get, audience=audience(rt.trust_domain, rt.environment), clock=rt.clock)

    async def newest_kid() -> str:
        name = environment.key("ctx")
        versions = [int(kid.rpartition(":")[2]) for kid in await published.all() if kid.startswith(f"{name}:")]
        return f"{name}:{max(versions)}"

    async def decision_key(kid: str, *, active_only: bool) -> bytes:
        if not kid.startswith(f"{environment.key('decision')}:"):
            raise LookupError(kid)
        return await keys.get(kid, active_only=active_only)

    async def record(entry: ledger_pb2.NewEntry) -> None:
        async with rt.engine.begin() as connection:
            await outbox.put(connection, entry)
        outbox.wake()

    refusals = RefusalRecorder(record, environment=rt.environment, clock=rt.clock, new_id=rt.new_id)
    rt.hooks.on_refused = refusals
    fetching = ThreadPoolExecutor(JWKS_THREADS, thread_name_prefix="jwks")
    exchange = Exchange(
        config,
        registrations,
        Domain(rt.spiffe_id, audience(rt.trust_domain, rt.environment), rt.environment),
        engine_=rt.engine,
        signer=rt.signer("ctx"),
        kid=newest_kid,
        verify_token=rt.tokens.verify,
        decision_key=lambda kid: decision_key(kid, active_only=False),
        jwks={alias: JwksSource(issuer, fetching) for alias, issuer in config.issuers.items()},
        outbox=outbox,
        clock=rt.clock,
        new_id=rt.new_id,
    )
    # Revoking has threads and connections of its own: a busy or hung issuing side must not delay a kill.
    broker = Broker(rt.vault.lane(ISSUING_THREADS), rt.vault.lane(REVOKING_THREADS), environment)
    entries = Entries(rt.environment, rt.clock, rt.new_id)
    freshness = Freshness(config.stale_seconds)
    undertaker = Undertaker(rt.engine, broker, environment, entries, outbox, rt.clock)
    lender = Lender(
        config,
        environment,
        engine_=rt.engine,
        broker=broker,
        undertaker=undertaker,
        decision_key=lambda kid: decision_key(kid, active_only=True),
        read_entry=IntentReader(reader_pb2_grpc.LedgerReaderServiceStub(rt.channel("audit"))).read,
        fresh=freshness,
        entries=entries,
        outbox=outbox,
        clock=rt.clock,
        new_id=rt.new_id,
    )
    barrier = Barrier(
        rt.engine,
        environment,
        config.tenants,
        broker=broker,
        lender=lender,
        undertaker=undertaker,
        entries=entries,
        outbox=outbox,
        clock=rt.clock,
    )
    reconciler = Reconciler(
        rt.engine,
        environment,
        config.tenants,
        broker=broker,
        lender=lender,
        undertaker=undertaker,
        barrier=barrier,
        clock=rt.clock,
    )

    async def finish() -> None:
        try:
            await rt.stopping.wait()
        finally:  # the runtime cancels background work after the last call was answered, then closes the pool
            await lender.close()
            await barrier.close()

    rt.spawn("finish", finish())
    erasures = ErasureFollower(
        rt.engine, rt.channel("audit"), outbox, rt.environment, rt.backup_days, rt.clock, rt.new_id
    )
    rt.spawn("outbox", outbox.relay(rt.stopping))
    rt.spawn("erasures", erasures.run(rt.stopping))
    rt.spawn("containment", follow(rt.channel("policy"), barrier, freshness, rt.stopping))
    rt.spawn("reconciler", reconciler.run(rt.stopping))
    return [
        (token_pb2_grpc.add_TokenServiceServicer_to_server, TokenService(exchange, published, registrations, refusals)),
        (grant_pb2_grpc.add_GrantServiceServicer_to_server, GrantService(lender)),
        (grant_admin_pb2_grpc.add_GrantAdminServiceServicer_to_server, GrantAdminService(rt.engine, barrier)),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service."""
    return run_service("credentials", build, argv, check_own=CredentialsConfig.of)
