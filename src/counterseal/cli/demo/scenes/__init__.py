"""The seven scenes, in order. Each module has `TITLE` and `play(stage) -> lines`; it raises when a promise breaks."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from counterseal.cli.demo.scenes import allowed, approved, compensated, crashed, denied, killed, verified
from counterseal.cli.demo.stage import Stage


class Scene(NamedTuple):
    """One scene: its title, and what it does; `play` returns lines with the ids a reader needs."""

    title: str
    play: Callable[[Stage], Awaitable[list[str]]]


SCENES = tuple(
    Scene(module.TITLE, module.play) for module in (allowed, denied, approved, crashed, compensated, killed, verified)
)
