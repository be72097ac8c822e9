"""ToolService: the registry over the wire."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.api.common.v1 import containment_pb2
from counterseal.api.executor.v1 import tool_pb2, tool_pb2_grpc
from counterseal.canonical import parse_strict
from counterseal.documents.tool import REFERENCE, ToolDescriptor, build_tool
from counterseal.errors import InputInvalid, NotFound, RoleRequired, SecondPersonRequired, WrongState
from counterseal.identity import Caller, current_caller
from counterseal.rpc import paging
from counterseal_executor import database as db
from counterseal_executor.config import ExecutorConfig
from counterseal_executor.connectors.base import Connector
from counterseal_executor.events import Event, Header, build_entry
from counterseal_executor.plans.unit import Maker
from counterseal_executor.restore.check import RestoreCheck
from counterseal_executor.tools import engine, store
from counterseal_executor.tools.convert import to_wire

MAX_TOOLS = 64
SECOND_PERSON_MS = 3_600_000
REGISTRARS = frozenset({"operator", "policy_author"})
"""Roles that may register and retire tools."""


class ToolService(tool_pb2_grpc.ToolServiceServicer):
    """Registers, shows and retires tools of the caller's tenant."""

    def __init__(
        self,
        engine_: AsyncEngine,
        maker: Maker,
        config: ExecutorConfig,
        connectors: Mapping[str, Connector],
        restore: RestoreCheck,
    ) -> None:
        self._engine = engine_
        self._maker = maker
        self._config = config
        self._connectors = connectors
        self._restore = restore

    async def RegisterTool(  # noqa: N802 (the contract's name)
        self,
        request: tool_pb2.RegisterToolRequest,
        context: Any,  # noqa: ARG002
    ) -> tool_pb2.RegisterToolResponse:
        """Register all descriptors or none; a repeated registration of the same bytes changes nothing."""
        caller = _registrar()
        await self._restore.require(caller.tenant)
        if not 1 <= len(request.descriptors) <= MAX_TOOLS:
            raise InputInvalid(f"between 1 and {MAX_TOOLS} descriptors are registered at once", pointer="/descriptors")
        tools = [self._read(body) for body in request.descriptors]
        if len({tool.reference for tool in tools}) != len(tools):
            raise InputInvalid("a tool is named twice", pointer="/descriptors")
        person = caller.person_id or caller.subject
        agreed = engine.registration_digest([tool.digest for tool in tools], caller.tenant, self._maker.environment)
        echoed = request.second_person.request_digest if request.HasField("second_person") else ""
        if echoed and echoed != agreed:
            raise SecondPersonRequired("the echoed request digest is not that of these descriptors")
        async with db.transaction(self._engine, caller.tenant) as conn:
            now = self._maker.clock()
            bootstrap = await store.lock_registry(conn, caller.tenant)
            known = [await store.get(conn, caller.tenant, tool.reference) for tool in tools]
            for tool, old in zip(tools, known, strict=True):
                if old is not None and old.descriptor.digest != tool.digest:
                    raise WrongState(
                        f"{tool.reference} has another digest here; tools are never edited, take a new version",
                        tool=tool.reference,
                        registered=old.descriptor.digest,
                    )
            fresh = [tool for tool, old in zip(tools, known, strict=True) if old is None]
            people = [person]
            if fresh and not bootstrap and self._config.needs_two_people(self._maker.environment):
                first = await store.first_person(conn, caller.tenant, agreed, now)
                if first is None or first == person or not echoed:
                    expire = now + SECOND_PERSON_MS
                    await store.remember_request(conn, caller.tenant, agreed, person, expire, now)
                    return _second_person(agreed, expire)
                people = [first, person]
                await store.forget_request(conn, caller.tenant, agreed)
            for tool in fresh:
                await store.insert(conn, caller.tenant, tool, people, now)
            await self._maker.outbox.put(
                conn, *(self._entry(t, people, caller, now, bootstrap=bootstrap) for t in fresh)
            )
            registered = [await store.get(conn, caller.tenant, tool.reference) for tool in tools]
        self._maker.outbox.wake()
        return tool_pb2.RegisterToolResponse(
            tools=[to_wire(tool, redacted=False) for tool in registered if tool is not None]
        )

    async def GetTool(  # noqa: N802 (the contract's name)
        self,
        request: tool_pb2.GetToolRequest,
        context: Any,  # noqa: ARG002
    ) -> tool_pb2.GetToolResponse:
        """Return one tool."""
        caller = current_caller()
        if not REFERENCE.fullmatch(request.tool):
            raise InputInvalid("tool must be name@version", pointer="/tool")
        async with db.transaction(self._engine, caller.tenant) as conn:
            tool = await store.get(conn, caller.tenant, request.tool)
        if tool is None:
            raise NotFound
        return tool_pb2.GetToolResponse(tool=to_wire(tool, redacted=caller.agent is not None))

    async def ListTools(  # noqa: N802 (the contract's name)
        self,
        request: tool_pb2.ListToolsRequest,
        context: Any,  # noqa: ARG002
    ) -> tool_pb2.ListToolsResponse:
        """Return the tenant's tools by name."""
        caller = current_caller()
        most = paging.size(request.page_size)
        after = paging.read(request, caller.tenant, REFERENCE)
        async with db.transaction(self._engine, caller.tenant) as conn:
            found = await store.page(conn, caller.tenant, after, most + 1)
        more = found[most - 1].descriptor.reference if len(found) > most else ""
        return tool_pb2.ListToolsResponse(
            tools=[to_wire(tool, redacted=caller.agent is not None) for tool in found[:most]],
            next_page_token=paging.make(more, request, caller.tenant) if more else "",
        )

    async def RetireTool(  # noqa: N802 (the contract's name)
        self,
        request: tool_pb2.RetireToolRequest,
        context: Any,  # noqa: ARG002
    ) -> tool_pb2.RetireToolResponse:
        """Retire a tool: plans that name it are refused at their commit."""
        caller = _registrar()
        await self._restore.require(caller.tenant)
        if not REFERENCE.fullmatch(request.tool):
            raise InputInvalid("tool must be name@version", pointer="/tool")
        person = caller.person_id or caller.subject
        async with db.transaction(self._engine, caller.tenant) as conn:
            now = self._maker.clock()
            changed = await store.retire(conn, caller.tenant, request.tool, now)
            tool = await store.get(conn, caller.tenant, request.tool)
            if tool is None:
                raise NotFound
            if changed:
                data = {"tool": _names(tool.descriptor), "retired_by": person}
                event = Event("tool.retired", data)
                await self._maker.outbox.put(conn, self._build(event, caller, now))
        self._maker.outbox.wake()
        return tool_pb2.RetireToolResponse(tool=to_wire(tool, redacted=False))

    def _read(self, body: bytes) -> ToolDescriptor:
        tool = build_tool(parse_strict(body))
        engine.check_targets(tool, {alias: target.kind for alias, target in self._config.targets.items()})
        self._connectors[tool.connector.kind].check(tool)
        return tool

    def _entry(
        self, tool: ToolDescriptor, people: list[str], caller: Caller, now: int, *, bootstrap: bool
    ) -> ledger_pb2.NewEntry:
        data = {"tool": _names(tool), "registered_by": people, "bootstrap": bootstrap}
        return self._build(Event("tool.registered", data, {"descriptor": tool.body.decode()}), caller, now)

    def _build(self, event: Event, caller: Caller, now: int) -> ledger_pb2.NewEntry:
        header = Header(caller.tenant, self._maker.environment, caller.request_id, caller.txn, caller.subject)
        return build_entry(event, header, self._maker.new_id(), now, 0, self._maker.randomness)


def _registrar() -> Caller:
    caller = current_caller()
    if caller.agent is not None or not caller.roles & REGISTRARS:
        raise RoleRequired("registering tools needs the role operator or policy_author")
    return caller


def _names(tool: ToolDescriptor) -> dict[str, str]:
    return {"name": tool.name, "version": tool.version, "digest": tool.digest}


def _second_person(request_digest: str, expire_ms: int) -> tool_pb2.RegisterToolResponse:
    person = containment_pb2.SecondPerson(request_digest=request_digest)
    person.expire_time.FromMilliseconds(expire_ms)
    return tool_pb2.RegisterToolResponse(second_person=person)
