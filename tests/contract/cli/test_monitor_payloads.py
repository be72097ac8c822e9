"""`audit monitor --payloads` and the service: what is missing alarms, what is under way does not, silence is no yes."""

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from counterseal.cli import exits, payload_check
from counterseal.cli.audit_monitor import Payloads
from counterseal.cli.payload_check import Checked
from counterseal.client.connection import Connection
from counterseal.client.person import Person
from counterseal.client.profile import Profile
from counterseal_audit.retention import service
from support.audit import AuditServer, append_one, audit_server
from support.entries import changed
from support.erasing import order
from support.payloads import admin, asked, report
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.shapes import DOMAIN, ENVIRONMENT, spiffe


class OneToken:
    """Tokens of somebody who has one."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def get(self) -> str:
        return self._token


class Watched:
    """A monitor's questions to a server, each from a thread and loop of its own, as the command asks them."""

    def __init__(self, server: AuditServer, folder: Path, origin: str, *, minutes: float = 0.0) -> None:
        identity = server.authority.issue(uris=[spiffe("cli")])
        for name, content in (("cert", identity.cert_pem), ("key", identity.key_pem), ("ca", identity.ca_pem)):
            (folder / f"{name}.pem").write_bytes(content)
        files = (folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        services = {"audit": f"127.0.0.1:{server.server.port}"}
        self.profile = Profile(ENVIRONMENT, DOMAIN, spiffe("cli"), "cli", *files, services)
        self.token = OneToken(server.token("cli"))
        self.asked = 0
        self._payloads = Payloads(argparse.Namespace(payload_minutes=minutes), origin, self.as_person)

    def as_person(self, _args: Any, work: Callable[[Person], Coroutine[Any, Any, int]]) -> int:
        self.asked += 1

        async def run() -> int:
            async with Connection(self.profile) as connection:
                return await work(Person(connection, self.token))  # type: ignore[arg-type]

        return asyncio.run(run())

    async def look(self) -> Checked:
        return await asyncio.to_thread(self._payloads.look)


@requirement("payload:undeclared-loss-is-found")
async def test_a_monitor_alarms_on_what_is_missing_and_not_on_what_is_declared(
    fresh_database: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = fresh_database("audit")
    async with audit_server(database) as server:
        await append_one(server.parts, asked("user:ana", "secret"))
        await append_one(server.parts, asked("user:bob", "secret too"))
        await signed(server)
        watched = Watched(server, tmp_path, (await server.parts.log()).origin)
        seen = await watched.look()
        assert (seen.verdict, seen.findings, seen.counts["intact_count"]) == ("verified", (), 4)

        job = (await order(server.parts)).job_id
        await server.parts.retention.eraser.advance(job)
        seen = await watched.look()
        assert (seen.verdict, payload_check.EXITS[seen.verdict]) == ("incomplete", exits.REFUSED)
        assert "executor, policy" in seen.findings[0]["message"], "whom the erasure waits for"

        await admin(database, "DELETE FROM ledger_payload WHERE ord = 0 AND idx = 2")
        monkeypatch.setattr(service, "MAX_FINDINGS", 1)
        seen = await watched.look()
        assert (seen.verdict, payload_check.EXITS[seen.verdict]) == ("tampered", exits.TAMPERED)
        assert {one["kind"] for one in seen.findings} == {"tampered", "incomplete"}, "neither hides the other"

        await report(server.parts, job)
        await server.parts.retention.eraser.advance(job)
        assert [one["kind"] for one in (await watched.look()).findings] == ["tampered"]


async def test_what_was_not_checked_is_never_a_good_verdict(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await append_one(server.parts, asked("user:ana", "secret"))
        await signed(server)
        origin = (await server.parts.log()).origin
        other = await Watched(server, tmp_path, "counterseal.test/another").look()
        assert (other.verdict, other.counts) == ("incomplete", {})
        assert f"the login reads the log {origin}" in other.findings[0]["message"]
        stranger = Watched(server, tmp_path, origin)
        stranger.token = OneToken(server.token("cli", scope=()))
        assert "ROLE_REQUIRED" in (await stranger.look()).findings[0]["message"]
        watched = Watched(server, tmp_path, origin)
        watched.profile = Profile(**{**fields(watched.profile), "services": {"audit": "127.0.0.1:1"}})
        silent = await watched.look()
        assert (silent.verdict, silent.counts) == ("incomplete", {})
        assert "the service did not check: " in silent.findings[0]["message"]


async def test_an_answer_is_kept_for_its_time_and_silence_is_not(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await append_one(server.parts, changed())
        await signed(server)
        watched = Watched(server, tmp_path, (await server.parts.log()).origin, minutes=60)
        good, watched.token = watched.token, OneToken("no.such.token")
        assert (await watched.look()).verdict == "incomplete"
        watched.token = good
        assert [(await watched.look()).verdict for _ in range(3)] == ["verified"] * 3
        assert watched.asked == 2, "once in vain, once for all three"


def fields(profile: Profile) -> dict[str, Any]:
    return {name: getattr(profile, name) for name in Profile.__slots__}


async def signed(server: AuditServer) -> None:
    log = await server.parts.log()
    async with asyncio.timeout(20):
        while await server.parts.checkpoints.latest(log.log_id) is None:
            await asyncio.sleep(0.05)
