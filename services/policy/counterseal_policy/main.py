"""The policy service: configuration -> dependencies -> server -> drain; and `lint`, `test` of policy files."""

import secrets
import sys
from collections.abc import Sequence

from counterseal.api.policy.v1 import (
    approval_pb2_grpc,
    containment_pb2_grpc,
    decision_pb2_grpc,
    policy_admin_pb2_grpc,
)
from counterseal.rpc.erasure import ErasureFollower, remember
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.outbox import Outbox
from counterseal.rpc.refusals import RefusalRecorder, into_outbox
from counterseal.rpc.runtime import Runtime, run_service
from counterseal.rpc.server import Registration
from counterseal_policy import cli, config
from counterseal_policy.approvals import sweeper
from counterseal_policy.approvals.booth import Booth
from counterseal_policy.approvals.follower import PlanFollower
from counterseal_policy.approvals.service import ApprovalService
from counterseal_policy.containment.adoption import Adoption
from counterseal_policy.containment.board import Board
from counterseal_policy.containment.peers import Peers
from counterseal_policy.containment.service import ContainmentService
from counterseal_policy.decisions.decider import Decider
from counterseal_policy.decisions.service import DecisionService
from counterseal_policy.rules.condition import ConditionEngine
from counterseal_policy.snapshots.active import ActivePolicies
from counterseal_policy.snapshots.service import PolicyAdminService


async def build(rt: Runtime) -> Sequence[Registration]:
    """Make the servicers and start the background work."""
    own = config.parse(rt.config)
    rules = ConditionEngine()
    outbox = Outbox(rt.engine, LedgerClient(lambda: rt.channel("audit")), on_ack=remember)
    refused = RefusalRecorder(
        into_outbox(rt.engine, outbox), environment=rt.environment, clock=rt.clock, new_id=rt.new_id
    )
    policies = ActivePolicies(rt.engine, rules)
    board = Board(rt.engine)
    peers = Peers(rt.channel("executor"), rt.channel("credentials"))
    adoption = Adoption(rt.engine, board, peers, own.require_barrier_peers, rt.environment)
    decider = Decider(
        rt.engine,
        outbox,
        rt.signer("decision"),
        policies,
        adoption,
        own,
        rt.environment,
        rt.clock,
        rt.new_id,
        secrets.token_bytes,
    )
    booth = Booth(rt.engine, outbox, own, rt.environment, rt.clock, rt.new_id, secrets.token_bytes)
    admin = PolicyAdminService(rt.engine, outbox, policies, rules, own, rt.environment, rt.clock, rt.new_id)
    containment = ContainmentService(
        rt.engine,
        outbox,
        board,
        peers,
        rt.environment,
        own.operator_roles,
        own.platform_operator_roles,
        rt.clock,
        rt.new_id,
        rt.stopping,
    )
    await board.refresh()
    rt.hooks.check_caller = board.check_caller
    rt.hooks.on_refused = refused
    erasures = ErasureFollower(
        rt.engine,
        lambda: rt.channel("audit"),
        outbox,
        rt.environment,
        rt.backup_days,
        rt.clock,
        rt.new_id,
        after=frozenset({"executor"}),  # a decision's facts are needed while its plan runs
    )
    rt.spawn("outbox", outbox.relay(rt.stopping))
    rt.spawn("erasures", erasures.run(rt.stopping))
    plans = PlanFollower(rt.engine, lambda: rt.channel("audit"), outbox, rt.environment, rt.clock, rt.new_id)
    rt.spawn("plan-follower", plans.run(rt.stopping))
    rt.spawn("containment-board", board.poll(rt.stopping))
    rt.spawn("barrier-adoption", adoption.run(rt.stopping))
    rt.spawn(
        "approval-sweeper",
        sweeper.run(rt.stopping, lambda: sweeper.sweep(rt.engine, outbox, rt.environment, rt.clock, rt.new_id)),
    )
    return (
        (decision_pb2_grpc.add_DecisionServiceServicer_to_server, DecisionService(decider, refused)),
        (
            approval_pb2_grpc.add_ApprovalServiceServicer_to_server,
            ApprovalService(rt.engine, booth, rt.clock, rt.stopping),
        ),
        (policy_admin_pb2_grpc.add_PolicyAdminServiceServicer_to_server, admin),
        (containment_pb2_grpc.add_ContainmentServiceServicer_to_server, containment),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `counterseal-policy`: serve, migrate, or check policy files; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in cli.COMMANDS:
        return cli.main(args)
    return run_service("policy", build, args, check_own=config.parse)
