"""When which service is killed: a pure function of a seed, so that a run can be repeated."""

import random
from dataclasses import dataclass

from counterseal.embedded.layout import SERVICES


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL, `after_seconds` from the start of the load."""

    after_seconds: float
    service: str


def schedule(seed: int, seconds: float, each: int) -> list[Kill]:
    """Return `each` kills of every service at random moments of the run, in order of time.

    Moments are spread over equal slots, so that all four do not spend the run restarting at once.
    """
    chance = random.Random(seed)
    order = [service for service in SERVICES for _ in range(each)]
    chance.shuffle(order)
    slot = seconds / len(order)
    return [Kill(round((index + chance.random()) * slot, 3), service) for index, service in enumerate(order)]
