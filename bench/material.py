"""Certificates and a token for benchmarks that need no Vault: made once per run, read by the server processes."""

from dataclasses import dataclass
from pathlib import Path

from nacl.signing import SigningKey

from counterseal.clock import system_clock
from counterseal.identity import audience
from counterseal.rpc.tls import Identity, server_name
from counterseal.rpc.txn_token import TokenClaims, assemble, signing_input
from support.certificates import Authority

DOMAIN, ENVIRONMENT, KID = "counterseal.bench", "bench", "ctx-bench:1"
AGENT = f"spiffe://{DOMAIN}/{ENVIRONMENT}/agent/bench"
NAME = server_name("executor", ENVIRONMENT)


@dataclass(frozen=True, slots=True)
class Material:
    """A server's and two clients' certificates under one authority, and the key that signed the agent's token."""

    server: Identity
    agent: Identity
    service: Identity
    public_key: bytes
    token: str

    @classmethod
    def make(cls, folder: Path) -> "Material":
        """Make everything and leave the server's part in `folder`."""
        authority = Authority.create("bench root")
        executor = f"spiffe://{DOMAIN}/{ENVIRONMENT}/svc/executor"
        key = SigningKey.generate()
        material = cls(
            server=authority.issue(uris=[executor], dns=[NAME]),
            agent=authority.issue(uris=[AGENT]),
            service=authority.issue(uris=[executor]),
            public_key=bytes(key.verify_key),
            token=_token(key),
        )
        for name, data in material._files().items():
            file = folder / name
            file.touch(mode=0o600)
            file.write_bytes(data)
        return material

    @classmethod
    def load(cls, folder: Path) -> "Material":
        """Read the server's part back."""
        identity = Identity.from_files(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        return cls(identity, identity, identity, (folder / "public-key").read_bytes(), "")

    def _files(self) -> dict[str, bytes]:
        server = self.server
        files = {"cert.pem": server.cert_pem, "key.pem": server.key_pem, "ca.pem": server.ca_pem}
        return {**files, "public-key": self.public_key}


def _token(key: SigningKey) -> str:
    now = system_clock() // 1000
    claims = TokenClaims(
        issuer=f"spiffe://{DOMAIN}/{ENVIRONMENT}/svc/credentials",
        audience=audience(DOMAIN, ENVIRONMENT),
        issue_time=now,
        expire_time=now + 300,
        txn="0198c5a0-0000-7000-8000-000000000001",
        subject="user:ana",
        requester=AGENT,
        tenant="acme",
        environment=ENVIRONMENT,
        request_id="0198c5a0-0000-7000-8000-000000000002",
        chain=({"sub": "bench", "version": "1.0.0"},),
    )
    signed = signing_input(claims, KID)
    return assemble(signed, key.sign(signed).signature)
