"""A small bank as the target of end-to-end and chaos runs: accounts, and a row in `effects` for every write.

`effects` has no constraint on purpose: a write that happened twice must be visible as two rows. Each row is made by the
same statement as the balance's change and notes what the executor said of itself (effect key, attempt) and the
target's own clock, so that it can be compared with the ledger. Amounts are integer cents.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from counterseal.canonical import JsonObject
from counterseal.client import Draft, Step, Undo
from counterseal.documents.tool import ToolDescriptor, build_tool
from counterseal.embedded.layout import Agent, Target, Wanted
from counterseal.vault.settings import Action

ALIAS = "bank"
ROLE = "bank"
TENANT, OTHER_TENANT = "acme", "globex"
AGENT, SECOND_AGENT, OTHER_AGENT = "refund-bot", "report-bot", "globex-bot"
APPROVAL_ABOVE = 20_000

USERS = {
    "ana": ("refund_operator",),
    "ben": (),
    "quixotia": ("refund_operator",),  # is erased in the end
    "olga": ("approver", "payments_lead"),
    "omar": ("approver", "operator", "auditor"),
    "ida": ("policy_author", "platform_author", "operator", "platform_operator", "auditor"),
    "pat": ("policy_author", "platform_author", "operator"),
    "gus": ("approver", "operator", "auditor", "policy_author", "payments_lead"),
}

SCHEMA = """
CREATE TABLE accounts (
  id text PRIMARY KEY,
  owner text NOT NULL,
  balance_cents bigint NOT NULL CHECK (balance_cents >= 0)
);
CREATE TABLE effects (
  effect_key text NOT NULL,
  attempt_id text NOT NULL,
  tool text NOT NULL,
  account text NOT NULL,
  amount_cents bigint NOT NULL,
  login text NOT NULL DEFAULT session_user,
  statement_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO accounts SELECT 'a-' || n, 'user:ana', 1000000 FROM generate_series(1, 50) n;
INSERT INTO accounts VALUES ('empty', 'user:ana', 0), ('ben-1', 'user:ben', 500000);
"""

_WRITE = (
    "SELECT, UPDATE ON TABLE accounts",
    "SELECT, INSERT ON TABLE effects",
)
_READ = ("SELECT ON TABLE accounts", "SELECT ON TABLE effects")

POLICY: dict[str, bytes] = {
    "platform.yaml": b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: floor, scope: platform}
match: {tools: ["*"]}
rules:
  - {id: tenants-decide, effect: DELEGATE, when: "action.class_level <= 3"}
""",
    "settings.yaml": b"""
apiVersion: counterseal/policy.v1
kind: Settings
metadata: {name: environment, scope: platform}
default_stage: 3
""",
    "bank.yaml": b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: bank, scope: tenant}
match: {tools: ["bank.refund@*", "bank.charge@*", "bank.payout@*", "bank.balance@*"]}
rules:
  - id: known
    effect: DENY
    when: '!action.flag.known'
    reason: {code: ACCOUNT_NOT_FOUND}
  - id: own
    effect: DENY
    when: action.flag.known && action.text.owner != subject.id
    reason: {code: NOT_OWNER}
""",
    "reading.yaml": b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: reading, scope: tenant}
match: {tools: ["bank.balance@*"]}
rules:
  - {id: operators, effect: ALLOW, when: '"refund_operator" in subject.roles'}
""",
    "amounts.yaml": b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: amounts, scope: tenant}
match: {tools: ["bank.refund@*", "bank.charge@*", "bank.payout@*"]}
let: {operator: '"refund_operator" in subject.roles'}
rules:
  - id: small
    effect: ALLOW
    when: let.operator && action.num.amount_cents <= 20000
  - id: large
    effect: REQUIRE_APPROVAL
    when: let.operator && action.num.amount_cents > 20000
    approval: {need: 1, roles: [payments_lead], decide_within: 15m, valid_for: 1h}
""",
    "undo.yaml": b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: undo, scope: tenant}
match: {tools: ["bank.reverse@*"]}
rules:
  - {id: operators, effect: ALLOW, when: '"refund_operator" in subject.roles'}
""",
    "closing.yaml": b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: closing, scope: tenant}
match: {tools: ["bank.close@*"]}
rules:
  - id: never-in-production
    effect: DENY
    severity: low
    when: scope.environment == "prod"
    reason: {code: DESTRUCTIVE_IN_PRODUCTION}
