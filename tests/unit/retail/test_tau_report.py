"""The runner's own judgement: what counts as equal, whose rows are whose, and that a report is always left."""

import fcntl
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from examples.retail import stack
from examples.retail.catalogue import draft
from examples.retail.governed import CallResult
from examples.retail.report import Ledger, TaskResult, document, passed, write
from examples.retail.run import MARKER, main, prepared
from examples.retail.waves import attribute, footprint, waves
from examples.retail.workload import Action, Task

from counterseal.errors import InputInvalid
from support.requirements import requirement
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
    report = json.loads(out.read_text())
    assert report["tasks"] == []
    assert "does not exist" in report["totals"]["error"]


TASK = '{"id": "t", "user_id": "u", "actions": [%s], "expected_changed_rows": {"orders": {}, "users": {}}}'
ACTION = '{"tool": "think", "args": {}, "write": false, "refused": null}'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("users.json", "[]", "must be objects, keyed by id"),
        ("users.json", '{"u": {"name": {}}}', "users.json: u: not such a row"),
        ("orders.json", "{", "orders.json is not JSON"),
        ("orders.json", '{"#1": {"items": [{"price": NaN}]}}', "orders.json: #1: not such a row"),
        ("orders.json", '{"#1": {"amount": 1e9999999999999999999}}', "orders.json is not JSON"),
        ("products.json", '{"p": {"product_id": "p"}}', "products.json: p: not such a row (no 'variants')"),
        ("tools.json", "[1]", "must be a list of tools"),
        ("tools.json", '[{"name": "make_coffee"}]', "names tools that are not here: retail.make_coffee"),
        ("tasks-a.json", "", "tasks-a.json is not JSON"),
        ("tasks-a.json", "[" * 100_000, "tasks-a.json is not JSON"),
        ("tasks-a.json", "\udcff", "tasks-a.json is not JSON"),
        ("tasks-a.json", "[]", "there are no tasks"),
        ("tasks-a.json", "{}", "must be a list of tasks"),
        ("tasks-a.json", f"[{TASK % ACTION}, 1]", "tasks-a.json: task 1: must be an object"),
        ("tasks-a.json", '[{"id": "t"}]', "task 0: lacks user_id"),
        ("tasks-a.json", '[{"id": 7, "user_id": "u"}]', "task 0: id must not be int"),
        ("tasks-a.json", f"[{TASK % ACTION.replace('null', 'false')}]", "(t): action 0: refused must not be bool"),
        ("tasks-a.json", f"[{TASK % ACTION.replace('write', 'wrote')}]", "(t): action 0: lacks write"),
        ("tasks-a.json", f"[{(TASK % ACTION).replace('users', 'people')}]", "expected_changed_rows: lacks users"),
    ],
)
def test_data_of_another_form_is_named_in_the_report(tmp_path: Path, name: str, text: str, message: str) -> None:
    empty_data(tmp_path)
    (tmp_path / "tasks-a.json").write_text("[]")
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    out = tmp_path / "out.json"
    assert main(["--data", str(tmp_path), "--out", str(out), "--stack", str(tmp_path / "s")]) == 3
    report = json.loads(out.read_text())
    assert report["tasks"] == []
    assert message in report["totals"]["error"]


