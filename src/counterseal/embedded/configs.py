"""The files that an embedded stack writes: service configurations, client profiles, Vault's settings.

Pure: what was wanted and what is running in, tables out.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counterseal.embedded.issuer import AUDIENCE
from counterseal.embedded.layout import Running, Wanted
from counterseal.vault.settings import Provision

Tables = dict[str, Any]

PEERS: Mapping[str, tuple[str, ...]] = {
    "policy": ("audit", "credentials", "executor"),
    "credentials": ("audit", "policy"),
    "audit": ("credentials",),
    "executor": ("audit", "credentials", "policy"),
}
"""Who calls whom (architecture.md, section 3)."""

PEOPLE_SCOPES = ("approval.read", "approval.vote", "audit.read", "containment", "plan.read", "policy", "tool")


def service_tables(service: str, running: Running, own: Mapping[str, Any]) -> Tables:
    """Return a service's whole configuration; `own` is its own table."""
    secrets = running.data_dir / "secrets" / service
    return {
        "common": {"environment": running.environment, "trust_domain": running.trust_domain},
        "server": {"listen": running.addresses[service]},
        "vault": {
            "address": running.openbao.address,
            "role_id_file": secrets / "role-id",
            "secret_id_file": secrets / "secret-id",
            "ca_file": running.openbao.ca_file,
        },
        "database": {
            "host": running.control.host,
            "port": running.control.port,
            "name": f"counterseal_{service}",
            "owner": f"counterseal_{service}_owner",
            "owner_password_file": secrets / "owner-password",
        },
        "telemetry": {"log_level": "INFO"},
        "peers": {peer: running.addresses[peer] for peer in PEERS[service]},
        service: dict(own),
    }


def own_table(service: str, wanted: Wanted, running: Running) -> Tables:
    """Return a service's own table."""
    if service == "credentials":
        return _credentials(wanted, running)
    if service == "audit":
        # The ledger refuses a database that may lose commits, unless it is told that nothing is to be kept. On one
        # machine the tenant's people are the platform's too.
        kept = {"allow_unsafe_database": True} if not wanted.durable else {}
        return {"platform_operator_roles": ["operator"], **kept}
    if service == "policy":
        # On one machine the tenant's people are the platform's too.
        return {"platform_author_roles": ["policy_author"], "platform_operator_roles": ["operator"]}
    if service == "executor":
        return {
            "lease_seconds": 3.0,
            "targets": {
                target.alias: {
                    "kind": "postgres",
                    "host": running.target_cluster.host,
                    "port": running.target_cluster.port,
                    "database": target.database,
                }
                for target in wanted.targets
            },
        }
    return {}


def profile_table(role: str, wanted: Wanted, running: Running) -> Tables:
    """Return a client's profile: who it is, where the services are, how it gets a person's token."""
    kind, _, name = role.partition("-")
    agent = wanted.agents.get(name)
    return {
        "environment": running.environment,
        "trust_domain": running.trust_domain,
        "spiffe_id": running.vault_settings.workloads()[role][0],
        "tenant": agent.tenants[0] if agent else wanted.tenants[0],
        "client_id": name or f"counterseal-{kind}",
        "cert_file": "cert.pem",
        "key_file": "key.pem",
        "ca_file": "ca.pem",
        "services": dict(running.addresses),
        "login": {
            "issuer": running.issuer_url,
            "ca_file": running.issuer_ca_file,
            "password_file": running.issuer_password_file,
        },
    }


def vault_tables(settings: Provision) -> Tables:
    """Return the settings as `counterseal vault plan|setup|verify` reads them."""
    found = _plain(dataclasses.asdict(settings))
    assert isinstance(found, dict)  # noqa: S101
    return found


def _credentials(wanted: Wanted, running: Running) -> Tables:
    base = f"spiffe://{running.trust_domain}/{running.environment}"
    tenants = list(wanted.tenants)
    workloads: Tables = {
        kind: {"spiffe_id": f"{base}/{kind}", "kind": kind, "tenants": tenants, "scopes": list(PEOPLE_SCOPES)}
        for kind in ("cli", "console")
    }
    for name, agent in wanted.agents.items():
        workloads[f"agent-{name}"] = {
            "spiffe_id": f"{base}/agent/{name}",
            "kind": "agent",
            "agent": name,
            "owner": agent.owner,
            "versions": list(agent.versions),
            "tenants": list(agent.tenants),
            "scopes": list(agent.scopes),
        }
    return {
        "vault_address": running.openbao.address,
        "tenants": tenants,
        "issuers": {
            "dev": {
                "issuer": running.issuer_url,
                "audience": AUDIENCE,
                "jwks_url": f"{running.issuer_url}/jwks",
                "ca_file": running.issuer_ca_file,
                "algorithms": ["EdDSA", "RS256", "ES256"],
                "tenants_claim": "tenants",
                "primary": True,
            }
        },
        "workloads": workloads,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
