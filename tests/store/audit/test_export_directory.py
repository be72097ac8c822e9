"""The export directory: what it shows at any moment, cut at any write, is a log that verifies and never goes back."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from counterseal.cli.audit_sources import Directory
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.verify import verify_log
from counterseal_audit.logs.store import Log
from counterseal_audit.tiles.directory import FRESH, LogDirectory
from counterseal_audit.tiles.exporter import Exporter, folder_of
from support.audit import Replica, append, replica
from support.entries import changed
from support.exports import Outside
from support.postgres import FreshDatabase, ServiceDatabase
from support.requirements import requirement
from support.shapes import ENVIRONMENT


@asynccontextmanager
async def exporting(database: ServiceDatabase, root: Path) -> AsyncIterator[tuple[Replica, Exporter]]:
    with ThreadPoolExecutor(1) as disk:
        async with replica(database) as parts:
            yield parts, Exporter(root, parts.logs, parts.checkpoints, parts.reader, ENVIRONMENT, disk)


async def grow(parts: Replica, count: int) -> Log:
    """Append entries and sign once."""
    await append(parts, [changed(stream="") for _ in range(count)])
    await parts.publisher.publish_once()
    return await parts.log()


def shown(root: Path, one: Log) -> int:
    """The size that the directory shows, after verifying every byte that its checkpoint covers."""
    report = verify_log(Outside(folder_of(root, one)), one.key)
    assert report.findings == ()
    return report.size


@requirement("ledger:export-directory")
async def test_every_checkpoint_can_be_read_from_the_directory(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with exporting(fresh_database("audit"), tmp_path) as (parts, exporter):
        sizes = []
        for count in (3, 250, 1, 10, 300):
            one = await grow(parts, count)
            assert await exporter.bring_up(one) == shown(tmp_path, one)
            sizes.append(shown(tmp_path, one))
        folder = folder_of(tmp_path, one)
        widths = {int(path.name) for path in (folder / "tile/entries/002.p").iterdir()}
    assert sizes == [4, 254, 255, 265, 565]
    assert widths == {565 % 256}, "partial tiles are there for published sizes only"
    assert not (folder / "tile/0/000.p").exists(), "a partial tile goes when the full one is there"
    assert not (folder / FRESH).exists()
    assert verify_log(Directory(folder), one.key).findings == (), "no stray file is left"


@requirement("ledger:export-directory")
async def test_sizes_that_were_signed_while_nobody_wrote_get_their_partial_tiles(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with exporting(fresh_database("audit"), tmp_path) as (parts, exporter):
        for count in (5, 7, 9):
            one = await grow(parts, count)
        await exporter.bring_up(one)
        folder = folder_of(tmp_path, one)
        assert {path.name for path in (folder / "tile/entries/000.p").iterdir()} == {"6", "13", "22"}
        for size in (6, 13, 22):
            stored = (await parts.checkpoints.trees(one.log_id, [size])).by_size.get(size)
            assert stored is not None
            (folder / "checkpoint").write_bytes(stored.published.note)
            assert shown(tmp_path, one) == size


class Killed(Exception):
    pass


@requirement("ledger:export-directory")
async def test_cut_at_any_write_the_directory_shows_the_old_log_or_the_new(
    fresh_database: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with exporting(fresh_database("audit"), tmp_path) as (parts, exporter):
        one = await grow(parts, 200)
        assert await exporter.bring_up(one) == 201
        one = await grow(parts, 100)
        real, left = LogDirectory.write, 0

        def dying(self: LogDirectory, path: str, content: bytes) -> None:
            nonlocal left
            if left == 0:
                (self.root / FRESH).write_bytes(content[: len(content) // 2])  # torn, as a kill would leave it
                raise Killed
            left -= 1
            real(self, path, content)

        seen = []
        for cut in range(20):
            left = cut
            with monkeypatch.context() as patch:
                patch.setattr(LogDirectory, "write", dying)
                try:
                    await exporter.bring_up(one)
                except Killed:
                    seen.append(shown(tmp_path, one))
                else:
                    break
        assert seen
        assert set(seen) == {201}
        assert await exporter.bring_up(one) == shown(tmp_path, one) == 301


@requirement("ledger:export-directory")
async def test_the_checkpoint_never_goes_back_and_another_history_is_left_as_evidence(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with exporting(fresh_database("audit"), tmp_path) as (parts, exporter):
        one = await grow(parts, 5)
        await exporter.bring_up(one)
        await grow(parts, 5)
        older = (await parts.checkpoints.trees(one.log_id, [6])).by_size.get(6)
        assert await exporter.bring_up(one) == 11
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert older is not None

        class Restored:
            """A database of before the last checkpoint."""

            async def latest(self, _log_id: int) -> object:
                return older

        with pytest.raises(VerificationError, match="only 6"):
            await replace(exporter, checkpoints=Restored()).bring_up(one)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@requirement("ledger:export-directory")
@pytest.mark.parametrize("column", ["entry", "leaf_hash", "both"])
async def test_what_was_altered_in_the_database_is_not_written(
    fresh_database: FreshDatabase, tmp_path: Path, column: str
) -> None:
    database = fresh_database("audit")
    async with exporting(database, tmp_path) as (parts, exporter):
        one = await grow(parts, 5)
        await exporter.bring_up(one)
        await grow(parts, 5)
        connection = await asyncpg.connect(database.admin_dsn)
        await connection.execute("ALTER TABLE ledger_entry DISABLE TRIGGER ALL")
        if column == "both":  # another history, consistent in itself: only the signed root speaks against it
            changes = r"entry = set_byte(entry, 30, 7), leaf_hash = sha256('\x00'::bytea || set_byte(entry, 30, 7))"
        else:
            changes = f"{column} = set_byte({column}, 30, 7)"
        await connection.execute(f"UPDATE ledger_entry SET {changes} WHERE idx = 8")
        await connection.close()
        with pytest.raises(VerificationError):
            await exporter.bring_up(one)
        assert shown(tmp_path, one) == 6


async def test_the_loop_writes_what_the_publisher_names_and_what_it_missed(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with exporting(fresh_database("audit"), tmp_path) as (parts, exporter):
        one = await grow(parts, 3)  # nobody was told: the sweep finds it
        stopping = asyncio.Event()
        task = asyncio.create_task(exporter.run(stopping))
        async with asyncio.timeout(60):
            while not (folder_of(tmp_path, one) / "checkpoint").exists():
                await asyncio.sleep(0.02)
            parts.publisher.on_published = [exporter.on_published]
            one = await grow(parts, 3)
            while shown(tmp_path, one) < 7:
                await asyncio.sleep(0.02)
        stopping.set()
        await task
