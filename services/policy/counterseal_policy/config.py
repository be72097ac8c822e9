"""Section `[policy]`: the policy service's own settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from counterseal.config import bind

SECTION = "policy"


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What an operator decides about the policy service; everything about actions is in policy files.

    author_roles: roles that may publish and activate a tenant's policy. platform_author_roles: that may change the
    platform's rules after the environment's first activation. operator_roles: that may trip and lift a tenant's scopes.
    platform_operator_roles: that may trip and lift the environment.
    approver_max_auth_age_seconds: how old a voter's login may be. max_open_tasks: pending approvals per agent.
    person_ids: subject -> person, where one person has several accounts; the same map as the token service's.
    require_barrier_peers: services whose barrier must be adopted before anything is allowed.
    """

    author_roles: tuple[str, ...] = ("policy_author",)
    platform_author_roles: tuple[str, ...] = ("platform_author",)
    operator_roles: tuple[str, ...] = ("operator",)
    platform_operator_roles: tuple[str, ...] = ("platform_operator",)
    approver_max_auth_age_seconds: int = 900
    max_open_tasks: int = 20
    person_ids: Mapping[str, str] = field(default_factory=dict)
    require_barrier_peers: tuple[str, ...] = ("executor", "credentials")


def parse(table: Mapping[str, Any]) -> PolicyConfig:
    """Bind the table; raises ConfigError."""
    return bind(PolicyConfig, table, SECTION)
