"""The workload's own deployment: environment `staging`, one tenant, one agent, the task files' customers as users."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from examples.retail.catalogue import TARGET, TENANT, descriptors, policy_files
from examples.retail.database import PRIVILEGES, SCHEMA

from counterseal.client import Client
from counterseal.client.login import password_login
from counterseal.client.person import Person
from counterseal.client.profile import Profile
from counterseal.embedded.deployment import Deployment
from counterseal.embedded.layout import Agent, Running, Target, Wanted
from counterseal.vault.settings import Action

AGENT = "shop-assistant"
ENVIRONMENT = "staging"
STAFF = {
    "ida": ("operator", "platform_operator", "policy_author", "platform_author", "auditor"),
    "pat": ("operator", "policy_author", "platform_author"),
    "omar": ("operator",),
}
"""ida sets the shop up, pat is the second person where two are asked for, omar owns the agent."""
SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
"""What the token service accepts as a person's id."""


def wanted(customers: Iterable[str]) -> Wanted:
    """Return the stack to start for these customers. One whose id no token service accepts cannot sign in."""
    users = dict(STAFF)
    for name in customers:
        if SUBJECT.fullmatch(name):
            users[name] = (*STAFF.get(name, ()), "customer")
    return Wanted(
        environment=ENVIRONMENT,
        tenants=(TENANT,),
        agents={AGENT: Agent(owner="user:omar", tenants=(TENANT,))},
        users=users,
        targets=(
            Target(
                TARGET,
                TENANT,
                "shop",
                SCHEMA.read_text(encoding="utf-8"),
                {"retail": Action(rw=PRIVILEGES["rw"], ro=PRIVILEGES["ro"])},
            ),
        ),
        durable=False,  # the stack lives as long as the run
    )


def deployment(directory: Path, customers: Iterable[str], progress: Any) -> Deployment:
    """Return the deployment; `start` takes about a quarter of a minute on a fresh directory."""
    return Deployment(directory, wanted(customers), progress)


def person(running: Running, name: str) -> tuple[Client, Person]:
    """Return a staff member's calls. Close the client afterwards."""
    client = Client.open(running.profile("cli"))
    return client, client.person(login(client.profile, name), tenant=TENANT)


def login(profile: Profile, name: str) -> str:
    """Return a fresh identity token of a user of this stack."""
    return password_login(profile, name)


async def prepare(running: Running) -> None:
    """Publish and activate the policy, register the tools; a second person confirms where one is asked for."""
    first, ida = person(running, "ida")
    second, pat = person(running, "pat")
    async with first, second:
        published = await ida.publish(dict(policy_files()))
        snapshot = published.snapshot.snapshot_id
        activated = await ida.activate(snapshot)
        if activated.second_person.request_digest:
            await pat.activate(snapshot, activated.second_person.request_digest)
        bodies = [tool.body for tool in descriptors()]
        registered = await ida.register(bodies)
        if registered.second_person.request_digest:
            await pat.register(bodies, registered.second_person.request_digest)
