"""The example of the documentation loads, passes its nine cases, and each of its parts is held by a case."""

from pathlib import Path

import pytest

from counterseal.canonical import parse_strict
from counterseal_policy.cli import main
from counterseal_policy.rules.compile import compile_policy, parse_files
from counterseal_policy.suites import run_suites
from support.policy import ENGINE

EXAMPLE = Path(__file__).parent / "example"


def texts() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(EXAMPLE.glob("*.yaml"))}


def passed(changed: dict[str, str]) -> bool:
    policy = compile_policy(parse_files([(name, text.encode()) for name, text in changed.items()]), ENGINE)
    return not policy.errors and run_suites(policy).passed


def test_the_example_passes_nine_of_nine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(EXAMPLE)]) == 0
    assert "9 of 9 cases passed" in capsys.readouterr().out


def test_the_machine_readable_answer_lists_every_case(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["test", str(EXAMPLE), "--json", "--junit", str(tmp_path / "out.xml")]) == 0
    answer = parse_strict(capsys.readouterr().out)
    assert answer["passed"] is True
    assert len(answer["cases"]) == 9
    assert 'tests="9" failures="0"' in (tmp_path / "out.xml").read_text()


RULES = ("foreign-charge", "small", "large", "freeze", "tenants-decide")


@pytest.mark.parametrize("rule", RULES)
def test_without_a_rule_a_case_fails(rule: str) -> None:
    changed = texts()
    for name, text in changed.items():
        lines, out, skipping = text.splitlines(), [], False
        for line in lines:
            if line.startswith(("  - id:", "  - {id:")):
                skipping = f"id: {rule}" in line.replace(",", " ").replace(f"id: {rule} ", f"id: {rule}")
            elif line and not line.startswith("   "):
                skipping = False
            if not skipping:
                out.append(line)
        changed[name] = "\n".join(out)
    assert changed != texts()
    assert not passed(changed)


def test_without_the_limit_a_case_fails() -> None:
    changed = texts()
    head, _, tail = changed["refunds.yaml"].partition("limits:")
    changed["refunds.yaml"] = head + "tests:" + tail.partition("tests:")[2]
    assert not passed(changed)


@pytest.mark.parametrize("fact", ["amount_minor:", "currency:", "charge_tenant:"])
def test_without_a_fact_a_case_or_the_lint_fails(fact: str) -> None:
    changed = texts()
    changed["tools.yaml"] = changed["tools.yaml"].replace(fact, f"other_{fact}")
    assert not passed(changed)


def test_a_rule_that_widens_when_a_fact_is_absent_is_found() -> None:
    changed = texts()
    changed["refunds.yaml"] = changed["refunds.yaml"].replace(
        "when: action.text.charge_tenant != scope.tenant",
        "when: has(action.text.charge_tenant) && action.text.charge_tenant != scope.tenant",
    )
    policy = compile_policy(parse_files([(name, text.encode()) for name, text in changed.items()]), ENGINE)
    assert "GUARDED_WITHOUT_ABSENCE" in {finding.code for finding in policy.errors}
    failures = [why for case in run_suites(policy).cases for why in case.failures]
    assert any(why.startswith("WIDENS_ON_ABSENCE") for why in failures)


def test_findings_and_usage_have_their_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: 1\na: 2\n")
    assert main(["lint", str(tmp_path)]) == 3
    assert main(["lint", str(tmp_path / "absent.yaml")]) == 2
    for name, text in texts().items():
        (tmp_path / name).write_text(text.replace("need: 1}", "need: 9}"))
    (tmp_path / "bad.yaml").unlink()
    assert main(["test", str(tmp_path)]) == 3
