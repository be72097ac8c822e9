"""The prepared stack: a second start repeats everything without harm, and `vault verify` agrees with it."""

import shutil
from pathlib import Path

import pytest

from counterseal.cli import main
from counterseal.embedded.layout import Agent, Running, Target, Wanted
from counterseal.embedded.stack import Stack
from counterseal.vault.settings import Action
from support.postgres import execute, open_directory

WANTED = Wanted(
    environment="staging",
    tenants=("acme", "globex"),
    agents={"refund-bot": Agent("user:olga", ("acme",))},
    users={"ana": ["refund_operator"]},
    targets=(
        Target(
            "shop",
            "acme",
            "shop",
            "CREATE TABLE orders(id int PRIMARY KEY)",
            {"shop": Action(rw=("SELECT, UPDATE ON TABLE orders",), ro=("SELECT ON TABLE orders",))},
        ),
    ),
    durable=False,
)


def verify(running: Running) -> int:
    home = running.data_dir / "openbao"
    options = {
        "--config": running.vault_settings_file,
        "--address": running.openbao.address,
        "--ca-file": running.openbao.ca_file,
        "--role-id-file": home / "operator-role-id",
        "--secret-id-file": home / "operator-secret-id",
    }
    return main(["vault", "verify", "--json", *(str(word) for pair in options.items() for word in pair)])


@pytest.mark.slow
async def test_the_whole_stack_starts_below_a_directory_that_is_closed_to_others() -> None:
    with open_directory("counterseal-closed-") as home:
        hidden = home / "root-home"
        hidden.mkdir(mode=0o700)
        stack = Stack(hidden / "dev", WANTED)
        try:
            running = await stack.start()
            await execute(running.targets["shop"], "INSERT INTO orders VALUES (1)")
        finally:
            await stack.stop()
            for marker in (hidden / "dev" / "postgres").glob("*.elsewhere"):
                shutil.rmtree(Path(marker.read_text().strip()).parent)


@pytest.mark.slow
async def test_a_warm_start_keeps_addresses_secrets_and_data() -> None:
    import asyncio

    with open_directory("counterseal-stack-") as home:
        first = await (stack := Stack(home / "dev", WANTED)).start()
        await execute(first.targets["shop"], "INSERT INTO orders VALUES (7)")
        secret = (home / "dev/secrets/policy/secret-id").read_text()
        await stack.stop()
        second = await (stack := Stack(home / "dev", WANTED)).start()
        try:
            assert (second.addresses, second.openbao, second.issuer_url) == (
                first.addresses,
                first.openbao,
                first.issuer_url,
            )
            assert (home / "dev/secrets/policy/secret-id").read_text() == secret
            await execute(second.targets["shop"], "UPDATE orders SET id = 8 WHERE id = 7")
            for service, file in second.configs.items():
                assert file.stat().st_mode & 0o077 == 0, service
            assert {p.name for p in second.profiles.iterdir()} == {"cli", "console", "operator", "agent-refund-bot"}
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, lambda: verify(second)) == 0
            await execute(second.targets["shop"], "GRANT CONNECT ON DATABASE shop TO PUBLIC")
            assert await loop.run_in_executor(None, lambda: verify(second)) == 3
        finally:
            await stack.stop()
