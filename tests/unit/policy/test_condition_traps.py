"""Each trap of the rule engine that was reproduced, and the guard that holds it shut."""

import ast
from pathlib import Path

import pytest
from cel_expr_python import cel

from counterseal.api.policy.v1 import rule_input_pb2 as pb
from counterseal.errors import InputInvalid
from counterseal_policy.rules import condition
from counterseal_policy.rules.condition import ConditionProblem, RuleInput, Verdict, input_digest
from support.policy import ENGINE, facts, judge
from support.requirements import requirement

SERVICE = Path(condition.__file__).parent.parent


def problem(text: str) -> set[str]:
    with pytest.raises(ConditionProblem) as caught:
        ENGINE.compile(text)
    return {code for code, _ in caught.value.problems}


def test_the_engine_cuts_dict_strings_at_nul_so_only_messages_go_in() -> None:
    env = cel.NewEnv(variables={"name": cel.Type.STRING})
    assert env.compile('name == "safe"').eval(data={"name": "safe\x00.delete"}).value() is True, "the trap is gone"
    assert all(hasattr(part, "DESCRIPTOR") for part in RuleInput(facts()).data.values())
    with pytest.raises(InputInvalid):
        RuleInput(facts(text={"name": "safe\x00.delete"}))


@pytest.mark.parametrize("operator", ["<=", "<", "==", "!=", ">", ">="])
def test_a_missing_number_is_indeterminate_for_every_operator(operator: str) -> None:
    assert judge(f"action.num.amount_minor {operator} 20000") == "INDETERMINATE"


@pytest.mark.parametrize("operator", ["==", "!="])
def test_a_missing_text_is_indeterminate_for_every_operator(operator: str) -> None:
    assert judge(f'action.text.currency {operator} "EUR"') == "INDETERMINATE"


@pytest.mark.parametrize(
    "text", ['resource.id != "x"', 'resource.kind == ""', 'agent.model == ""', "action.class_level <= 3"]
)
def test_an_unset_scalar_would_read_as_its_default_and_is_indeterminate_instead(text: str) -> None:
    assert judge(text, class_level=None) == "INDETERMINATE"
    assert ENGINE._env.compile(text).eval(data=RuleInput(facts(class_level=None)).data).value() is True, "no trap"


def test_every_scalar_of_the_input_has_presence_and_no_wrapper_or_struct_is_reachable() -> None:
    pending, seen = [pb.RuleInput.DESCRIPTOR], set()
    while pending:
        message = pending.pop()
        seen.add(message.full_name)
        for field in message.fields:
            if message.full_name.startswith("google."):
                continue
            if field.message_type is None:
                map_entry = message.GetOptions().map_entry
                assert field.has_presence or field.is_repeated or map_entry, field.full_name
            elif field.message_type.full_name not in seen:
                pending.append(field.message_type)
    assert {name for name in seen if name.startswith("google.")} == {"google.protobuf.Timestamp"}


def test_the_assembled_input_has_every_required_scalar_set() -> None:
    message = RuleInput(facts()).message
    message.subject.ClearField("id")
    with pytest.raises(InputInvalid, match=r"subject\.id"):
        condition._assert_present(message, facts())


def test_null_results_do_not_kill_the_interpreter() -> None:
    compiled = ENGINE._env.compile("dyn(null)")
    data = RuleInput(facts()).data
    for _ in range(100_000):
        assert condition._verdict(compiled, data).verdict is Verdict.INDETERMINATE


def test_nobody_else_looks_into_an_engine_value() -> None:
    users = [
        path.name
        for path in SERVICE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("value", "plain_value")
        and isinstance(node.ctx, ast.Load)
        and _is_called(path, node)
    ]
    assert set(users) <= {"condition.py"}
    importers = [path.name for path in SERVICE.rglob("*.py") if "cel_expr_python" in path.read_text()]
    assert importers == ["condition.py"]


def _is_called(path: Path, attribute: ast.Attribute) -> bool:
    return any(
        isinstance(node, ast.Call) and ast.dump(node.func) == ast.dump(attribute) and node.lineno == attribute.lineno
        for node in ast.walk(ast.parse(path.read_text()))
    )


