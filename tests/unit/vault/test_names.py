"""Names: parsed once, every path derived; nothing climbs, nothing hides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.vault.names import BadName, Environment, login_prefix, part, safe_path, smallest_tier


@pytest.mark.parametrize(
    "text",
    ["", "acme\n", "acme/../evil", "..", "a--b", "-a", "a-", "Acme", "a_b", "a" * 25, "é", "a b", "a\x00", "*", "+"],
)
def test_a_name_part_with_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        part(text)


@pytest.mark.parametrize("path", ["acme/../evil/db", "a//b", "/a", "a/", "a/./b", "a?b", "a#b", "a/b\n", "a%2f..", ""])
def test_a_path_that_a_client_would_rewrite_is_refused(path: str) -> None:
    with pytest.raises(BadName):
        safe_path(path)


def test_an_environments_prefix_cannot_match_another_environment() -> None:
    prod, eu = Environment("prod").tenant("acme"), Environment("prod-eu").tenant("acme")
    assert not eu.token_role.startswith("grant--prod--")
    assert not eu.role("shop", "rw", 60).policy.startswith(prod.policy_glob.rstrip("*"))


def test_every_derived_name_of_a_role() -> None:
    role = Environment("prod").tenant("acme").role("shop", "rw", 60)
    assert (role.name, role.policy) == ("shop--rw--60", "g--prod--acme--shop--rw--60")
    assert role.credential_path == "db/prod/acme/creds/shop--rw--60"
    assert role.group == "cs--acme--shop--rw"
    assert role.tenant.token_creation_path == "auth/token/create/grant--prod--acme"


@given(st.from_regex(r"[a-z0-9]{1,24}", fullmatch=True), st.from_regex(r"[a-z0-9]{1,24}", fullmatch=True))
def test_postgres_names_fit_63_bytes(tenant: str, action: str) -> None:
    if action in ("sweep", "fence", "janitor"):
        return
    role = Environment("prod").tenant(tenant).role(action, "rw", 900)
    assert len(role.group.encode()) <= 63
    assert len(login_prefix("01920000-0000-7000-8000-000000000000") + "a" * 8) <= 63


def test_reserved_roles_lend_nothing() -> None:
    for name in ("sweep", "fence", "janitor"):
        with pytest.raises(BadName):
            Environment("prod").tenant("acme").role(name, "rw", 60)


def test_the_smallest_tier_covers_the_life_asked_for() -> None:
    assert [smallest_tier(n) for n in (1, 60, 61, 300, 301, 900)] == [60, 60, 300, 300, 900, 900]
    with pytest.raises(BadName):
        smallest_tier(901)
