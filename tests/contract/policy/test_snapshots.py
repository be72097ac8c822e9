"""Snapshots: content-addressed, tested before they are stored, activated by two people, never half."""

import pytest
from sqlalchemy.exc import DBAPIError

from counterseal.api.policy.v1 import policy_admin_pb2 as pb
from counterseal.errors import InputInvalid, NotFound, RoleRequired, SecondPersonRequired
from counterseal.ledger import entry as entries
from counterseal_policy.snapshots.engine import effective_id
from support.policy_service import DOCUMENTS, Service, agent, human, plan, policy_service
from support.postgres import FreshDatabase
from support.requirements import requirement

AUTHOR = ("policy_author",)
OTHER = {**DOCUMENTS, "rules.yaml": DOCUMENTS["rules.yaml"].replace(b"2000", b"3000")}


async def activate(service: Service, name: str, snapshot_id: str, echo: str = "") -> pb.ActivateSnapshotResponse:
    request = pb.ActivateSnapshotRequest(snapshot_id=snapshot_id)
    request.second_person.request_digest = echo
    answer = await service.call(human(name, *AUTHOR), service.admin.ActivateSnapshot, request)
    assert isinstance(answer, pb.ActivateSnapshotResponse)
    return answer


async def test_an_empty_environment_is_bootstrapped_by_one_person_once(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database, active=False) as service:
        first, second = await service.publish(), await service.publish(OTHER)
        assert (await activate(service, "ida", first)).snapshot.active
        entry = entries.parse(service.ledger.log[-1]).document
        assert (entry["type"], entry["data"]["bootstrap"]) == ("policy.activated", True)
        assert (await activate(service, "ida", second)).second_person.request_digest
        assert (await service.authorize(plan(2500), "COMMIT")).evaluation.outcome == "REQUIRE_APPROVAL"