@pytest.mark.parametrize(
    "text", ["1", '"true"', "null", "action.num", "action.tool.name", "dyn(true)", "[true]", "now", "action.money"]
)
def test_what_is_not_statically_boolean_does_not_compile(text: str) -> None:
    assert problem(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("action.num.map(k, k).size() > 0", "MAP_ORDER"),
        ("action.num.filter(k, true).size() > 0", "MAP_ORDER"),
        ("action.num.exists_one(k, true)", "MAP_ORDER"),
        ("dyn(action.tool.name) == 1", "BANNED_CALL"),
        ('now.getHours("Europe/Berlin") < 8', "NAMED_ZONE"),
        ("now.getHours(scope.tenant) < 8", "NAMED_ZONE"),
        ("action.tool.name.matches(scope.tenant)", "REGEX_NOT_LITERAL"),
        ('subject.roles.all(r, !r.matches("a+"))', "REGEX_IN_LOOP"),
        ("subject.roles.all(a, subject.roles.exists(b, a == b))", "NESTED_MACRO"),
        ("subject.roles.filter(a, a == 'x').exists(b, true)", "NESTED_MACRO"),
        ("action.num[scope.tenant] > 1", "DYNAMIC_KEY"),
        ("scope.tenant in action.num", "DYNAMIC_KEY"),
        ("{'a': 1}.a == 1", "STRUCT"),
        ("let.x", "COMPILE"),
        ("true\x00", "TEXT"),
        ("true || " * 600 + "true", "TEXT"),
    ],
)
def test_constructs_that_hang_leak_or_differ_per_process_do_not_compile(text: str, code: str) -> None:
    assert code in problem(text)


def test_what_remains_over_maps_is_independent_of_order() -> None:
    values = {"num": {"a": 1, "b": 2}}
    assert (
        judge("action.num.exists(k, k == 'b') && action.num.all(k, k != 'c') && 'a' in action.num", **values) == "TRUE"
    )
    assert judge("has(action.num.b) && action.num.size() == 2", **values) == "TRUE"


@pytest.mark.parametrize(
    "text",
    [
        "action.num.a / (action.num.a - action.num.a) > 0",
        "9223372036854775807 + action.num.a > 0",
        "int(action.tool.name) > 0",
        "timestamp(action.tool.name) < now",
        "subject.roles[99] == 'x'",
        "action.list.absent.values.exists(v, v == 'x')",
    ],
)
def test_errors_of_the_engine_are_values_and_become_indeterminate(text: str) -> None:
    assert judge(text, num={"a": 1}) == "INDETERMINATE"


@requirement("decision:errors-never-allow")
def test_an_engine_that_raises_is_indeterminate() -> None:
    class Broken:
        def eval(self, data: object) -> object:
            raise RuntimeError("secret of the input")

    result = condition._verdict(Broken(), {})
    assert result.verdict is Verdict.INDETERMINATE
    assert "secret" not in result.cause


def test_a_cause_names_the_fact_and_never_a_value() -> None:
    result = ENGINE.compile("int(action.text.note) > 0 || action.num.b > 1").evaluate(
        RuleInput(facts(text={"note": "canary-value"}))
    )
    assert result.verdict is Verdict.INDETERMINATE
    assert "canary" not in result.cause


@pytest.mark.parametrize(
    "changes",
    [
        {"text": {"a": "x\x1b[31m"}},
        {"text": {"a": "\ud800"}},
        {"subject_id": "user:\n"},
        {"num": {"a": 1 << 63}},
        {"num": {"a": True}},
        {"unverified": tuple(str(i) for i in range(257))},
        {"list": {"a": tuple(str(i) for i in range(257))}},
        {"text": {"a": "x" * (64 * 1024)}},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_input_that_could_confuse_or_exhaust_the_engine_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputInvalid):
        RuleInput(facts(**changes))


def test_the_shape_of_the_input_has_a_digest_that_a_snapshot_can_name() -> None:
    assert input_digest() == input_digest()
    assert input_digest().startswith("sha256:")
