"""The method table covers the descriptors exactly, in both directions."""

import importlib
import pkgutil
from collections.abc import Iterator

import counterseal.api
from counterseal.rpc.method_table import EVERYONE, METHODS
from support.requirements import requirement


def _methods() -> Iterator[str]:
    for module in pkgutil.walk_packages(counterseal.api.__path__, "counterseal.api."):
        if module.name.endswith("_pb2"):
            for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
                yield from (f"/{service.full_name}/{method.name}" for method in service.methods)


@requirement("call:table-complete")
def test_every_method_of_every_descriptor_is_listed_and_nothing_else() -> None:
    listed = {name for name in METHODS if name.startswith("/counterseal.")}
    assert listed == set(_methods())


def test_only_known_peer_kinds_are_named_and_no_method_is_open_to_nobody() -> None:
    assert all(rule.peers and set(rule.peers) <= set(EVERYONE) for rule in METHODS.values())


def test_no_agent_may_call_a_method_by_which_people_decide() -> None:
    for name, rule in METHODS.items():
        if any(
            service in name
            for service in ("ApprovalService", "PolicyAdminService", "ContainmentService", "OperatorService")
        ):
            assert "agent" not in rule.peers, name
