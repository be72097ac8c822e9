"""The door to Vault: signatures verify, certificates are bound to one workload, tokens come from nowhere else."""

import asyncio
import ssl

import pytest
from nacl.signing import VerifyKey

from counterseal.ids import new_id
from counterseal.ledger import ed25519
from counterseal.vault import TransitSigner, Vault, VaultRefused, VaultUnavailable, VersionMoved
from counterseal.vault.names import BadName, Environment
from support.openbao import Provisioned

ENV = Environment("prod")
UUID = "01920000-0000-7000-8000-000000000001"


async def test_a_transit_signature_verifies_under_the_published_key_of_its_version(provisioned: Provisioned) -> None:
    vault = await provisioned.service("credentials")
    signature, kid = await TransitSigner(vault, ENV.transit, ENV.key("ctx")).sign(b"message")
    key, _, version = kid.partition(":")
    public = (await vault.transit_public_keys(ENV.transit, key))[int(version)]
    VerifyKey(public).verify(b"message", signature)
    assert kid == "ctx-prod:1"
    vault.close()


async def test_each_service_signs_with_its_own_key_only(provisioned: Provisioned) -> None:
    allowed = {"credentials": {"ctx"}, "policy": {"decision"}, "audit": {"log"}, "executor": set()}
    for service, uses in allowed.items():
        vault = await provisioned.service(service)
        for use in ("ctx", "decision", "log"):
            signer = TransitSigner(vault, ENV.transit, ENV.key(use))
            if use in uses:
                await signer.sign(b"x")
            else:
                with pytest.raises(VaultRefused):
                    await signer.sign(b"x")
        vault.close()


async def test_a_certificate_carries_the_workloads_own_names_and_no_others(provisioned: Provisioned) -> None:
    vault = await provisioned.service("policy")
    own = provisioned.settings.spiffe_id("svc/policy")
    issued = await vault.issue_certificate(ENV.pki, "svc-policy", "policy.prod.internal", own, "1h")
    assert "BEGIN CERTIFICATE" in issued.cert_pem
    assert issued.key_pem not in repr(issued)
    context = ssl.create_default_context(cadata=issued.ca_pem)
    assert context.cert_store_stats()["x509_ca"] == 1
    assert (await vault.ca_bundle(ENV.pki)).strip() == issued.ca_pem.strip()
    foreign = [
        ("policy.prod.internal", provisioned.settings.spiffe_id("svc/executor")),
        ("executor.prod.internal", own),
        ("sub.policy.prod.internal", own),
        ("localhost", own),
        ("policy.prod.internal", own.replace("/prod/", "/staging/")),
    ]
    for name, uri in foreign:
        with pytest.raises(VaultRefused):
            await vault.issue_certificate(ENV.pki, "svc-policy", name, uri, "1h")
    with pytest.raises(VaultRefused):
        await vault.issue_certificate(ENV.pki, "svc-executor", "executor.prod.internal", own, "1h")
    vault.close()


async def test_an_agents_certificate_has_no_dns_name(provisioned: Provisioned) -> None:
    vault = await provisioned.operator()
    own = provisioned.settings.spiffe_id("agent/refund-bot")
    await vault.issue_certificate(ENV.pki, "agent-refund-bot", "", own, "1h")
    with pytest.raises(VaultRefused):
        await vault.issue_certificate(ENV.pki, "agent-refund-bot", "policy.prod.internal", own, "1h")
    vault.close()


async def test_kv_writes_compare_and_set(provisioned: Provisioned) -> None:
    vault = await provisioned.service("audit")
    path = f"ledger/{UUID}"
    assert await vault.kv_get(ENV.kv, path) is None
    assert await vault.kv_put(ENV.kv, path, {"size": 1}, cas=0) == 1
    assert await vault.kv_get(ENV.kv, path) == ({"size": 1}, 1)
    with pytest.raises(VersionMoved):
        await vault.kv_put(ENV.kv, path, {"size": 2}, cas=0)
    vault.close()


