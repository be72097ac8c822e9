"""What comes in wrong is refused with a stable reason and what to do next; nothing changes, nothing of ours shows."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from counterseal.api.executor.v1 import plan_pb2, tool_pb2
from counterseal.api.policy.v1 import decision_pb2, policy_admin_pb2
from counterseal.canonical import digest
from counterseal.ids import new_id
from support import bank
from support.matrix import Answer, Door, door
from support.requirements import requirement
from support.suite import Suite, reason_of

PROPOSE = "/counterseal.api.executor.v1.PlanService/ProposePlan"
REGISTER = "/counterseal.api.executor.v1.ToolService/RegisterTool"
PUBLISH = "/counterseal.api.policy.v1.PolicyAdminService/PublishPolicy"
AUTHORIZE = "/counterseal.api.policy.v1.DecisionService/AuthorizePlan"
INSIDE = ("Traceback", "Exception", "asyncpg", "sqlalchemy", "psycopg", "/counterseal_", 'File "')


@pytest_asyncio.fixture
async def gate(suite: Suite) -> AsyncIterator[Door]:
    async with door(suite) as opened:
        yield opened


def step(args: bytes = b'{"account":"a-1","amount_cents":5}', **changes: Any) -> plan_pb2.ProposedStep:
    values: dict[str, Any] = {
        "id": "s1",
        "tool": "bank.refund@1.0.0",
        "target": "bank",
        "args_json": args,
        "timeout_seconds": 20,
        "undo": plan_pb2.ProposedUndo(tool="bank.reverse@1.0.0", args_json=b'{"account":"a-1","amount_cents":5}'),
    }
    return plan_pb2.ProposedStep(**{**values, **changes})


def proposal(*steps: plan_pb2.ProposedStep, **changes: Any) -> plan_pb2.ProposePlanRequest:
    values: dict[str, Any] = {"idempotency_key": new_id(), "objective": "x", "confidence_ppm": 990_000}
    return plan_pb2.ProposePlanRequest(steps=steps or (step(),), **{**values, **changes})


def with_args(args: bytes) -> Callable[[], plan_pb2.ProposePlanRequest]:
    return lambda: proposal(step(args))


PROPOSALS: dict[str, tuple[str, Callable[[], plan_pb2.ProposePlanRequest]]] = {
    "an unknown argument": ("PLAN_INVALID", with_args(b'{"account":"a-1","amount_cents":5,"evil":1}')),
    "a missing argument": ("PLAN_INVALID", with_args(b'{"account":"a-1"}')),
    "text for a number": ("PLAN_INVALID", with_args(b'{"account":"a-1","amount_cents":"5"}')),
    "a fraction for an integer": ("PLAN_INVALID", with_args(b'{"account":"a-1","amount_cents":5.5}')),
    "too long a text": ("PLAN_INVALID", with_args(b'{"account":"' + b"a" * 65 + b'","amount_cents":5}')),
    "NaN": ("NOT_CANONICAL", with_args(b'{"account":"a-1","amount_cents":NaN}')),
    "an infinite number": ("NOT_CANONICAL", with_args(b'{"account":"a-1","amount_cents":1e400}')),
    "an integer that doubles cannot hold": (
        "NOT_CANONICAL",
        with_args(b'{"account":"a-1","amount_cents":9007199254740993}'),
    ),
    "a key twice": ("NOT_CANONICAL", with_args(b'{"account":"a-1","account":"a-2","amount_cents":5}')),
    "a lone surrogate": ("NOT_CANONICAL", with_args(b'{"account":"\\ud800","amount_cents":5}')),
    "a zero byte": ("NOT_CANONICAL", with_args(b'{"account":"a\\u0000","amount_cents":5}')),
    "a byte-order mark": ("NOT_CANONICAL", with_args(b'\xef\xbb\xbf{"account":"a-1","amount_cents":5}')),
    "bad UTF-8": ("NOT_CANONICAL", with_args(b'{"account":"\xff","amount_cents":5}')),
    "bytes after the document": ("NOT_CANONICAL", with_args(b'{"account":"a-1","amount_cents":5} x')),
    "no document": ("NOT_CANONICAL", with_args(b"")),
    "a list for an object": ("NOT_CANONICAL", with_args(b"[]")),
    "depth without end": ("NOT_CANONICAL", with_args(b"[" * 200_000)),
    "two megabytes": ("NOT_CANONICAL", with_args(b'{"account":"' + b"a" * 2_000_000 + b'","amount_cents":5}')),
    "a reference to nothing": (
        "PLAN_INVALID",
        with_args(b'{"account":{"$ref":{"step":"s0","ptr":"/x"}},"amount_cents":5}'),
    ),
    "no step": ("PLAN_INVALID", lambda: plan_pb2.ProposePlanRequest(idempotency_key=new_id(), objective="x")),
    "65 steps": ("PLAN_INVALID", lambda: proposal(*(step(id=f"s{number}") for number in range(65)))),
    "steps in a circle": ("PLAN_INVALID", lambda: proposal(step(needs=["s2"]), step(id="s2", needs=["s1"]))),
    "two steps of one name": ("PLAN_INVALID", lambda: proposal(step(), step())),
    "two writes without an order": ("PLAN_INVALID", lambda: proposal(step(), step(id="s2"))),
    "a step's name with a path": ("PLAN_INVALID", lambda: proposal(step(id="../../etc"))),
    "an unknown tool": ("PLAN_INVALID", lambda: proposal(step(tool="bank.nothing@1.0.0"))),
    "an unknown version": ("PLAN_INVALID", lambda: proposal(step(tool="bank.refund@9.9.9"))),
    "SQL for a tool": ("PLAN_INVALID", lambda: proposal(step(tool="bank.refund@1.0.0'; DROP TABLE plan --"))),
    "an unknown target": ("PLAN_INVALID", lambda: proposal(step(target="elsewhere"))),
    "an unknown undo": (
        "PLAN_INVALID",
        lambda: proposal(step(undo=plan_pb2.ProposedUndo(tool="bank.no@1.0.0", args_json=b"{}"))),
    ),
    "no objective": ("PLAN_INVALID", lambda: proposal(objective="")),
    "an endless objective": ("PLAN_INVALID", lambda: proposal(objective="x" * 100_000)),
    "more than certain": ("PLAN_INVALID", lambda: proposal(confidence_ppm=2_000_000)),
    "a timeout beyond the longest grant": ("PLAN_INVALID", lambda: proposal(step(timeout_seconds=891))),
    "a negative timeout": ("PLAN_INVALID", lambda: proposal(step(timeout_seconds=-1))),
    "no idempotency key": ("INPUT_INVALID", lambda: proposal(idempotency_key="")),
    "an endless idempotency key": ("INPUT_INVALID", lambda: proposal(idempotency_key="k" * 5000)),
}


def stable(answer: Answer, reason: str) -> None:
    """Hold an answer against what every refusal of an input must be."""
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", reason), answer
    assert answer.next_action == "NONE"
    assert answer.text
    assert len(answer.text.encode()) <= 512
    assert not any(word in answer.text for word in INSIDE), answer.text


@requirement("input:refused")
async def test_every_malformed_proposal_is_refused_by_reason_and_leaves_nothing(suite: Suite, gate: Door) -> None:
    await suite.outboxes_drained()
    before = await suite.row_counts()
    token = await gate.token("agent")
    for what, (reason, make) in PROPOSALS.items():
        answer = await gate.call(PROPOSE, "agent", token, request=make())
        assert answer.reason == reason, (what, answer)
        stable(answer, reason)
    after = await suite.row_counts()
    changed = {name for name, count in after.items() if before[name] != count}
    assert {
        name for name in changed if name.startswith(("counterseal_executor", "counterseal_policy", "bank"))
    } == set()


@requirement("input:refused")
async def test_a_message_beyond_the_limit_is_refused_and_the_service_goes_on(suite: Suite, gate: Door) -> None:
    token = await gate.token("agent")
    huge = proposal(step(b'{"account":"' + b"a" * 5_000_000 + b'","amount_cents":5}'))
    answer = await gate.call(PROPOSE, "agent", token, request=huge)
    assert answer.code == "RESOURCE_EXHAUSTED"
    assert (await gate.call(PROPOSE, "agent", token, request=proposal(objective=""))).reason == "PLAN_INVALID"
    async with suite.agent() as request:
        assert await reason_of(request.propose(bank.draft(objective="x" * 5_000_000))) == "INPUT_INVALID"


@requirement("input:refused")
async def test_an_account_that_is_sql_is_an_account_that_does_not_exist(suite: Suite) -> None:
    async with suite.agent() as request:
        proposed = await request.propose(bank.draft(bank.refund("a-1'; DROP TABLE accounts; --", 5)))
    assert (proposed.outcome, proposed.reason_codes) == ("DENY", ("ACCOUNT_NOT_FOUND",))
    assert await suite.balance("ben-1") == 500_000


@requirement("input:refused")
@pytest.mark.parametrize(
    ("what", "reason", "change"),
    [
        ("an unknown field", "INPUT_INVALID", (b'"v":1', b'"v":1,"x":1')),
        ("another form", "INPUT_INVALID", (b'"v":1', b'"v":2')),
        ("a key twice", "NOT_CANONICAL", (b'"v":1', b'"v":1,"v":1')),
        ("NaN", "NOT_CANONICAL", (b'"v":1', b'"v":NaN')),
        ("a statement that ends the transaction", "INPUT_INVALID", (b"WITH moved AS", b"COMMIT; WITH moved AS")),
    ],
)
async def test_a_malformed_descriptor_registers_nothing(
    suite: Suite, gate: Door, what: str, reason: str, change: tuple[bytes, bytes]
) -> None:
    body = bank.TOOLS["refund"].body.replace(*change)
    assert body != bank.TOOLS["refund"].body
    tools = await suite.sql("counterseal_executor", "SELECT count(*) AS n FROM tool")
    answer = await gate.call(
        REGISTER, "cli", await gate.token("cli"), request=tool_pb2.RegisterToolRequest(descriptors=[body])
    )
    stable(answer, reason)
    assert await suite.sql("counterseal_executor", "SELECT count(*) AS n FROM tool") == tools, what


@requirement("input:refused")
@pytest.mark.parametrize(
    "text",
    [
        b"a: [",
        b"",
        b"a: &x 1\nb: *x\n",
        bank.POLICY["undo.yaml"] + b"\nextra: 1\n",
        bank.POLICY["undo.yaml"].replace(b'"refund_operator" in', b"nope nope in"),
        bank.POLICY["undo.yaml"].replace(b"effect: ALLOW", b"effect: ALOW"),
        b"#" * 2_000_000,
    ],
    ids=["not YAML", "empty", "an alias", "an unknown field", "no condition", "a misspelt effect", "two megabytes"],
)
async def test_a_malformed_policy_file_is_named_and_not_stored(suite: Suite, gate: Door, text: bytes) -> None:
    stored = await suite.sql("counterseal_policy", "SELECT count(*) AS n FROM policy_document")
    document = policy_admin_pb2.PolicyDocument(name="mine.yaml", text=text)
    request = policy_admin_pb2.PublishPolicyRequest(documents=[document])
    answer = await gate.call(PUBLISH, "cli", await gate.token("cli"), request=request)
    stable(answer, "INPUT_INVALID")
    assert answer.text.startswith("mine.yaml")
    assert await suite.sql("counterseal_policy", "SELECT count(*) AS n FROM policy_document") == stored


@requirement("input:refused")
@pytest.mark.parametrize("body", [b'{"v": 1}', b'{"v":1}\n', b'{"v":1.0}', b'{"b":1,"a":2}', b""])
async def test_plan_bytes_that_are_not_canonical_get_no_decision(suite: Suite, gate: Door, body: bytes) -> None:
    decisions = await suite.sql("counterseal_policy", "SELECT count(*) AS n FROM decision")
    request = decision_pb2.AuthorizePlanRequest(canonical_plan=body, plan_digest=digest("plan", body), purpose=1)  # type: ignore[arg-type]
    answer = await gate.call(AUTHORIZE, "svc/executor", await gate.token("svc/executor"), request=request)
    assert answer.reason in ("NOT_CANONICAL", "PLAN_INVALID"), answer
    stable(answer, answer.reason)
    assert await suite.sql("counterseal_policy", "SELECT count(*) AS n FROM decision") == decisions


@requirement("input:refused", "decision:durable-first")
async def test_a_denied_proposal_is_in_the_ledger_with_its_reason_and_shows_nothing_that_was_read(suite: Suite) -> None:
    async with suite.agent() as request:
        proposed = await request.propose(bank.draft(bank.refund("ben-1", 5)))
    assert (proposed.outcome, proposed.reason_codes) == ("DENY", ("NOT_OWNER",))
    assert proposed.body == b""
    assert "ben" not in str(proposed.plan).replace("ben-1", "")
    await suite.outboxes_drained()
    async with suite.person("omar") as omar:
        story = await omar.entries(plan_digest=proposed.plan_digest)
    decided = [entry.entry for entry in story if b'"plan.decided"' in entry.entry]
    assert decided
    assert b'"DENY"' in decided[-1]
    assert b'"NOT_OWNER"' in decided[-1]
