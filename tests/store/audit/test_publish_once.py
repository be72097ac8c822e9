"""What a publisher that was overtaken may not store, and what an append may not take for its answer."""

import asyncpg
import pytest

from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal_audit.append import store as append_store
from counterseal_audit.append.engine import Prepared, step
from counterseal_audit.checkpoints.engine import Published, Rotation
from counterseal_audit.database import CONNECTION_LOST
from support.audit import append_one, replica
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.rotations import TwoVersions


def published(size: int) -> Published:
    frontier = Frontier().extend(leaf_hash(bytes([n])) for n in range(size))
    return Published(frontier, frontier.root(), b"note")


@requirement("ledger:honest-logs-are-never-refused")
async def test_a_checkpoint_whose_signers_are_out_of_date_is_not_stored(fresh_database: FreshDatabase) -> None:
    signer = TwoVersions()
    async with replica(fresh_database("audit"), signer) as parts:
        await append_one(parts, changed(stream="plan:0"))
        log = await parts.log()
        signer.rotate()
        await parts.operations.rotate(log)
        await parts.publisher.publish_once()
        assert len((await parts.checkpoints.keyring(log)).keys) == 2
        before = await parts.checkpoints.latest(log.log_id)
        assert not await parts.checkpoints.publish(log.log_id, published(9), 0), "chosen before the rotation"
        again = Rotation(1, 2, bytes(32))
        assert not await parts.checkpoints.publish(log.log_id, published(9), 1, [again]), "the rotation is there"
        assert await parts.checkpoints.latest(log.log_id) == before, "neither left a checkpoint behind"
        assert await parts.checkpoints.publish(log.log_id, published(9), 1)


class Answers:
    """A connection that answers what it was told to, whatever it is asked."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def fetchrow(self, *_: object) -> object:
        return self.answer


async def test_an_append_takes_no_other_statements_answer_for_its_own() -> None:
    item = Prepared("01920000-0000-7000-8000-000000000001", bytes(32), leaf_hash(b"x"), b"x")
    wanted = step(Frontier(), [item], lambda _: b"mac")
    root = wanted.after.root()
    for foreign in (None, (1,), (1, 1, 0, 0, b"another root"), (1, 1, 0, 0, None)):
        with pytest.raises(asyncpg.InternalClientError) as caught:
            await append_store._append(Answers(foreign), 1, wanted, [item])
        assert isinstance(caught.value, CONNECTION_LOST), "so the writer asks again by the same ids"
    assert await append_store._append(Answers((1, 1, 0, 0, root)), 1, wanted, [item])
    assert not await append_store._append(Answers((0, 0, 0, 0, root)), 1, wanted, [item])