async def test_a_change_needs_a_second_person_who_echoes_the_digest(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        name = await service.publish(OTHER)
        asked = (await activate(service, "ida", name)).second_person.request_digest
        with pytest.raises(SecondPersonRequired):
            await activate(service, "ida", name, asked)
        with pytest.raises(SecondPersonRequired):
            await activate(service, "pat", name, "sha256:" + "0" * 64)
        assert not (await activate(service, "pat", name)).HasField("snapshot"), "no echo: still a first call"
        assert (await activate(service, "pat", name, asked)).snapshot.active
        assert entries.parse(service.ledger.log[-1]).document["data"]["bootstrap"] is False
        assert (await service.authorize(plan(2500), "COMMIT")).evaluation.outcome == "ALLOW"
        assert service.ledger.requests[-2].event.policy_activated.activated_by == ["user:ida", "user:pat"]


async def test_a_request_is_confirmed_once_and_only_within_its_hour(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        first, other = await service.publish(), await service.publish(OTHER)
        asked = (await activate(service, "ida", other)).second_person.request_digest
        await service.sql("UPDATE admin_request SET expire_time = clock_timestamp() - interval '1 s'")
        with pytest.raises(SecondPersonRequired):
            await activate(service, "pat", other, asked)
        asked = (await activate(service, "ida", other)).second_person.request_digest
        await activate(service, "pat", other, asked)
        back = (await activate(service, "pat", first)).second_person.request_digest
        await activate(service, "ida", first, back)
        with pytest.raises(SecondPersonRequired):
            await activate(service, "pat", other, asked)


async def test_two_accounts_of_one_person_are_one_person(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        request = pb.ActivateSnapshotRequest(snapshot_id=await service.publish(OTHER))
        answer = await service.call(human("ida", *AUTHOR), service.admin.ActivateSnapshot, request)
        request.second_person.CopyFrom(answer.second_person)
        twin = human("ida2", *AUTHOR, person_id="p-ida")
        with pytest.raises(SecondPersonRequired):
            await service.call(twin, service.admin.ActivateSnapshot, request)


async def test_the_same_documents_are_the_same_snapshot(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        before = len(service.ledger.log)
        renamed = {f"other-{name}": text + b"# a comment\n" for name, text in reversed(DOCUMENTS.items())}
        assert await service.publish() == await service.publish(renamed)
        assert len(service.ledger.log) == before
        answer = await activate(service, "ida", await service.publish())
        assert answer.snapshot.active
        assert not answer.HasField("second_person")


@pytest.mark.parametrize(
    "change",
    [
        {"rules.yaml": DOCUMENTS["rules.yaml"].replace(b"when:", b"wen:")},
        {"rules.yaml": DOCUMENTS["rules.yaml"].replace(b"num.amount_minor <= 2000", b"num.amount")},
        {"tools.yaml": DOCUMENTS["tools.yaml"].replace(b"sha256:", b"sha256:..")[:-1]},
        {
            "rules.yaml": DOCUMENTS["rules.yaml"]
            + b"limits: [{id: a, key: [tenant], amount: action.num.amount_minor, unit: action.text.owner,"
            b" window: {fixed: 1d}, max: {EUR: 1}}]\n"
        },
        {"extra.yaml": DOCUMENTS["rules.yaml"]},
        {
            "tests.yaml": b"apiVersion: counterseal/policy.v1\nkind: TestSuite\nmetadata: {name: t, scope: tenant}\n"
            b"base: {now: 2026-11-22T10:00:00Z, scope: {tenant: a, environment: prod}, subject: {id: 'user:a'},"
            b" agent: {id: b, stage: 3}, step: {tool: shop.refund@1.0.0, args: {amount_minor: 1}}}\n"
            b"cases: [{name: red, outcome: ALLOW}]\n"
        },
    ],
    ids=["unknown field", "does not compile", "half a digest", "limit", "twice", "red suite"],
)
async def test_what_cannot_be_trusted_is_not_published(fresh_database: FreshDatabase, change: dict[str, bytes]) -> None:
    async with policy_service(fresh_database) as service:
        before = await service.sql("SELECT snapshot_id FROM snapshot")
        with pytest.raises(InputInvalid):
            await service.publish({**DOCUMENTS, **change})
        assert await service.sql("SELECT snapshot_id FROM snapshot") == before


async def test_only_authors_publish_and_only_platform_authors_change_the_platform(
    fresh_database: FreshDatabase,
) -> None:
    async with policy_service(fresh_database) as service:
        for caller in (human("omar", "operator"), agent(roles=frozenset(AUTHOR))):
            with pytest.raises(RoleRequired):
                await service.publish(caller=caller)
        floor = DOCUMENTS["floor.yaml"].replace(b"class_level <= 4", b"class_level <= 1")
        with pytest.raises(RoleRequired):
            await service.publish({**DOCUMENTS, "floor.yaml": floor})
        await service.publish({**DOCUMENTS, "floor.yaml": floor}, human("root", "platform_author"))


@requirement("tenant:isolated")
async def test_another_tenants_snapshot_does_not_exist_for_me(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        name = await service.publish()
        stranger = human("eve", *AUTHOR, tenant="globex")
        for method, request in (
            (service.admin.GetSnapshot, pb.GetSnapshotRequest(snapshot_id=name)),
            (service.admin.GetSnapshot, pb.GetSnapshotRequest(snapshot_id="active")),
            (service.admin.ActivateSnapshot, pb.ActivateSnapshotRequest(snapshot_id=name)),
        ):
            with pytest.raises(NotFound):
                await service.call(stranger, method, request)
        listed = await service.call(stranger, service.admin.ListSnapshots, pb.ListSnapshotsRequest())
        assert list(listed.snapshots) == []


async def test_snapshots_are_listed_in_pages_and_returned_as_they_were_sent(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        names = {await service.publish(), await service.publish(OTHER)}
        reader = human("ida", *AUTHOR)
        seen: list[str] = []
        token = ""
        while True:
            page = await service.call(
                reader, service.admin.ListSnapshots, pb.ListSnapshotsRequest(page_size=1, page_token=token)
            )
            seen += [item.snapshot_id for item in page.snapshots]
            token = page.next_page_token
            if not token:
                break
        assert (len(seen), set(seen)) == (2, names)
        got = await service.call(reader, service.admin.GetSnapshot, pb.GetSnapshotRequest(snapshot_id="active"))
        assert {item.name: item.text for item in got.snapshot.documents} == DOCUMENTS
        with pytest.raises(InputInvalid):
            await service.call(reader, service.admin.ListSnapshots, pb.ListSnapshotsRequest(page_token="junk"))


async def test_another_replica_serves_the_new_snapshot_with_its_next_decision(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database, replicas=2) as (one, two):
        assert (await two.authorize(plan(2500), "COMMIT")).evaluation.outcome == "REQUIRE_APPROVAL"
        name = await one.publish(OTHER)
        asked = (await activate(one, "ida", name)).second_person.request_digest
        await activate(two, "pat", name, asked)
        answer = await one.authorize(plan(2500, nonce="1f" * 16), "COMMIT")
        assert answer.evaluation.outcome == "ALLOW"
        assert answer.snapshot_id == effective_id(name, name)


async def test_stored_policy_cannot_be_changed_by_the_service(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        for table in ("policy_document", "snapshot", "activation", "decision"):
            for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"UPDATE {table} SET tenant = 'x'"):
                with pytest.raises(DBAPIError, match="permission denied"):
                    await service.sql(statement)
