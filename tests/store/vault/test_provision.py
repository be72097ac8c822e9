"""Setup twice changes nothing; verify names every planted drift; the broker's token cannot do what it must not."""

import pytest

from counterseal.vault import Vault, VaultRefused, provision
from counterseal.vault.names import Environment
from support.openbao import Provisioned
from support.postgres import execute
from support.requirements import requirement

ENV = Environment("prod")
ROLE = ENV.tenant("acme").role("shop", "rw", 60)
CREATE = ENV.tenant("acme").token_creation_path


async def test_a_second_setup_changes_nothing_and_verify_finds_nothing(provisioned: Provisioned) -> None:
    vault = await provisioned.operator()
    assert await provision.setup(vault, provisioned.settings) == 0
    assert await provision.verify(vault, provisioned.settings) == []
    vault.close()


PLANTED = [
    (f"sys/policies/acl/{ROLE.policy}", {"policy": 'path "*" { capabilities = ["sudo","read"] }'}),
    ("sys/policies/acl/svc--prod--credentials", {"policy": 'path "sys/policies/*" { capabilities = ["update"] }'}),
    (f"auth/token/roles/{ENV.tenant('acme').token_role}", {"allowed_policies_glob": ["*"]}),
    (f"auth/token/roles/{ENV.tenant('evil').token_role}", {"renewable": True, "orphan": False}),
    ("pki/prod/roles/svc-policy", {"allow_any_name": True, "allowed_uri_sans": ["*"]}),
    (f"db/prod/acme/roles/{ROLE.name}", {"db_name": "target", "revocation_statements": ["SELECT 1"]}),
    ("db/prod/acme/roles/sweep", {"db_name": "target", "creation_statements": ["SELECT 1"]}),
    ("auth/approle/role/svc--prod--executor", {"token_policies": ["operator"]}),
    ("sys/config/auditing/request-headers/X-Counterseal-Grant", {"hmac": True}),
]


@requirement("credential:setup-verified")
@pytest.mark.parametrize(("path", "body"), PLANTED, ids=[path for path, _ in PLANTED])
async def test_verify_names_a_planted_change_and_setup_mends_it(
    provisioned: Provisioned, path: str, body: dict[str, object]
) -> None:
    vault = await provisioned.operator()
    await vault.call("POST", path, body)
    found = await provision.verify(vault, provisioned.settings)
    assert found
    assert all(drift.where.startswith(path) for drift in found)
    assert await provision.setup(vault, provisioned.settings) == 1
    assert await provision.verify(vault, provisioned.settings) == []
    vault.close()


async def test_verify_names_a_policy_of_our_prefix_that_nobody_declared(provisioned: Provisioned) -> None:
    vault = await provisioned.operator()
    await vault.call(
        "POST", "sys/policies/acl/g--prod--acme--backdoor", {"policy": 'path "a" { capabilities=["read"] }'}
    )
    found = await provision.verify(vault, provisioned.settings)
    assert [drift.where for drift in found] == ["sys/policies/acl/g--prod--acme--backdoor"]
    await vault.call("DELETE", "sys/policies/acl/g--prod--acme--backdoor")
    vault.close()


@requirement("credential:setup-verified")
@pytest.mark.parametrize(
    ("plant", "mend"),
    [
        ("GRANT CONNECT ON DATABASE shop_acme TO PUBLIC", "REVOKE CONNECT ON DATABASE shop_acme FROM PUBLIC"),
        ('ALTER ROLE "vadmin--acme" SUPERUSER', 'ALTER ROLE "vadmin--acme" NOSUPERUSER'),
        (
            'GRANT CREATE ON DATABASE shop_acme TO "cs--acme--shop--rw"',
            'REVOKE CREATE ON DATABASE shop_acme FROM "cs--acme--shop--rw"',
        ),
    ],
)
async def test_verify_names_a_change_made_in_postgresql(provisioned: Provisioned, plant: str, mend: str) -> None:
    vault = await provisioned.operator()
    await execute(provisioned.cluster.dsn(), plant)
    assert len(await provision.verify(vault, provisioned.settings)) == 1
    await execute(provisioned.cluster.dsn(), mend)
    assert await provision.verify(vault, provisioned.settings) == []
    vault.close()


FORBIDDEN = {
    "read a credential": ("GET", ROLE.credential_path, None),
    "mint root": (("POST"), CREATE, {"policies": ["root"]}),
    "mint its own policy": ("POST", CREATE, {"policies": ["svc--prod--credentials"]}),
    "mint another tenant's policy": ("POST", CREATE, {"policies": ["g--prod--evil--shop--rw--60"]}),
    "mint another environment's policy": ("POST", "auth/token/create/grant--staging--acme", {"policies": ["x"]}),
    "mint without a role": ("POST", "auth/token/create", {"policies": [ROLE.policy]}),
    "write a policy": ("POST", "sys/policies/acl/g--prod--acme--x", {"policy": ""}),
    "sign a decision": ("POST", "transit/prod/sign/decision-prod", {"input": "eA=="}),
    "sign a checkpoint": ("POST", "transit/prod/sign/log-prod", {"input": "eA=="}),
    "read another service's password": ("GET", "dbsvc/prod/static-creds/policy", None),
    "be issued another service's certificate": ("POST", "pki/prod/issue/svc-executor", {}),
    "revoke outside its prefixes": ("PUT", "sys/leases/revoke-prefix/auth/approle/login", {"sync": False}),
    "change a database role": ("POST", f"db/prod/acme/roles/{ROLE.name}", {"db_name": "target"}),
    "read the services' key-value store": ("GET", "kv/prod/data/audit/x", None),
    "change its own role": ("POST", "auth/approle/role/svc--prod--credentials", {"token_policies": ["operator"]}),
}


@requirement("credential:broker-holds-none")
@pytest.mark.parametrize("what", FORBIDDEN)
async def test_the_brokers_token_cannot(provisioned: Provisioned, what: str) -> None:
    method, path, body = FORBIDDEN[what]
    vault = await provisioned.service("credentials")
    with pytest.raises(VaultRefused):
        await vault.call(method, path, body)
    vault.close()


@requirement("credential:broker-holds-none")
async def test_a_grants_token_reads_its_credential_and_nothing_else(provisioned: Provisioned) -> None:
    vault = await provisioned.service("credentials")
    made = await vault.call("POST", CREATE, {"policies": [ROLE.policy], "ttl": "60s", "no_default_policy": True})
    token, policies = made["auth"]["client_token"], made["auth"]["token_policies"]
    assert policies == [ROLE.policy]
    assert made["auth"]["orphan"] is True
    holder = Vault.with_token(provisioned.server.address, token, ca_file=provisioned.server.ca_file)
    for method, path in [
        ("GET", "db/prod/evil/creds/shop--rw--60"),
        ("GET", "db/prod/acme/creds/shop--ro--60"),
        ("GET", "db/prod/acme/creds/sweep"),
        ("POST", "auth/token/renew-self"),
        ("POST", "auth/token/create"),
        ("GET", "auth/token/lookup-self"),
    ]:
        with pytest.raises(VaultRefused):
            await holder.call(method, path, {} if method == "POST" else None)
    login = await holder.read_login(ROLE.credential_path, token)
    assert login.username.startswith("g-")
    await vault.call("POST", "auth/token/revoke-accessor", {"accessor": made["auth"]["accessor"]})
    holder.close()
    vault.close()