def empty_data(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in ("users.json", "orders.json", "products.json"):
        (folder / file).write_text("{}")
    (folder / "tools.json").write_text("[]")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_where_no_report_can_be_written_it_is_said_before_anything_runs(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty_data(tmp_path)
    (tmp_path / "file").touch()
    out = tmp_path if what == "folder" else tmp_path / "file" / "out.json"
    assert main(["--data", str(tmp_path), "--out", str(out), "--stack", str(tmp_path / "s")]) == 3
    assert f"the report cannot be written to {out}" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@requirement("run:tau-any-input")
def test_make_tau_takes_any_path_and_leaves_the_report_there(tmp_path: Path) -> None:
    data = tmp_path / 'it\'s a "folder"'
    empty_data(data)
    (data / "one two.json").write_text("[]")
    (data / "three.json").write_text("[7]")
    out = tmp_path / "not there" / "yet" / "out.json"
    words = [f"DATA={data}", f"TASKS={data / 'one two.json'},three.json", f"OUT={out}"]
    command = ["make", "-o", ".venv/.stamp", f"BIN={Path(sys.executable).parent}", "tau", *words]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "three.json: task 0: must be an object" in run.stderr
    assert json.loads(out.read_text())["totals"]["error"] == f"{data / 'three.json'}: task 0: must be an object"


def test_a_row_of_any_text_and_amount_is_compared_and_reported(tmp_path: Path) -> None:
    odd = Task("\ud800é", "u", (), {"orders": {"#1": {"x": float("nan"), "y": Decimal("Infinity")}}, "users": {}})
    result = TaskResult(odd, {"orders": {"#1": {"x": "\udfff"}}, "users": {}}, [])
    assert not result.equal
    write(tmp_path / "out.json", document([result], 1, None, 1, None))
    assert json.loads((tmp_path / "out.json").read_text())["tasks"][0]["id"] == "\ud800é"


def test_the_stack_of_a_run_that_lives_is_never_removed(tmp_path: Path) -> None:
    empty_data(tmp_path)
    (tmp_path / "tasks-a.json").write_text(f"[{TASK % ACTION}]")
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / MARKER).touch()
    out = tmp_path / "out.json"
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["--data", str(tmp_path), "--out", str(out), "--stack", str(folder)]) == 3
    assert "another run uses" in out.read_text()
    assert (folder / "lock").exists()


@pytest.mark.parametrize("name", ["out.json", "out", "out.ledger"])
def test_an_export_of_somebody_elses_is_never_removed_nor_the_report_its_folder(tmp_path: Path, name: str) -> None:
    empty_data(tmp_path)
    (tmp_path / "tasks-a.json").write_text(f"[{TASK % ACTION}]")
    out, export = tmp_path / name, tmp_path / ("out.ledger.ledger" if name == "out.ledger" else "out.ledger")
    assert prepared(tmp_path, "", out, tmp_path / "s").export == export
    export.mkdir()
    (export / "vkey").touch()
    prepared(tmp_path, "", out, tmp_path / "s")
    assert not export.exists()
    export.mkdir()
    (export / "precious").touch()
    assert main(["--data", str(tmp_path), "--out", str(out), "--stack", str(tmp_path / "s")]) == 3
    assert (export / "precious").exists()
    assert "no export of an earlier run" in out.read_text()


def test_a_customer_never_takes_a_member_of_staffs_roles_and_who_cannot_sign_in_is_left_out() -> None:
    users = stack.wanted(["ana", "ida", "zoë", "", "a b", "\ud800", "x" * 200]).users
    assert users["ana"] == ("customer",)
    assert set(users["ida"]) == {*stack.STAFF["ida"], "customer"}
    assert set(users) == {"ana", *stack.STAFF}


def test_a_tool_that_nobody_registered_is_asked_for_all_the_same() -> None:
    plan = draft({}, "make_coffee", {"sugar": 2})
    assert [(step.tool, step.undo) for step in plan.steps] == [("retail.make_coffee@1.0.0", None)]
    shapeless: list[Any] = [None, [], "x", 7]
    for args in shapeless:
        with pytest.raises(InputInvalid):
            draft({}, "think", args)


def test_the_longest_tasks_run_first() -> None:
    tasks = [task("1", "ana", "#P1"), task("2", "bob", "#B1", "#B1"), task("3", "ana", "#P1", "#P2", "#D1")]
    assert [[t.id for t in wave] for wave in waves(tasks, small_shop(), 4)] == [["3", "2"], ["1"]]


def test_absent_data_is_skipped_where_nobody_named_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "none"), "--skip-if-absent", "--out", str(tmp_path / "o")]) == 0
    assert "skipped" in capsys.readouterr().err


def test_a_folder_of_somebody_elses_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    empty_data(tmp_path)
    (tmp_path / "tasks-a.json").write_text(f"[{TASK % ''}]")
    out = tmp_path / "out.json"
    assert main(["--data", str(tmp_path), "--out", str(out), "--stack", str(tmp_path)]) == 3
    assert (tmp_path / "precious").exists()
    assert "holds something else" in out.read_text()
