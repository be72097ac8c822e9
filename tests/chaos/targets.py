"""What the targets of the two loads say of themselves: who wrote what and when. Nothing here asks a service.

The bank's tools list their effects themselves. The shop's tools know nothing of that, so the run puts a recorder into
its database: triggers that note each row's write in the transaction of the write, under the login that made it. What
was rolled back is therefore not in it, and what was committed is. Grants' logins can neither read nor change it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from examples.retail import catalogue

from chaos.history import Effect
from support import bank
from support.behind import Behind
from support.postgres import execute


class Target(Protocol):
    """One tenant's database that a load writes to. reading: references of the tools that have no effect."""

    alias: str
    tenant: str
    reading: frozenset[str]

    async def effects(self, behind: Behind) -> list[Effect]:
        """Return everything that grants' logins (or strangers) committed."""

    async def balances(self, behind: Behind) -> dict[str, int]:
        """Return account -> balance, as the effects move it."""


class Bank:
    """Accounts in cents, and the tools' own list of effects."""

    alias = bank.ALIAS
    tenant = bank.TENANT
    reading = frozenset(tool.reference for tool in bank.TOOLS.values() if tool.reads_only)

    async def effects(self, behind: Behind) -> list[Effect]:
        rows = await behind.sql(
            self.alias,
            "SELECT effect_key, attempt_id, account, amount_cents, login, "
            "floor(extract(epoch FROM statement_time) * 1000)::bigint AS time_ms FROM effects",
        )
        return [
            Effect(
                row["effect_key"],
                row["attempt_id"],
                row["time_ms"],
                row["time_ms"],
                row["login"],
                {row["account"]: int(row["amount_cents"])},
            )
            for row in rows
        ]

    async def balances(self, behind: Behind) -> dict[str, int]:
        rows = await behind.sql(self.alias, "SELECT id, balance_cents FROM accounts")
        return {row["id"]: int(row["balance_cents"]) for row in rows}


RECORDER = """
CREATE SCHEMA recorder;
CREATE TABLE recorder.written (
  login name NOT NULL,
  transaction_id xid8 NOT NULL,
  begin_time timestamptz NOT NULL,
  commit_time timestamptz NOT NULL,
  account text NOT NULL,
  moved integer NOT NULL
);
-- Runs as its owner, so that a login without any right on `recorder` is noted all the same.
CREATE FUNCTION recorder.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
  INSERT INTO recorder.written SELECT
    session_user, pg_current_xact_id(), transaction_timestamp(), clock_timestamp(),
    concat(TG_TABLE_NAME, ' ', coalesce(to_jsonb(NEW), to_jsonb(OLD)) ->> TG_ARGV[0]),
    coalesce((to_jsonb(NEW) ->> 'version')::int, 0) - coalesce((to_jsonb(OLD) ->> 'version')::int, 0);
  RETURN NULL;
END $$;
"""
TRIGGER = """
-- Deferred: it runs inside COMMIT, so that the time it notes is the commit's.
CREATE CONSTRAINT TRIGGER recorder AFTER INSERT OR UPDATE OR DELETE ON retail.{table}
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION recorder.note('{key}');
"""
NOTED = {"users": "user_id", "orders": "order_id", "products": "product_id", "variants": "item_id"}
_MS = "floor(extract(epoch FROM {}) * 1000)::bigint"


class Shop:
    """Users and orders of the retail workload. A row's balance is its `version`, which every tool raises by one.

    The runner puts rows back between tasks as the database's owner; that is recorded too, and taken out of the sums.
    """

    alias = catalogue.TARGET
    tenant = catalogue.TENANT
    reading = frozenset(tool.reference for tool in catalogue.descriptors() if tool.reads_only)

    async def record(self, behind: Behind) -> None:
        """Put the recorder in, once the shop is loaded."""
        await install(behind.running.targets[self.alias])

    async def effects(self, behind: Behind) -> list[Effect]:
        return transactions(await behind.sql(self.alias, WRITTEN))

    async def balances(self, behind: Behind) -> dict[str, int]:
        rows = await behind.sql(
            self.alias,
            "SELECT account, version - coalesce((SELECT sum(moved) FROM recorder.written w "
            "WHERE w.account = rows.account AND w.login = session_user), 0)::int AS balance FROM ("
            "SELECT concat('users ', user_id) AS account, version FROM retail.users UNION ALL "
            "SELECT concat('orders ', order_id), version FROM retail.orders) AS rows",
        )
        return {row["account"]: int(row["balance"]) for row in rows}


async def install(dsn: str) -> None:
    """Put the recorder into a shop's database, as its owner."""
    triggers = [TRIGGER.format(table=table, key=key) for table, key in NOTED.items()]
    await execute(dsn, RECORDER, *triggers)


WRITTEN = f"""SELECT login::text, transaction_id::text, account, sum(moved)::int AS moved,
 {_MS.format("min(begin_time)")} AS begin_ms, {_MS.format("max(commit_time)")} AS end_ms
 FROM recorder.written WHERE login <> session_user GROUP BY 1, 2, 3 ORDER BY 5"""
"""What everybody but the database's owner wrote, a row per transaction and account."""


def transactions(rows: Sequence[Mapping[str, Any]]) -> list[Effect]:
    """Return one effect per transaction, from rows of `WRITTEN`."""
    found: dict[tuple[str, str], Effect] = {}
    for row in rows:
        key = row["login"], row["transaction_id"]
        first = found.get(key)
        moves = {**(first.moves if first else {}), row["account"]: int(row["moved"])}
        end = max(first.end_ms if first else 0, row["end_ms"])
        found[key] = Effect(f"transaction {key[1]}", "", row["begin_ms"], end, key[0], moves)
    return list(found.values())
