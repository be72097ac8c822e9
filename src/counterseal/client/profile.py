"""A client's profile: which deployment it belongs to, where its services are, and its workload certificate.

    # profile.toml; relative paths are relative to this file
    environment = "prod"
    trust_domain = "counterseal.dev"
    spiffe_id = "spiffe://counterseal.dev/prod/agent/refund-bot"
    tenant = "acme"                       # optional: the tenant meant when none is named
    client_id = "refund-bot"              # `azp` of the logins it may use
    cert_file = "cert.pem"
    key_file = "key.pem"
    ca_file = "ca.pem"

    [services]
    policy = "127.0.0.1:7001"             # host:port, one per service
    credentials = "127.0.0.1:7002"
    audit = "127.0.0.1:7003"
    executor = "127.0.0.1:7004"

    [login]                               # optional: a development issuer for `counterseal login`
    issuer = "https://127.0.0.1:7005"
    ca_file = "issuer.crt"
    password_file = "password"

The three certificate files are replaced together when the certificate is renewed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from counterseal.config import ConfigError, bind, load
from counterseal.rpc.tls import Identity


@dataclass(frozen=True, slots=True)
class Login:
    """Where `counterseal login` gets a person's OIDC token in a development stack."""

    issuer: str
    ca_file: Path
    password_file: Path


@dataclass(frozen=True, slots=True)
class Profile:
    """See the module's docstring. services: service -> `host:port`."""

    environment: str
    trust_domain: str
    spiffe_id: str
    client_id: str
    cert_file: Path
    key_file: Path
    ca_file: Path
    services: Mapping[str, str]
    tenant: str | None = None
    login: Login | None = None

    @classmethod
    def load(cls, file: Path) -> "Profile":
        """Read a profile; raises ConfigError with every problem."""
        profile = bind(cls, load(file, {}), str(file))
        folder = file.parent
        login = profile.login
        if login is not None:
            login = replace(login, ca_file=folder / login.ca_file, password_file=folder / login.password_file)
        return replace(
            profile,
            cert_file=folder / profile.cert_file,
            key_file=folder / profile.key_file,
            ca_file=folder / profile.ca_file,
            login=login,
        )

    def identity(self) -> Identity:
        """Read the certificate as it is now; raises ConfigError when a file cannot be read."""
        try:
            return Identity.from_files(self.cert_file, self.key_file, self.ca_file)
        except OSError as error:
            raise ConfigError([f"{error.filename}: {error.strerror}"]) from None

    def stamp(self) -> int:
        """Return a value that changes when the certificate is renewed; 0 when the file is not there."""
        try:
            return self.cert_file.stat().st_mtime_ns
        except OSError:
            return 0
