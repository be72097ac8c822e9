"""The last word before an effect, where it needs no database: what cannot be kept is not done."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from counterseal.canonical import MAX_BYTES
from counterseal_executor.connectors.base import Fenced, refused_by_fence
from counterseal_executor.work.fence import AttemptFence


async def test_a_write_of_which_the_before_image_cannot_be_kept_is_refused_for_good() -> None:
    job = SimpleNamespace(
        lease=SimpleNamespace(valid=True), means=SimpleNamespace(restore=SimpleNamespace(current=True))
    )
    fence = AttemptFence(cast("Any", job), "attempt", cast("Any", None))
    with pytest.raises(Fenced) as caught:
        await fence.before_commit({"before": [{"text": "x" * MAX_BYTES}], "output": {}})
    refused = refused_by_fence(caught.value)
    assert (refused.error_code, refused.retryable) == ("TOO_LARGE_TO_UNDO", False)
    assert str(MAX_BYTES) in refused.message
