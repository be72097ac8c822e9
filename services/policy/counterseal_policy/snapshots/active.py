"""The active policy of each tenant, compiled aside and swapped as one reference.

The database says what is active; compiled sets are cached by content address, so a replica that did not activate sees
the change with its next decision. A set that does not compile leaves the old one serving.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.errors import PolicyUnavailable
from counterseal_policy.database import EVERY_TENANT, transaction
from counterseal_policy.rules.compile import Policy, compile_policy, parse_files
from counterseal_policy.rules.condition import ConditionEngine
from counterseal_policy.rules.errors import PolicyFileError
from counterseal_policy.snapshots import store
from counterseal_policy.snapshots.engine import PLATFORM, effective_id

MAX_CACHED = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ActivePolicy:
    """A tenant's compiled policy and the id under which it decides."""

    snapshot_id: str
    policy: Policy


class ActivePolicies:
    """Compiled policies by effective id, at most 64 of them."""

    def __init__(self, engine: AsyncEngine, rules: ConditionEngine) -> None:
        self._engine = engine
        self._rules = rules
        self._compiled: OrderedDict[str, ActivePolicy] = OrderedDict()
        self._serving: dict[str, ActivePolicy] = {}
        self._compiling = asyncio.Lock()

    async def get(self, tenant: str) -> ActivePolicy | None:
        """Return the tenant's policy, None when nothing is active. Raises PolicyUnavailable when it cannot be made."""
        async with transaction(self._engine, tenant) as connection:
            active = await store.active(connection, tenant)
        if tenant not in active and PLATFORM not in active:
            return None
        platform, own = active.get(PLATFORM), active.get(tenant)
        wanted = effective_id(platform.snapshot_id if platform else None, own.snapshot_id if own else None)
        found = self._compiled.get(wanted)
        if found is None:
            async with self._compiling:
                found = self._compiled.get(wanted) or await self._compile(tenant, wanted, platform, own)
        self._compiled.move_to_end(wanted)
        self._serving[tenant] = found
        return found

    async def _compile(
        self, tenant: str, wanted: str, platform: store.Active | None, own: store.Active | None
    ) -> ActivePolicy:
        try:
            made = ActivePolicy(wanted, await self.compile(platform, own))
        except PolicyFileError as error:
            _log.critical("the active snapshot does not compile", extra={"snapshot_id": wanted, "why": error.message})
            if tenant not in self._serving:
                raise PolicyUnavailable("the active policy cannot be used") from None
            made = self._serving[tenant]
        self._compiled[wanted] = made
        while len(self._compiled) > MAX_CACHED:
            self._compiled.popitem(last=False)
        return made

    async def compile(self, platform: store.Active | None, own: store.Active | None) -> Policy:
        """Compile the platform's part of one snapshot and the tenant's part of another. Raises PolicyFileError."""
        texts: list[tuple[str, bytes]] = []
        async with transaction(self._engine, EVERY_TENANT) as connection:
            for scope, active in (("platform", platform), ("tenant", own)):
                if active is not None:
                    texts += await self._texts(connection, active, scope)
        policy = compile_policy(parse_files(texts), self._rules)
        if policy.errors:
            raise PolicyFileError(policy.errors)
        return policy

    async def _texts(self, connection: AsyncConnection, active: store.Active, scope: str) -> list[tuple[str, bytes]]:
        row = await store.read(connection, active.tenant, active.snapshot_id)
        digests = row.documents if row is not None else ()
        found = await store.documents(connection, active.tenant, digests)
        return [(document.file_name, document.source) for document in found if document.scope == scope]
