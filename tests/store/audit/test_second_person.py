"""Requests that need two people: who may confirm what, and for how long."""

from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from counterseal.errors import RoleRequired, SecondPersonRequired
from counterseal.identity import Caller
from counterseal_audit.second_person import Confirmed, SecondPerson, Waiting, person_with
from support.postgres import FreshDatabase

ANA = Caller("spiffe://x/prod/cli", "cli", tenant="acme", environment="prod", subject="user:ana", person_id="ana")
OLGA = replace(ANA, subject="user:olga", person_id="olga")
CONTENT = {"method": "FreezeLog", "reason_code": "OPERATOR"}


async def test_only_another_person_confirms_exactly_what_was_asked(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    engine = create_async_engine(database.sqlalchemy_url)
    two = SecondPerson(engine)
    asked = await two.confirm(ANA, CONTENT, "")
    again = await two.confirm(OLGA, CONTENT, "")
    assert isinstance(asked, Waiting)
    assert again == asked, "a repeated first call changes nothing, whoever makes it"
    digest = asked.request_digest
    for caller, content, echoed in (
        (ANA, CONTENT, digest),
        (replace(ANA, subject="user:ana@other-issuer"), CONTENT, digest),
        (OLGA, {**CONTENT, "reason_code": "OTHER"}, digest),
        (replace(OLGA, tenant="globex"), CONTENT, digest),
        (OLGA, CONTENT, "sha256:" + "0" * 64),
    ):
        with pytest.raises(SecondPersonRequired):
            await two.confirm(caller, content, echoed)
    assert await two.confirm(OLGA, CONTENT, digest) == Confirmed(("user:ana", "user:olga"))
    with pytest.raises(SecondPersonRequired):
        await two.confirm(OLGA, CONTENT, digest)
    await engine.dispose()


async def test_a_request_lapses(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    engine = create_async_engine(database.sqlalchemy_url)
    two = SecondPerson(engine)
    asked = await two.confirm(ANA, CONTENT, "")
    assert isinstance(asked, Waiting)
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("UPDATE admin_request SET expire_time = clock_timestamp() - interval '1 second'")
    await admin.close()
    with pytest.raises(SecondPersonRequired):
        await two.confirm(OLGA, CONTENT, asked.request_digest)
    renewed = await two.confirm(OLGA, CONTENT, "")
    assert isinstance(renewed, Waiting)
    with pytest.raises(SecondPersonRequired, match="yourself"):
        await two.confirm(OLGA, CONTENT, renewed.request_digest)
    await engine.dispose()


def test_an_agent_acts_for_nobody_here() -> None:
    roles = frozenset({"ledger_admin"})
    assert person_with(replace(ANA, roles=roles), roles)
    for caller in (ANA, replace(ANA, roles=roles, chain=({"sub": "agent"},))):
        with pytest.raises(RoleRequired):
            person_with(caller, roles)