""",
}

_ACCOUNT = {"type": "string", "minLength": 1, "maxLength": 64}
_AMOUNT = {"type": "integer", "minimum": 1, "maximum": 100_000_000}
_ID = "id = $1::jsonb ->> 'account'"
_OBSERVE = (
    "SELECT a.id IS NOT NULL AS known, coalesce(a.owner, '') AS owner "
    "FROM (VALUES ($1::jsonb ->> 'account')) AS wanted (id) LEFT JOIN accounts a USING (id)"
)
_VERIFY = (
    "SELECT count(*) = 1 AS ok FROM effects WHERE effect_key = $2::jsonb #>> '{result,rows,0,effect_key}' "
    "AND account = $1::jsonb ->> 'account'"
)


def _move(tool: str, sign: str) -> str:
    return (
        "WITH moved AS (UPDATE accounts SET balance_cents = balance_cents "
        f"{sign} ($1::jsonb ->> 'amount_cents')::bigint WHERE {_ID} RETURNING id, balance_cents), "
        "noted AS (INSERT INTO effects (effect_key, attempt_id, tool, account, amount_cents) "
        f"SELECT $2::jsonb ->> 'effect_key', $2::jsonb ->> 'attempt_id', '{tool}', id, "
        f"{sign}($1::jsonb ->> 'amount_cents')::bigint FROM moved RETURNING effect_key) "
        "SELECT id AS account, balance_cents, effect_key FROM moved, noted"
    )


def _object(**properties: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _rows(**columns: JsonObject) -> JsonObject:
    return _object(rows={"type": "array", "items": _object(**columns), "maxItems": 1})


def _tool(name: str, config: JsonObject, takes: JsonObject, gives: JsonObject, **changes: Any) -> ToolDescriptor:
    return build_tool(
        {
            "v": 1,
            "name": f"bank.{name}",
            "version": "1.0.0",
            "title": name,
            "description": f"{name} at the bank; amounts are integer cents.",
            "connector": {"kind": "postgres", "config": config},
            "input_schema": takes,
            "output_schema": gives,
            "effect": "E3",
            "reversibility": "R2",
            "residual_effects": [],
            "blast": {"records": 1},
            "preview": "none",
            "probe": True,
            "idempotency": {"kind": "none", "window_seconds": 0},
            "pre_kinds": ["tool_state"] if "observe" in config else [],
            "sensitive": [],
            "targets": [ALIAS],
            "credential_role": ROLE,
            "max_concurrency": 8,
            "open_world": False,
            **changes,
        }
    )


def _writes(name: str, sign: str, *, observe: bool, reversibility: str = "R2") -> ToolDescriptor:
    config: JsonObject = {
        "before": {"sql": f"SELECT id, balance_cents FROM accounts WHERE {_ID} FOR UPDATE"},
        "execute": {"sql": _move(f"bank.{name}", sign), "rows_min": 1, "rows_max": 1},
        "verify": {"sql": _VERIFY},
    }
    if observe:
        config["observe"] = {"sql": _OBSERVE}
    gives = _rows(account=_ACCOUNT, balance_cents={"type": "integer"}, effect_key={"type": "string"})
    return _tool(name, config, _object(account=_ACCOUNT, amount_cents=_AMOUNT), gives, reversibility=reversibility)


TOOLS = {
    tool.name.removeprefix("bank."): tool
    for tool in (
        _writes("refund", "+", observe=True),
        _writes("charge", "-", observe=True),
        _writes("payout", "-", observe=True, reversibility="R4"),
        _writes("reverse", "-", observe=False),
        _tool(
            "balance",
            {
                "observe": {"sql": _OBSERVE},
                "execute": {
                    "sql": f"SELECT id AS account, balance_cents FROM accounts WHERE {_ID}",
                    "rows_min": 1,
                    "rows_max": 1,
                },
            },
            _object(account=_ACCOUNT),
            _rows(account=_ACCOUNT, balance_cents={"type": "integer"}),
            effect="E0",
            reversibility="R0",
            blast={"records": 0},
            probe=False,
        ),
        _tool(
            "close",
            {
                "execute": {
                    "sql": f"UPDATE accounts SET owner = 'closed' WHERE {_ID} RETURNING id AS account",
                    "rows_min": 1,
                    "rows_max": 1,
                },
                "verify": {"sql": f"SELECT owner = 'closed' AS ok FROM accounts WHERE {_ID}"},
            },
            _object(account=_ACCOUNT),
            _rows(account=_ACCOUNT),
            reversibility="R4",
        ),
    )
}

_IMPACT = {"refund": (2, 2), "charge": (2, 2), "payout": (3, 2), "reverse": (2, 2), "balance": (0, 0), "close": (3, 3)}
_FACTS = """    facts:
      flag: {known: {from: "observed:/known"}}
      text: {owner: {from: "observed:/owner"}}
