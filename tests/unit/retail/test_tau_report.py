"""The runner's own judgement: what counts as equal, whose rows are whose, and that a report is always left."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from examples.retail.governed import CallResult
from examples.retail.report import Ledger, TaskResult, document, passed
from examples.retail.run import main
from examples.retail.waves import attribute, footprint, waves
from examples.retail.workload import Action, Task

from support.retail import ROOT, small_shop

NOTHING: dict[str, dict[str, Any]] = {"orders": {}, "users": {}}
VERIFIED = Ledger("export", "verified", 10, 1)


def task(task_id: str, user: str, *order_ids: str, refused: str | None = None) -> Task:
    actions = tuple(Action("cancel_pending_order", {"order_id": o}, write=True, refused=refused) for o in order_ids)
    return Task(task_id, user, actions, NOTHING)


def call(action: Action, **changes: Any) -> CallResult:
    values: dict[str, Any] = {
        "decision": "ALLOW",
        "reason_codes": ("ALLOWED_BY_RULE",),
        "plan_digest": "sha256:00",
        "refused": False,
        "done": True,
        "state": "SUCCEEDED",
    }
    return CallResult(action, **(values | changes))


def test_a_call_is_as_the_reference_only_when_it_is_done_or_refused_for_a_reason() -> None:
    must, may = task("t", "ana", "#P1", refused="why").actions[0], task("t", "ana", "#P1").actions[0]
    no = {"decision": "DENY", "reason_codes": ("NOT_OWNER",), "refused": True, "done": False}
    assert call(may).as_reference
    assert call(must, **no).as_reference
    assert not call(may, **no).as_reference
    assert not call(must).as_reference
    assert not call(must, **no | {"reason_codes": ()}).as_reference
    outage = {"decision": "NONE", "reason_codes": ("POLICY_UNAVAILABLE",), "refused": False, "done": False}
    assert not call(must, **outage).as_reference
    assert not call(may, **outage).as_reference
    assert not call(may, done=False, state="NEEDS_ATTENTION").as_reference


def test_one_difference_fails_the_run() -> None:
    one = task("t", "ana", "#P1")
    good = TaskResult(one, NOTHING, [call(one.actions[0])])
    assert passed([good], 1, VERIFIED)
    assert not passed([good], 2, VERIFIED)
    assert not passed([good], 1, None)
    assert not passed([good], 1, Ledger("export", "tampered", 10, 1))
    assert not passed([good], 1, Ledger("export", "verified", 10, 0))
    assert not passed([TaskResult(one, NOTHING, [])], 1, VERIFIED)
    assert not passed([TaskResult(one, {"orders": {"#P1": {}}, "users": {}}, good.calls)], 1, VERIFIED)


def test_the_report_has_the_agreed_shape() -> None:
    one = task("t", "ana", "#P1")
    made = document(
        [TaskResult(one, NOTHING, [call(one.actions[0], intent_index=3, outcome_index=5)])], 1, VERIFIED, 1, None
    )
    assert set(made) == {"v", "tasks", "totals", "ledger"}
    assert set(made["tasks"][0]) == {"id", "state_equal", "refused_as_reference", "changed_rows", "calls"}
    assert made["tasks"][0]["calls"][0] == {
        "tool": "cancel_pending_order",
        "decision": "ALLOW",
        "reason_codes": ["ALLOWED_BY_RULE"],
        "plan_digest": "sha256:00",
        "refused": False,
        "intent_index": 3,
        "outcome_index": 5,
    }


def test_tasks_that_share_a_customer_never_run_side_by_side() -> None:
    shop = small_shop()
    tasks = [task("1", "ana", "#P1"), task("2", "bob", "#P2"), task("3", "bob", "#B1"), task("4", "ana", "#D1")]
    assert footprint(tasks[1], shop) == {"ana", "bob"}
    assert [[t.id for t in wave] for wave in waves(tasks, shop, 4)] == [["1", "3"], ["2"], ["4"]]
    assert [[t.id for t in wave] for wave in waves(tasks, shop, 1)] == [["1"], ["2"], ["3"], ["4"]]


def test_a_row_that_nobody_named_is_charged_to_every_task() -> None:
    shop = small_shop()
    wave = [task("1", "ana", "#P1"), task("2", "bob", "#B1")]
    rows: dict[str, dict[str, Any]] = {
        "orders": {"#P1": {"user_id": "ana"}, "#Z": {"user_id": "eve"}},
        "users": {"bob": {"x": 1}},
    }
    assert attribute(rows, wave, shop) == [
        {"orders": rows["orders"], "users": {}},
        {"orders": {"#Z": {"user_id": "eve"}}, "users": {"bob": {"x": 1}}},
    ]


@pytest.mark.parametrize("flags", [[], ["--tasks", "none.json"]])
def test_a_report_is_written_even_when_the_data_is_not_there(tmp_path: Path, flags: list[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["--data", str(tmp_path / "none"), "--out", str(out), "--stack", str(tmp_path / "s"), *flags]) == 3
    report = json.load(io.StringIO(out.read_text()))
    assert report["tasks"] == []
    assert "does not exist" in report["totals"]["error"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("users.json", "[]"),
        ("orders.json", "{"),
        ("tools.json", "[1]"),
        ("tasks-a.json", '[{"id": "t"}]'),
        ("tasks-a.json", '[{"id": "t", "user_id": "u", "actions": [{"tool": "think", "args": [1], "write": false}]}]'),
        ("tasks-a.json", "[]"),
    ],
)
def test_data_of_another_form_is_named_in_the_report(tmp_path: Path, name: str, text: str) -> None:
    for file in ("users.json", "orders.json", "products.json"):
        (tmp_path / file).write_text("{}")
    for file in ("tools.json", "tasks-a.json"):
        (tmp_path / file).write_text("[]")
    (tmp_path / name).write_text(text)
    out = tmp_path / "out.json"
    assert main(["--data", str(tmp_path), "--out", str(out), "--stack", str(tmp_path / "s")]) == 3
    assert json.load(io.StringIO(out.read_text()))["totals"]["error"]


def test_absent_data_is_skipped_where_nobody_named_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "none"), "--skip-if-absent", "--out", str(tmp_path / "o")]) == 0
    assert "skipped" in capsys.readouterr().err


def test_a_folder_of_somebody_elses_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    for name in ("users", "orders", "products"):
        (tmp_path / f"{name}.json").write_text("{}")
    (tmp_path / "tools.json").write_text("[]")
    tasks = [{"id": "t", "user_id": "u", "actions": [], "expected_changed_rows": {"orders": {}, "users": {}}}]
    (tmp_path / "tasks-a.json").write_text(json.dumps(tasks))
    out = tmp_path / "out.json"
    assert main(["--data", str(tmp_path), "--out", str(out), "--stack", str(tmp_path)]) == 3
    assert (tmp_path / "precious").exists()
    assert "holds something else" in out.read_text()


def test_make_tau_is_what_the_runner_says_it_is() -> None:
    assert "examples.retail.run" in (ROOT / "Makefile").read_text()
