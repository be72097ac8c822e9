"""Which log a call is about: people read their own tenant's, services name the one they mean; shards count its logs."""

from dataclasses import dataclass
from typing import Any

from counterseal.errors import InputInvalid, NotFound, RoleRequired
from counterseal.identity import current_caller
from counterseal_audit.logs.store import Log, LogStore

READ_SCOPE = "audit.read"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A log, and where to begin in it. next_shard: the log behind it, which means that it takes no more entries.

    None: it is the newest, or the request named no shard and so means no other log.
    """

    log: Log
    start: int
    next_shard: int | None = None


@dataclass(frozen=True, slots=True)
class Choosing:
    """The logs of one environment."""

    logs: LogStore
    environment: str

    def tenant(self, tenant: str) -> str:
        """Return whose logs the caller may read. Raises RoleRequired, InputInvalid."""
        caller = current_caller()
        if caller.token is not None:
            if not caller.peer_kind.startswith("svc/") and READ_SCOPE not in caller.scope:
                raise RoleRequired("the token lacks the scope audit.read")
            return caller.tenant  # the interceptor has refused a request that names another
        if not tenant:
            raise InputInvalid("tenant: required without a token")
        return tenant

    async def log(self, tenant: str, shard: int | None = None) -> Log:
        """Return one log of the tenant that is meant, without a shard the newest. Raises NotFound."""
        found = await self.logs.find(self.tenant(tenant), self.environment, shard)
        if found is None:
            raise NotFound("no such log")
        return found

    async def shards(self, tenant: str) -> list[Log]:
        """Return all logs of the tenant that is meant, oldest first. Raises NotFound."""
        shards = await self.logs.shards(self.tenant(tenant), self.environment)
        if not shards:
            raise NotFound("no such log")
        return shards

    async def onward(self, tenant: str, shard: int | None, start: int) -> Chosen:
        """Return the log to read from index `start` on, and what follows it.

        A log that a restored database lost gives way to the one behind it, from that one's first entry: whoever follows
        the logs of a tenant misses none. Raises NotFound.
        """
        if shard is None:
            return Chosen(await self.log(tenant), start)
        found = await self.logs.onward(self.tenant(tenant), self.environment, shard)
        if not found:
            raise NotFound("no such log")
        log, *behind = found
        return Chosen(log, start if log.shard == shard else 0, behind[0].shard if behind else None)


def shard_of(request: Any) -> int | None:
    """Return the shard that a request names, None for none. Raises InputInvalid."""
    if not request.HasField("shard"):
        return None
    if request.shard < 0:
        raise InputInvalid("shard: must not be negative")
    return int(request.shard)