"""
_AMOUNTS = '      num: {amount_cents: {from: "args:/amount_cents", min: 1, max: 100000000}}\n'


def policy_documents() -> dict[str, bytes]:
    """Return the bank's policy, with a catalogue of its tools' digests."""
    lines = "apiVersion: counterseal/policy.v1\nkind: ToolCatalogue\nmetadata: {name: bank, scope: tenant}\ntools:\n"
    for short, tool in sorted(TOOLS.items()):
        reversibility, customer = _IMPACT[short]
        lines += f'  - tool: {tool.reference}\n    digest: "{tool.digest}"\n'
        lines += f"    impact: {{reversibility: {reversibility}, cost: 1, compliance: 0, customer: {customer}, "
        lines += "breadth: 0}\n"
        lines += _FACTS if "observe" in tool.connector.config else ""
        lines += _AMOUNTS if short in ("refund", "charge", "payout") else ""
    return {**POLICY, "tools.yaml": lines.encode()}


def wanted(environment: str = "prod", **changes: Any) -> Wanted:
    """Return a stack with two tenants, three agents and the bank as acme's target."""
    action = Action(rw=_WRITE, ro=_READ)
    values: dict[str, Any] = {
        "tenants": (TENANT, OTHER_TENANT),
        "agents": {
            AGENT: Agent(owner="user:ida", tenants=(TENANT,)),
            SECOND_AGENT: Agent(owner="user:ida", tenants=(TENANT,)),
            OTHER_AGENT: Agent(owner="user:ida", tenants=(OTHER_TENANT,)),
        },
        "users": USERS,
        "user_tenants": {"ana": (TENANT,), "ben": (TENANT,), "olga": (TENANT,), "gus": (OTHER_TENANT,)},
        "targets": (Target(ALIAS, TENANT, "bank", SCHEMA, {ROLE: action}),),
        "durable": False,
        "service_settings": {"executor": {"lease_seconds": 3.0, "r4_intents": "CHECKPOINTED"}},
        **changes,
    }
    return Wanted(environment=environment, **values)


def with_settings(chosen: Wanted, settings: Mapping[str, Mapping[str, object]]) -> Wanted:
    """Return the stack with more keys in services' own tables."""
    merged = {
        service: {**chosen.service_settings.get(service, {}), **settings.get(service, {})}
        for service in {*chosen.service_settings, *settings}
    }
    return replace(chosen, service_settings=merged)


def refund(account: str, amount_cents: int, step: str = "s1", *, needs: tuple[str, ...] = ()) -> Step:
    """Return a refund that can be reversed."""
    undo = Undo("bank.reverse@1.0.0", {"account": account, "amount_cents": amount_cents})
    args = {"account": account, "amount_cents": amount_cents}
    return Step(step, "bank.refund@1.0.0", ALIAS, args, needs=needs, undo=undo, timeout_seconds=20)


def charge(account: str, amount_cents: int, step: str = "s1", *, needs: tuple[str, ...] = ()) -> Step:
    """Return a charge without an undo; the bank refuses it when the balance does not cover it."""
    args = {"account": account, "amount_cents": amount_cents}
    return Step(step, "bank.charge@1.0.0", ALIAS, args, needs=needs, timeout_seconds=20)


def payout(account: str, amount_cents: int, step: str = "s1") -> Step:
    """Return a payment out of the bank, which nothing takes back: somebody has to approve it."""
    return Step(
        step, "bank.payout@1.0.0", ALIAS, {"account": account, "amount_cents": amount_cents}, timeout_seconds=20
    )


def tool_step(tool: str, args: JsonObject, step: str = "s1") -> Step:
    """Return a step of any tool."""
    return Step(step, tool, ALIAS, args, timeout_seconds=20)


def draft(*steps: Step, objective: str = "Settle the customer's complaint") -> Draft:
    """Return a proposal by a confident agent."""
    return Draft(objective, steps, confidence_ppm=990_000, model=("test", "scripted", "1"))
