"""Two people: the first call changes nothing and answers a digest, the same call by another person does it.

The digest is over the request's content, so what the second person confirms is exactly what the first one asked.
"""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.canonical import JsonObject, digest_of
from counterseal.errors import RoleRequired, SecondPersonRequired
from counterseal.identity import Caller
from counterseal_audit.database import connection

WINDOW_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits for its second person until `expire_time_ms`."""

    request_digest: str
    expire_time_ms: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A request that two people made: the subjects of both, in order."""

    people: tuple[str, str]


class SecondPerson:
    """Admin requests that wait, in `admin_request`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def confirm(self, caller: Caller, content: JsonObject, echoed: str) -> Waiting | Confirmed:
        """Record the first call, or confirm the second and consume it.

        content: everything that the request says. echoed: the digest that the call carries, empty on a first call.
        What follows a confirmation must be safe to ask for again: a crash behind it needs both people anew.
        Raises SecondPersonRequired when the echo is of another or lapsed request, or comes from the same person.
        """
        wanted = digest_of("admin-request", {**content, "tenant": caller.tenant, "environment": caller.environment})
        if not echoed:
            return Waiting(wanted, await self._first(caller, wanted))
        if echoed != wanted:
            raise SecondPersonRequired("the digest is not that of this request; make the first call again")
        async with connection(self._engine) as raw, raw.transaction():
            row = await raw.fetchrow(
                "SELECT person_id, subject FROM admin_request"
                " WHERE tenant = $1 AND request_digest = $2 AND expire_time > clock_timestamp() FOR UPDATE",
                caller.tenant,
                wanted,
            )
            if row is None:
                raise SecondPersonRequired("no such request waits; make the first call again")
            if row["person_id"] == _person(caller):
                raise SecondPersonRequired("you made the first call yourself; another person must confirm it")
            await raw.execute(
                "DELETE FROM admin_request WHERE tenant = $1 AND request_digest = $2", caller.tenant, wanted
            )
        return Confirmed((str(row["subject"]), caller.subject))

    async def _first(self, caller: Caller, wanted: str) -> int:
        """Record who asked first; a repeated first call changes nothing while the earlier one still waits."""
        async with connection(self._engine) as raw:
            return int(
                await raw.fetchval(
                    "INSERT INTO admin_request AS r (tenant, request_digest, person_id, subject, expire_time)"
                    " VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))"
                    " ON CONFLICT (tenant, request_digest) DO UPDATE SET (person_id, subject, expire_time) ="
                    " (SELECT k.person_id, k.subject, k.expire_time FROM (VALUES (1, r.person_id, r.subject,"
                    " r.expire_time), (2, excluded.person_id, excluded.subject, excluded.expire_time))"
                    " AS k(n, person_id, subject, expire_time) WHERE k.expire_time > clock_timestamp() ORDER BY n"
                    " LIMIT 1)"
                    " RETURNING (extract(epoch FROM expire_time) * 1000)::bigint",
                    caller.tenant,
                    wanted,
                    _person(caller),
                    caller.subject,
                    float(WINDOW_SECONDS),
                )
            )


def person_with(caller: Caller, roles: frozenset[str]) -> Caller:
    """Return the caller if it is a person, not an agent for one, with one of `roles`. Raises RoleRequired."""
    if caller.chain or not caller.roles & roles:
        raise RoleRequired(f"needs one of the roles {', '.join(sorted(roles))}")
    return caller


def _person(caller: Caller) -> str:
    """Return who the caller is, across accounts."""
    return caller.person_id or caller.subject
