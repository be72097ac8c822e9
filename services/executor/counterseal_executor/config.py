"""The executor's own configuration: section `[executor]`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from counterseal import config as configuration
from counterseal.config import ConfigError
from counterseal.documents.fields import NAME_PART
from counterseal.documents.tool import CONNECTORS
from counterseal_executor.connectors.base import Target

SECTION = "executor"
DURABLE, CHECKPOINTED = "DURABLE", "CHECKPOINTED"
MAX_CHECKPOINT_WAIT_SECONDS = 30
"""The ledger lets nobody wait longer."""


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """Section `[executor]`.

    targets: alias -> `{kind, ...}`, what plans may name; the rest of each table belongs to the connector.
    lease_seconds: how long a worker owns a plan without renewing; a crashed one is taken over after it.
    recovery_seconds: pause of the loop that looks for plans without an owner.
    max_workers: plans driven at once by this process.
    containment_stale_seconds: age of the containment stream after which nothing above read-only starts.
    checkpoint_stale_seconds: age of the oldest entry without a signed checkpoint from which on nothing is committed.
    r4_intents: what the intent of an irreversible step (R4) must be before anything is sent: DURABLE in the ledger, or
      CHECKPOINTED, which is covered by a signed checkpoint as well.
    checkpoint_wait_seconds: how long such a step waits for that checkpoint; it is not sent without.
    two_people: whether tools need a second person's call; None: in the environment `prod` only.
    """

    targets: Mapping[str, Target] = field(default_factory=dict)
    lease_seconds: float = 15.0
    recovery_seconds: float = 1.0
    max_workers: int = 16
    containment_stale_seconds: float = 5.0
    checkpoint_stale_seconds: float = 60.0
    r4_intents: str = DURABLE
    checkpoint_wait_seconds: float = 10.0
    two_people: bool | None = None

    def needs_two_people(self, environment: str) -> bool:
        """Whether registering a tool needs another person's second call here."""
        return environment == "prod" if self.two_people is None else self.two_people


@dataclass(frozen=True, slots=True)
class _Plain:
    lease_seconds: float = 15.0
    recovery_seconds: float = 1.0
    max_workers: int = 16
    containment_stale_seconds: float = 5.0
    checkpoint_stale_seconds: float = 60.0
    r4_intents: str = DURABLE
    checkpoint_wait_seconds: float = 10.0
    two_people: bool | None = None


def bind_config(table: Mapping[str, Any]) -> ExecutorConfig:
    """Bind the section. Raises ConfigError with every problem at once."""
    rest = {key: value for key, value in table.items() if key != "targets"}
    problems: list[str] = []
    plain = _Plain()
    try:
        plain = configuration.bind(_Plain, rest, SECTION)
    except ConfigError as error:
        problems.extend(error.problems)
    targets: dict[str, Target] = {}
    for alias, value in dict(table.get("targets", {})).items():
        where = f"{SECTION}.targets.{alias}"
        if not NAME_PART.fullmatch(alias) or len(alias) > 24:
            problems.append(f"{where}: an alias is lower-case letters, digits and single hyphens, at most 24")
        elif not isinstance(value, dict) or value.get("kind") not in CONNECTORS:
            problems.append(f"{where}.kind: must be one of {', '.join(CONNECTORS)}")
        else:
            settings = {key: item for key, item in value.items() if key != "kind"}
            targets[alias] = Target(alias, value["kind"], settings)
    if plain.lease_seconds < 1:
        problems.append(f"{SECTION}.lease_seconds: must be at least 1")
    if plain.r4_intents not in (DURABLE, CHECKPOINTED):
        problems.append(f"{SECTION}.r4_intents: must be {DURABLE} or {CHECKPOINTED}")
    if not 0 < plain.checkpoint_wait_seconds <= MAX_CHECKPOINT_WAIT_SECONDS:
        problems.append(f"{SECTION}.checkpoint_wait_seconds: must be above 0 and at most {MAX_CHECKPOINT_WAIT_SECONDS}")
    if problems:
        raise ConfigError(problems)
    return ExecutorConfig(
        targets=targets,
        lease_seconds=plain.lease_seconds,
        recovery_seconds=plain.recovery_seconds,
        max_workers=plain.max_workers,
        containment_stale_seconds=plain.containment_stale_seconds,
        checkpoint_stale_seconds=plain.checkpoint_stale_seconds,
        r4_intents=plain.r4_intents,
        checkpoint_wait_seconds=plain.checkpoint_wait_seconds,
        two_people=plain.two_people,
    )
