"""What the registry refuses beyond a descriptor's own form. Pure."""

from collections.abc import Collection, Mapping

from counterseal.canonical import digest_of
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import InputInvalid


def check_targets(tool: ToolDescriptor, kinds: Mapping[str, str]) -> None:
    """Refuse a tool whose targets this executor does not have, or has under another connector. kinds: alias -> kind."""
    for alias in tool.targets:
        kind = kinds.get(alias)
        if kind is None:
            raise InputInvalid(f"{tool.reference}: the target {alias!r} is not configured here", pointer="/targets")
        if kind != tool.connector.kind:
            raise InputInvalid(f"{tool.reference}: the target {alias!r} is reached by {kind!r}", pointer="/targets")


def registration_digest(digests: Collection[str], tenant: str, environment: str) -> str:
    """Return what two people must agree on: exactly these descriptors, here."""
    return digest_of(
        "admin-request",
        {"v": 1, "action": "RegisterTool", "tenant": tenant, "environment": environment, "tools": sorted(digests)},
    )
