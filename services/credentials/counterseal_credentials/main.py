"""The credentials service: configuration -> dependencies -> servicers."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from counterseal.api.credentials.v1 import token_pb2_grpc
from counterseal.identity import audience
from counterseal.rpc.keys import KeyCache, PublicKey
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.outbox import Outbox
from counterseal.rpc.runtime import Registration, Runtime, run_service
from counterseal.rpc.txn_token import TokenVerifier
from counterseal.vault.names import Environment
from counterseal_credentials.config import CredentialsConfig
from counterseal_credentials.tokens.engine import Domain
from counterseal_credentials.tokens.exchange import Exchange
from counterseal_credentials.tokens.jwks_source import JwksSource
from counterseal_credentials.tokens.keys import PublishedKeys
from counterseal_credentials.tokens.service import TokenService


async def build(rt: Runtime) -> Sequence[Registration]:
    """Make the servicers and start the background work."""
    config = CredentialsConfig.of(rt.config)
    environment = Environment(rt.environment)
    outbox = Outbox(rt.engine, LedgerClient(rt.channel("audit")))
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

    async def decision_key(kid: str) -> bytes:
        if not kid.startswith(f"{environment.key('decision')}:"):
            raise LookupError(kid)
        return await keys.get(kid, active_only=False)

    fetching = ThreadPoolExecutor(2, thread_name_prefix="jwks")
    exchange = Exchange(
        config,
        Domain(rt.spiffe_id, audience(rt.trust_domain, rt.environment), rt.environment),
        engine_=rt.engine,
        signer=rt.signer("ctx"),
        kid=newest_kid,
        verify_token=rt.tokens.verify,
        decision_key=decision_key,
        jwks={alias: JwksSource(issuer, fetching) for alias, issuer in config.issuers.items()},
        outbox=outbox,
        clock=rt.clock,
        new_id=rt.new_id,
    )
    rt.spawn("outbox", outbox.relay(rt.stopping))
    return [(token_pb2_grpc.add_TokenServiceServicer_to_server, TokenService(exchange, published))]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service."""
    return run_service("credentials", build, argv, check_own=CredentialsConfig.of)
