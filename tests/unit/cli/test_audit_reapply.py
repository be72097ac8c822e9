"""`audit reapply-erasures`: the service's command by another name, and what to run where the service is not."""

from pathlib import Path

import pytest

from counterseal.cli import audit_reapply, main
from support.exports import KEY

WORDS = ("--config", "audit.toml", "--export", "my ledger", "--vkey")


def test_where_the_service_is_not_installed_the_exact_command_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(audit_reapply, "SERVICE", "counterseal_not_installed")
    pinned = tmp_path / "pinned.vkey"
    pinned.write_text(KEY.vkey + "\n")
    assert main(["audit", "reapply-erasures", *WORDS, str(pinned)]) == 2
    told = capsys.readouterr().err
    assert "is not installed here" in told
    assert f"counterseal-audit reapply-erasures --config audit.toml --export 'my ledger' --vkey {KEY.vkey}" in told


def test_a_key_that_is_none_and_a_configuration_that_is_none_are_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["audit", "reapply-erasures", *WORDS, "no key"]) == 2
    assert "--vkey" in capfd.readouterr().err
    words = ("--config", str(tmp_path / "absent.toml"), "--export", str(tmp_path), "--vkey", KEY.vkey)
    assert main(["audit", "reapply-erasures", *words]) == 2, "the service's own refusal"
    assert "counterseal-audit: " in capfd.readouterr().err
