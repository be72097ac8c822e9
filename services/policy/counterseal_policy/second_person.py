"""Two people: the first call changes nothing and answers a digest, the same call by another person does it.

The digest is over the request's content, so what the second person confirms is exactly what the first one asked.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.canonical import JsonObject, digest_of
from counterseal.errors import SecondPersonRequired
from counterseal.identity import Caller

WINDOW_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits for its second person until `expire_time_ms`."""

    request_digest: str
    expire_time_ms: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A request that two people made; `first` is the subject of the first of them."""

    first: str


async def confirm(connection: AsyncConnection, caller: Caller, content: JsonObject, echoed: str) -> Waiting | Confirmed:
    """Record the first call, or confirm the second and consume it, in the caller's transaction.

    content: everything that the request says. echoed: the digest that the call carries, empty on a first call.
    Raises SecondPersonRequired when the echo is of another or lapsed request, or comes from the same person.
    """
    wanted = digest_of("admin-request", {**content, "tenant": caller.tenant, "environment": caller.environment})
    names = {"t": caller.tenant, "d": wanted}
    if not echoed:
        return await _first(connection, caller, wanted)
    row = (
        await connection.execute(
            sa.text(
                "SELECT person_id, subject FROM admin_request"
                " WHERE tenant = :t AND request_digest = :d AND expire_time > clock_timestamp() FOR UPDATE"
            ),
            names,
        )
    ).one_or_none()
    if row is None or echoed != wanted:
        raise SecondPersonRequired("the digest is not that of a request that waits; make the first call again")
    if row.person_id == person(caller):
        raise SecondPersonRequired("you made the first call yourself; another person must confirm it")
    await connection.execute(sa.text("DELETE FROM admin_request WHERE tenant = :t AND request_digest = :d"), names)
    return Confirmed(str(row.subject))


def person(caller: Caller) -> str:
    """Return who the caller is, across accounts."""
    return caller.person_id or caller.subject


async def _first(connection: AsyncConnection, caller: Caller, wanted: str) -> Waiting:
    """Record who asked first; a repeated first call changes nothing while the earlier one still waits."""
    row = (
        await connection.execute(
            sa.text(
                "INSERT INTO admin_request AS r (tenant, request_digest, person_id, subject, expire_time)"
                f" VALUES (:t, :d, :p, :s, clock_timestamp() + interval '{WINDOW_MS} ms')"
                " ON CONFLICT (tenant, request_digest) DO UPDATE SET"
                " person_id = CASE WHEN r.expire_time > clock_timestamp() THEN r.person_id ELSE excluded.person_id END,"
                " subject = CASE WHEN r.expire_time > clock_timestamp() THEN r.subject ELSE excluded.subject END,"
                " expire_time = CASE WHEN r.expire_time > clock_timestamp() THEN r.expire_time"
                " ELSE excluded.expire_time END"
                " RETURNING (extract(epoch FROM expire_time) * 1000)::bigint AS expire_ms"
            ),
            {"t": caller.tenant, "d": wanted, "p": person(caller), "s": caller.subject},
        )
    ).one()
    return Waiting(wanted, int(row.expire_ms))
