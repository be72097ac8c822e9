"""The dispatcher: usage, exit codes, and never a traceback."""

import pytest

from counterseal.cli import COMMANDS, describe, exit_code, main
from counterseal.errors import InputInvalid, all_errors
from counterseal.rpc.status import PeerUnavailable


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert command in capsys.readouterr().out


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)
    assert "4 tampered" in said


@pytest.mark.parametrize(
    "argv", [[], ["nothing"], ["plan"], ["plan", "digest"], ["kill"], ["approvals", "approve", "x"]]
)
def test_bad_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["approvals", "list", "--home", "no/such/home"],
        ["plan", "propose", "-", "--profile", "no/such/profile.toml"],
        ["kill", "--environment", "--home", "no/such/home"],
    ],
)
def test_without_a_deployment_one_line_says_what_to_do(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"objective":"x","steps":[]}')))
    assert main(argv) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("INPUT_INVALID: there is no profile at no/such/")
    assert said.err.count("\n") == 1


def test_every_error_has_an_exit_code_of_the_suite() -> None:
    codes = {reason: exit_code(cls.__new__(cls)) for reason, cls in all_errors().items()}
    assert codes["APPROVAL_REQUIRED"] == 6
    assert codes["IN_DOUBT"] == 7
    unavailable = ("POLICY_UNAVAILABLE", "LEDGER_UNAVAILABLE", "CREDENTIALS_UNAVAILABLE", "EXECUTOR_UNAVAILABLE")
    assert {codes[reason] for reason in unavailable} == {8}
    assert {codes[r] for r in ("PEER_NOT_ALLOWED", "TOKEN_INVALID", "ROLE_REQUIRED", "CONTAINED")} == {5}
    assert codes["INTERNAL"] == 1
    assert {codes[r] for r in ("PLAN_DIGEST_MISMATCH", "NOT_FOUND", "INPUT_INVALID", "NOT_CANONICAL")} == {3}
    assert exit_code(PeerUnavailable()) == 8


def test_a_described_error_is_one_line_with_its_values_and_what_to_do() -> None:
    error = InputInvalid("a field is wrong", pointer="/steps/0")
    assert describe(error) == "INPUT_INVALID: a field is wrong pointer=/steps/0 (next: NONE)"
