"""Section `[audit.witnesses]`: who cosigns the logs' heads, and what happens to a head that too few cosigned."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from counterseal.ledger import policy as policies
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.policy import Policy
from counterseal.ledger.registry import SYSTEM_TENANT

SYSTEM, TENANT = "system", "tenant"


@dataclass(frozen=True, slots=True)
class WitnessConfig:
    """Section `[audit.witnesses]`.

    policy_file: witnesses, groups and the quorum (C2SP tlog-policy); those with a URL are asked. Absent: no witnesses.
    required_for: classes of logs (`system`, `tenant`) whose heads are held back until the quorum has cosigned; heads of
    the others are published without, and say so.
    timeout_ms: how long one head waits for witnesses at most. ca_file: whom to trust for their certificates (PEM).
    """

    policy_file: Path | None = None
    required_for: tuple[str, ...] = ()
    timeout_ms: int = 2000
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what could never be met."""
        unknown = sorted(set(self.required_for) - {SYSTEM, TENANT})
        if unknown:
            raise ValueError(f"required_for: {unknown[0]!r} is neither {SYSTEM!r} nor {TENANT!r}")
        if self.required_for and self.policy_file is None:
            raise ValueError("required_for: needs policy_file")
        if not 50 <= self.timeout_ms <= 60_000:
            raise ValueError("timeout_ms: expected 50 to 60000")

    def policy(self) -> Policy | None:
        """Return the policy, None without one. Raises ValueError when it cannot be read or cannot be met."""
        if self.policy_file is None:
            return None
        try:
            policy = policies.parse(self.policy_file.read_bytes())
        except OSError as error:
            raise ValueError(f"policy_file: {error.strerror}") from None
        except VerificationError as error:
            raise ValueError(f"policy_file: {error.where}: {error.message}") from None
        if not policy.is_met_by(one.key for one in policy.witnesses if one.key is not None and one.url):
            raise ValueError("policy_file: the witnesses that have a URL are no quorum")
        return policy

    def context(self) -> ssl.SSLContext | None:
        """Return whom to trust for the witnesses' certificates, None for the system's roots. Raises ValueError."""
        if self.ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=str(self.ca_file))
        except OSError as error:
            raise ValueError(f"ca_file: {error.strerror or 'not a certificate'}") from None


def class_of(tenant: str) -> str:
    """Return the class of a tenant's log."""
    return SYSTEM if tenant == SYSTEM_TENANT else TENANT
