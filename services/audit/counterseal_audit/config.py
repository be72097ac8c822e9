"""The audit service's own table of the configuration."""

from dataclasses import dataclass, field

from counterseal_audit.tiles.config import ExportConfig, HttpConfig
from counterseal_audit.witnesses.config import WitnessConfig


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Section `[audit]`.

    origin_domain: first part of every log's origin; empty: the trust domain. The rest is opaque, never a tenant's name.
    checkpoint_interval_ms: how long an entry waits for a signed checkpoint at most, when Vault answers.
    lease_seconds: how long a replica that stopped answering keeps others from publishing in its place.
    heartbeat_minutes: how long a log may be idle before it gets an entry of its own; monitors alarm at twice that.
    rotation_overlap_hours: for how long both keys sign after a log's key was rotated.
    operator_roles: that may freeze, continue, adopt and rotate their tenant's log, order erasures (two people) and
    place or lift holds. platform_operator_roles: that may do so to the environment's own log.
    auditor_roles: who may have sealed fields disclosed.
    proof_cache_mib: memory for what proofs are made of: 64 MiB hold a million entries' hashes.
    allow_unsafe_database: serve on a PostgreSQL that may lose acknowledged commits (throw-away workloads only).
    witnesses: second parties that cosign the logs' heads.
    export: where logs are kept as files. http: who may read those files over HTTP; needs `export.directory`.
    """

    origin_domain: str = ""
    checkpoint_interval_ms: int = 1000
    lease_seconds: int = 5
    heartbeat_minutes: int = 60
    rotation_overlap_hours: int = 24
    operator_roles: tuple[str, ...] = ("operator",)
    platform_operator_roles: tuple[str, ...] = ("platform_operator",)
    auditor_roles: tuple[str, ...] = ("auditor",)
    proof_cache_mib: int = 64
    allow_unsafe_database: bool = False
    witnesses: WitnessConfig = field(default_factory=WitnessConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    http: HttpConfig = field(default_factory=HttpConfig)

    def __post_init__(self) -> None:
        """Refuse times that make no sense."""
        if not 50 <= self.checkpoint_interval_ms <= 60_000:
            raise ValueError("checkpoint_interval_ms: expected 50 to 60000")
        if not 2 <= self.lease_seconds <= 300:
            raise ValueError("lease_seconds: expected 2 to 300")
        if not 1 <= self.heartbeat_minutes <= 1440:
            raise ValueError("heartbeat_minutes: expected 1 to 1440")
        if not 0 <= self.rotation_overlap_hours <= 8760:
            raise ValueError("rotation_overlap_hours: expected 0 to 8760")
        if not 1 <= self.proof_cache_mib <= 65_536:
            raise ValueError("proof_cache_mib: expected 1 to 65536")
        if self.http.listen and self.export.directory is None:
            raise ValueError("http.listen: needs export.directory, which is what is served")
