"""A repeated call waits no longer than one that is not repeated."""

import asyncio
from typing import Any, cast

import grpc
import pytest

from counterseal.client.connection import Connection
from counterseal.errors import PolicyUnavailable


async def test_a_service_that_hangs_is_not_asked_for_longer_than_was_said() -> None:
    asked: list[float] = []

    async def hang(request: Any, *, timeout: float, metadata: Any) -> None:
        asked.append(timeout)
        await asyncio.sleep(timeout)
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, nothing, nothing, "", "")

    connection = Connection(cast("Any", None))
    with pytest.raises(PolicyUnavailable):
        await connection.call("policy", hang, None, seconds=0.1, repeat=True)
    assert len(asked) == 1
