"""The development login, where nothing is asked of anybody."""

from pathlib import Path

import pytest

from counterseal.client.login import password_login
from counterseal.client.profile import Login, Profile
from counterseal.errors import InputInvalid, TokenInvalid


def profile(login: Login | None) -> Profile:
    nowhere = Path("nowhere.pem")
    return Profile("staging", "counterseal.dev", "spiffe://x", "agent", nowhere, nowhere, nowhere, {}, login=login)


def test_a_name_that_no_form_can_hold_is_nobodys(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    with pytest.raises(TokenInvalid) as refused:
        password_login(profile(Login("https://127.0.0.1:1", tmp_path / "ca.pem", password)), "ana\ud800")
    assert "secret" not in str(refused.value)


def test_a_profile_without_an_issuer_says_what_to_do() -> None:
    with pytest.raises(InputInvalid, match="pass a token of your own"):
        password_login(profile(None), "ana")
