from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.executor import SIM_TOOLS, Executor, World, world
from support.postgres import FreshDatabase


@pytest.fixture
async def surroundings(fresh_database: FreshDatabase, tmp_path: Path) -> AsyncIterator[World]:
    async with world(fresh_database("executor").sqlalchemy_url, tmp_path / "world.sqlite") as made:
        yield made


@pytest.fixture
async def executor(surroundings: World) -> Executor:
    started = await surroundings.start()
    await started.register(*SIM_TOOLS)
    return started
