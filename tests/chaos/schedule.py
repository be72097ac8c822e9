"""Which service is killed next, and after which pause: a pure function of a seed, so that a run can be repeated."""

import random
from dataclasses import dataclass

from counterseal.embedded.layout import SERVICES

ALONE = 0.75


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL. alone: the pause before it begins when the suite works again; else right after the last kill."""

    pause_seconds: float
    service: str
    alone: bool


def schedule(seed: int, seconds: float, each: int) -> list[Kill]:
    """Return `each` kills of every service in random order, with pauses that add up to about `seconds`.

    Most wait until all services are up and a plan has ended: on a slow machine kills by the clock alone would only ever
    meet services that are starting. The others strike at once.
    """
    chance = random.Random(seed)
    order = [service for service in SERVICES for _ in range(each)]
    chance.shuffle(order)
    most = 2 * seconds / len(order)
    return [Kill(round(chance.uniform(0, most), 3), service, chance.random() < ALONE) for service in order]
