"""SPIFFE ids of our workloads have a closed set of forms."""

import pytest

from counterseal.identity import SpiffeId


@pytest.mark.parametrize(
    ("uri", "kind", "name"),
    [
        ("spiffe://counterseal.dev/prod/svc/policy", "svc/policy", "policy"),
        ("spiffe://counterseal.dev/prod/agent/refund-bot", "agent", "refund-bot"),
        ("spiffe://counterseal.dev/eu-prod/cli", "cli", ""),
        ("spiffe://counterseal.dev/prod/operator", "operator", ""),
    ],
)
def test_each_kind_of_workload_is_recognised(uri: str, kind: str, name: str) -> None:
    peer = SpiffeId.parse(uri)
    assert (peer.kind, peer.name, peer.trust_domain) == (kind, name, "counterseal.dev")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://counterseal.dev/prod",
        "spiffe://counterseal.dev/prod/svc/policy/",
        "spiffe://counterseal.dev/prod/svc/policy\n",
        "spiffe://counterseal.dev/prod/svc/../svc/policy",
        "spiffe://counterseal.dev/prod/Svc/policy",
        "spiffe://counterseal.dev/prod/root",
        "https://counterseal.dev/prod/svc/policy",
        "spiffe://counterseal.dev/prod/agent/" + "a" * 300,
    ],
)
def test_everything_else_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="not a SPIFFE id"):
        SpiffeId.parse(uri)
