"""Readers beside the writers: what is read must lead to one signed checkpoint, and each checkpoint to the next.

Random readers check inclusion proofs against the one checkpoint that all of them share until the next takes its place;
a consistency proof must lead from the old to the new. Full readers export the log as an auditor does and have it
verified by `counterseal audit verify log`, with the checkpoint of the export before as what was kept.
"""

import asyncio
import contextlib
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random  # noqa: TID251 (seeded, so that a run can be repeated)
from typing import Any

import grpc

from bench.hammer.book import Book
from bench.stacks import TENANT, Replicas
from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.client import Client
from counterseal.client.export import write_export
from counterseal.client.login import password_login
from counterseal.client.profile import Profile
from counterseal.errors import ServiceError
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tiles import CHECKPOINT, VKEY
from counterseal.ledger.tree import leaf_hash, verify_consistency, verify_inclusion

AUDITOR = "olga"
TIMEOUT_SECONDS = 10.0
PAUSE_SECONDS = 0.05
EVERY_SECONDS = 1.0
FULL_PAUSE_SECONDS = 5.0
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class NoAnswerError(Exception):
    """A reader got no answer this time."""


@dataclass(frozen=True, slots=True)
class Common:
    """A signed head, verified."""

    size: int
    root: bytes


@dataclass(slots=True)
class Reading:
    """What all readers share. pinned: the log's key, as the first answer named it."""

    replicas: Replicas
    book: Book
    chance: Random
    stop: asyncio.Event
    common: Common | None = None
    pinned: VerifierKey | None = None
    inclusions: int = 0
    consistencies: int = 0
    exports: int = 0
    exported_entries: int = 0
    interrupted: int = 0

    async def follow(self) -> None:
        """Keep the common checkpoint new: each must be consistent with the one before it."""
        while not self.stop.is_set():
            with contextlib.suppress(NoAnswerError):
                await self._next()
            await pause(self.stop, EVERY_SECONDS)

    async def read_at_random(self) -> None:
        """Prove one entry after the other against the common checkpoint."""
        while not self.stop.is_set():
            common = self.common
            if common is None:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            with contextlib.suppress(NoAnswerError):
                await self._prove(self.chance.randrange(common.size), common)

    async def _next(self) -> None:
        found = await self._call("GetCheckpoint", reader_pb2.GetCheckpointRequest(tenant=TENANT))
        if self.pinned is None:
            self.pinned = VerifierKey.parse(found.vkey)
        if found.vkey != self.pinned.vkey:
            self.book.contradictions.add("the log named another key than before")
        old = self.common
        try:
            new = open_checkpoint(found.checkpoint, [self.pinned])
            if old is not None and new.size < old.size:
                raise VerificationError(f"the checkpoint went back from {old.size} to {new.size}")
            if old is not None:
                request = reader_pb2.GetConsistencyProofRequest(tenant=TENANT, from_size=old.size, to_size=new.size)
                proof = await self._call("GetConsistencyProof", request)
                verify_consistency(old.size, new.size, old.root, new.root, list(proof.path))
                self.consistencies += 1
        except VerificationError as error:
            self.book.contradictions.add(f"checkpoint: {error.message}")
            return
        self.common = Common(new.size, new.root)

    async def _prove(self, index: int, common: Common) -> None:
        request = reader_pb2.GetInclusionProofRequest(tenant=TENANT, index=index, tree_size=common.size)
        proof = await self._call("GetInclusionProof", request)
        entry = (await self._call("GetEntry", reader_pb2.GetEntryRequest(tenant=TENANT, index=index))).entry
        leaf = leaf_hash(entry.entry)
        if (entry.index, entry.leaf_hash, proof.leaf_hash) != (index, leaf, leaf):
            self.book.contradictions.add(f"entry {index}: index, bytes and leaf hash do not fit")
        try:
            verify_inclusion(index, common.size, leaf, list(proof.path), common.root)
        except VerificationError as error:
            self.book.contradictions.add(f"entry {index} under {common.size}: {error.message}")
        self.book.check_read(index, leaf)
        self.inclusions += 1

    async def _call(self, method: str, request: Any) -> Any:
        """Ask any replica. Raises NoAnswerError when it does not answer; what else goes wrong is a contradiction."""
        stub: Any = reader_pb2_grpc.LedgerReaderServiceStub(self.chance.choice(self.replicas.channels))
        try:
            return await getattr(stub, method)(request, timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            nothing_yet = code is grpc.StatusCode.NOT_FOUND and self.common is None
            if code not in RETRIED and not nothing_yet:
                self.book.contradictions.add(f"{method}: {code.name} {error.details()}")
        self.interrupted += 1
        await asyncio.sleep(PAUSE_SECONDS)
        raise NoAnswerError


@dataclass(slots=True)
class Auditor:
    """Exports the log as a person and has it verified by the command line. folder: takes one export after the other."""

    reading: Reading
    folder: Path
    _kept: Path | None = None
    _last: Path | None = None
    _number: int = 0

    async def read_everything(self) -> None:
        """Export and verify, pause, again."""
        loop = asyncio.get_running_loop()
        while not self.reading.stop.is_set():
            began = loop.time()
            with contextlib.suppress(ServiceError, grpc.aio.AioRpcError):
                await self.export()
            # At most a third of the time, however large the log is.
            await pause(self.reading.stop, max(FULL_PAUSE_SECONDS, 2 * (loop.time() - began)))

    async def export(self, min_size: int = 0) -> Path:
        """Export the log into a fresh folder, verify it against the export before, and return the folder.

        min_size: wait for a checkpoint that covers so many entries. Raises ServiceError when no replica could serve it.
        """
        self._number += 1
        target = self.folder / f"export-{self._number}"
        chosen = self.reading.chance.choice(self.reading.replicas.all)
        profile = Profile.load(self.reading.replicas.running.profile("cli"))
        profile = replace(profile, services={**profile.services, "audit": chosen.address})

        async def login() -> str:
            return await asyncio.get_running_loop().run_in_executor(None, password_login, profile, AUDITOR)

        try:
            async with Client(profile) as client:
                size = await write_export(client.person(login, tenant=TENANT).export(min_size), target)
        except BaseException:
            self.reading.interrupted += 1
            raise
        await self._verify(target)
        self.reading.exports += 1
        self.reading.exported_entries += size
        self._kept = self.folder / f"kept-{self._number}"
        shutil.copyfile(target / CHECKPOINT, self._kept)
        if self._last is not None:
            shutil.rmtree(self._last)
        self._last = target
        return target

    async def _verify(self, target: Path) -> None:
        pinned = self.reading.pinned
        key = pinned.vkey if pinned is not None else (target / VKEY).read_text().strip()
        since = ("--since", str(self._kept)) if self._kept is not None else ()
        script = Path(sys.executable).parent / "counterseal"
        process = await asyncio.create_subprocess_exec(
            *(str(script), "audit", "verify", "log", str(target), "--vkey", key, *since, "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, complaint = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        if process.returncode:
            said = (out + complaint).decode(errors="replace")[:2000]
            self.reading.book.contradictions.add(f"`audit verify log` exits {process.returncode}: {said}")


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but no longer than until `stop`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