async def test_a_write_that_names_no_version_is_refused_and_a_deleted_value_keeps_its_version(
    provisioned: Provisioned,
) -> None:
    vault, operator = await provisioned.service("audit"), await provisioned.operator()
    path = f"ledger/{new_id()}"
    with pytest.raises(VaultRefused, match="400"):
        await vault.call("POST", f"{ENV.kv}/data/{path}", {"data": {"size": 1}})
    assert await vault.kv_version(ENV.kv, path) == 0
    await vault.kv_put(ENV.kv, path, {"size": 1}, cas=0)
    await operator.call("DELETE", f"{ENV.kv}/data/{path}")
    assert await vault.kv_get(ENV.kv, path) is None, "as if it had never been there"
    with pytest.raises(VersionMoved):
        await vault.kv_put(ENV.kv, path, {"size": 2}, cas=0)
    assert await vault.kv_version(ENV.kv, path) == 1
    for attempt in (("DELETE", f"{ENV.kv}/data/{path}", None), ("POST", f"{ENV.kv}/config", {"cas_required": False})):
        with pytest.raises(VaultRefused, match="403"):
            await vault.call(*attempt)
    vault.close()
    operator.close()


async def test_a_batch_is_signed_by_the_version_that_stands_beside_it(provisioned: Provisioned) -> None:
    vault = await provisioned.service("audit")
    messages = [b"one\n", b"two\n", b""]
    answers = await vault.transit_sign_batch(ENV.transit, ENV.key("log"), messages, 1)
    public = await vault.transit_public_keys(ENV.transit, ENV.key("log"))
    for message, answer in zip(messages[:2], answers[:2], strict=True):
        assert answer is not None
        signature, version = answer
        assert version == 1
        assert ed25519.verify(public[1], message, signature)
    vault.close()


async def test_no_token_is_taken_from_the_environment(
    provisioned: Provisioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await provisioned.operator()
    token = (await operator.call("POST", "auth/token/create", {"policies": ["operator"]}))["auth"]["client_token"]
    monkeypatch.setenv("VAULT_TOKEN", token)
    bare = Vault.with_token(provisioned.server.address, "", ca_file=provisioned.server.ca_file)
    with pytest.raises(VaultRefused):
        await bare.call("GET", "sys/mounts")
    bare.close()
    operator.close()


async def test_a_path_that_climbs_never_leaves_the_process(provisioned: Provisioned) -> None:
    vault = await provisioned.service("executor")
    with pytest.raises(BadName):
        await vault.kv_get(ENV.kv, "acme/../evil/db")
    vault.close()


async def test_a_login_that_vault_forgot_is_replaced_once(provisioned: Provisioned) -> None:
    operator = await provisioned.operator()
    vault = await provisioned.service("policy")
    accessor = (await vault.call("GET", "auth/token/lookup-self"))["data"]["accessor"]
    await operator.call("POST", "auth/token/revoke-accessor", {"accessor": accessor})
    await asyncio.sleep(0.1)
    signature, _ = await vault.transit_sign(ENV.transit, ENV.key("decision"), b"x")
    assert len(signature) == 64
    vault.close()
    operator.close()


async def test_an_unreachable_vault_is_unavailable_and_says_nothing_else() -> None:
    with pytest.raises(VaultUnavailable) as caught:
        await Vault.login_approle("https://127.0.0.1:1", "role", "planted-secret")
    assert "planted" not in str(caught.value) + repr(caught.value)


async def test_the_services_own_database_password_comes_from_its_static_role(provisioned: Provisioned) -> None:
    import asyncpg

    vault = await provisioned.service("audit")
    user, password = await vault.static_credentials(ENV.service_databases, "audit")
    connection = await asyncpg.connect(provisioned.cluster.dsn("postgres", user, password))
    assert await connection.fetchval("SELECT current_user") == "counterseal_audit"
    await connection.close()
    with pytest.raises(VaultRefused):
        await vault.static_credentials(ENV.service_databases, "policy")
    vault.close()
