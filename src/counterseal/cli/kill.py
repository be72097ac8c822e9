"""`counterseal kill`: stop a scope, with the three moments; works while the policy service is down."""

import argparse
import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from counterseal.cli import exits
from counterseal.cli.containment import add_scope, scope_of
from counterseal.cli.options import add_options
from counterseal.cli.output import emit, say

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Client


@dataclass(frozen=True, slots=True)
class Moments:
    """What was reached. Times are RFC 3339, `not yet` where unknown; `policy` says whether policy led the trip."""

    scope: str
    epoch: int
    policy: bool
    stopped: str
    revoked: str
    quiesced: str
    revoked_count: int
    credential_count: int
    open_intent_count: int
    problems: tuple[str, ...]


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("kill", help="stop a scope: no new intents, credentials dead, in-flight drained")
    add_scope(parser)
    parser.add_argument("--reason", default="OPERATOR_STOP", help="reason code, default: OPERATOR_STOP")
    parser.add_argument("--note", default="", help="why in words; sealed in the ledger")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to wait for the three moments")
    add_options(parser, profile="operator")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trip by policy; when policy does not answer, stop executor and credentials directly."""
    from counterseal.cli.session import load_profile
    from counterseal.client import Client

    profile = load_profile(args)
    scope = scope_of(args, profile.environment, args.tenant or profile.tenant)

    async def work() -> Moments:
        async with Client(profile) as client:
            return await kill(client, scope, args.reason, args.note, args.seconds)

    moments = asyncio.run(work())
    if args.json:
        emit(asdict(moments))
    else:
        led = "" if moments.policy else " (policy did not answer: executor and credentials were told directly)"
        say(f"scope     {moments.scope} epoch {moments.epoch}{led}")
        say(f"STOPPED   {moments.stopped}")
        say(f"REVOKED   {moments.revoked}  {moments.revoked_count} of {moments.credential_count} verified dead")
        say(f"QUIESCED  {moments.quiesced}  {moments.open_intent_count} open")
        for problem in moments.problems:
            say(f"problem   {problem}")
    reached = "not yet" not in (moments.stopped, moments.revoked, moments.quiesced)
    return exits.OK if reached else exits.REFUSED


async def kill(client: "Client", scope: str, reason: str, note: str, seconds: float) -> Moments:
    """Stop a scope under an operator's certificate; raises ServiceError when nobody could be told."""
    from counterseal.api.policy.v1 import containment_pb2, containment_pb2_grpc
    from counterseal.cli.views import moment
    from counterseal.errors import ServiceError

    request = containment_pb2.TripContainmentRequest(scope=scope, reason_code=reason, note=note)
    stub = containment_pb2_grpc.ContainmentServiceStub(client.connection.channel("policy"))
    try:
        answer = await client.connection.call("policy", stub.TripContainment, request, seconds=seconds)
    except ServiceError as error:
        if error.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"):
            raise
        return await _directly(client, scope, reason, seconds)
    return Moments(
        scope=answer.state.scope,
        epoch=answer.state.epoch,
        policy=True,
        stopped=moment(answer, "stopped_time"),
        revoked=moment(answer, "revoked_time"),
        quiesced=moment(answer, "quiesced_time"),
        revoked_count=answer.revoked_count,
        credential_count=answer.credential_count,
        open_intent_count=answer.open_intent_count,
        problems=tuple(answer.problems),
    )


async def _directly(client: "Client", scope: str, reason: str, seconds: float) -> Moments:
    """Tell both that keep a barrier, side by side: a hung one must not delay the other."""
    from counterseal.api.credentials.v1 import grant_admin_pb2, grant_admin_pb2_grpc
    from counterseal.api.executor.v1 import operator_pb2, operator_pb2_grpc
    from counterseal.cli import describe
    from counterseal.cli.views import moment
    from counterseal.errors import ServiceError

    connection = client.connection
    operator = operator_pb2_grpc.OperatorServiceStub(connection.channel("executor"))
    grants = grant_admin_pb2_grpc.GrantAdminServiceStub(connection.channel("credentials"))
    answers: tuple[Any, ...] = await asyncio.gather(
        connection.call(
            "executor",
            operator.HaltScope,
            operator_pb2.HaltScopeRequest(scope=scope, reason_code=reason),
            seconds=seconds,
        ),
        connection.call(
            "credentials",
            grants.RevokeScope,
            grant_admin_pb2.RevokeScopeRequest(scope=scope, reason_code=reason),
            seconds=seconds,
        ),
        return_exceptions=True,
    )
    halted, revoked = answers
    problems = ["policy: did not answer; it adopts this trip when it is back"]
    for name, answer in (("executor", halted), ("credentials", revoked)):
        if isinstance(answer, ServiceError):
            problems.append(f"{name}: {describe(answer)}")
        elif isinstance(answer, BaseException):
            raise answer
    if isinstance(halted, ServiceError) and isinstance(revoked, ServiceError):
        raise halted
    halt = operator_pb2.HaltScopeResponse() if isinstance(halted, ServiceError) else halted
    dead = grant_admin_pb2.RevokeScopeResponse() if isinstance(revoked, ServiceError) else revoked
    return Moments(
        scope=scope,
        epoch=max(halt.state.epoch, dead.state.epoch),
        policy=False,
        stopped=moment(halt, "stopped_time"),
        revoked=moment(dead, "revoked_time"),
        quiesced=moment(halt, "quiesced_time"),
        revoked_count=dead.revoked_count,
        credential_count=dead.credential_count,
        open_intent_count=halt.open_intent_count,
        problems=tuple(problems),
    )
