"""Who and what is in the demo: one tenant, one agent, six people, the shop, its policy."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from counterseal.cli.demo import shop
from counterseal.embedded.layout import Agent, Wanted

TENANT = "acme"
AGENT = "refund-bot"

USERS: Mapping[str, tuple[str, ...]] = {
    "ana": ("refund_operator",),
    "olga": ("approver", "payments_lead"),
    "omar": ("approver", "operator"),
    "ida": ("policy_author", "operator"),
    "pat": ("policy_author",),
    "ada": ("auditor",),
}
"""Who logs in to the development issuer, and the roles in their tokens."""

_WRITES = {
    "refund_order": (2, 2),
    "restore_refund": (2, 2),
    "reserve_stock": (2, 1),
    "restore_stock": (2, 1),
    "pack_order": (2, 1),
    "unpack_order": (2, 1),
    "ship_order": (2, 1),
    "recall_shipment": (2, 1),
    "purge_orders": (3, 3),
}
"""Tool -> (reversibility, customer impact) of the catalogue; reading has neither."""

_FACTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "refund_order": {
        "num": {
            "amount_cents": {"from": "args:/amount_cents", "min": 1, "max": 1_000_000_000},
            "remaining_cents": {"from": "observed:/remaining_cents"},
        },
    },
}


def wanted(environment: str, service_settings: Mapping[str, Mapping[str, object]] | None = None) -> Wanted:
    """Return the stack of the demo and of `counterseal dev`."""
    return Wanted(
        environment=environment,
        tenants=(TENANT,),
        agents={AGENT: Agent(owner="user:ida", tenants=(TENANT,))},
        users=USERS,
        targets=(shop.target(TENANT),),
        service_settings={"executor": {"lease_seconds": 3.0}, **(service_settings or {})},
    )


def policy_documents() -> dict[str, bytes]:
    """Return the policy files of the demo: the ones beside this module, and the catalogue of the tools' digests."""
    folder = resources.files(__package__) / "policy"
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(".yaml")}
    return {**found, "tools.yaml": _catalogue().encode()}


def _catalogue() -> str:
    lines = [
        "apiVersion: counterseal/policy.v1",
        "kind: ToolCatalogue",
        "metadata: {name: shop, scope: tenant}",
        "tools:",
    ]
    for tool in shop.descriptors():
        short = tool.name.removeprefix("shop.")
        reversibility, customer = _WRITES.get(short, (0, 0))
        impact = f"reversibility: {reversibility}, cost: 1, compliance: 0, customer: {customer}, breadth: 0"
        if tool.reads_only:
            impact = "reversibility: 0, cost: 0, compliance: 0, customer: 0, breadth: 0"
        lines += [f"  - tool: {tool.reference}", f'    digest: "{tool.digest}"', f"    impact: {{{impact}}}"]
        lines += _fact_lines(_FACTS.get(short, {}))
    return "\n".join(lines) + "\n"


def _fact_lines(facts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    lines = ["    facts:"] if facts else []
    for kind, named in facts.items():
        lines.append(f"      {kind}:")
        for name, spec in named.items():
            body = ", ".join(
                f'{key}: "{value}"' if isinstance(value, str) else f"{key}: {value}" for key, value in spec.items()
            )
            lines.append(f"        {name}: {{{body}}}")
    return lines
