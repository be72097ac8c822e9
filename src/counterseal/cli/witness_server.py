"""A witness (C2SP tlog-witness) for a second party to run: it cosigns the heads of the logs that it was told about.

    <state>/<sha256 of origin>     the last head that was cosigned, with our cosignature: what is also shown
    <state>/evidence/<sha256>      heads that a log signed and that do not extend the last one
    <state>/lock                   one witness per directory

A head is on disk, forced, before its cosignature leaves; so whatever kills the process, it never cosigns a head that
does not extend one whose cosignature somebody may hold.
"""

import asyncio
import base64
import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from nacl.signing import SigningKey

from counterseal.cli.statefiles import replace_file
from counterseal.ledger import witness
from counterseal.ledger.checkpoint import Checkpoint, open_signed
from counterseal.ledger.encoding import b64
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import COSIGNATURE, ED25519, VerifierKey, assemble, cosignature, signature_line

TEXT = "text/plain; charset=utf-8"
EVIDENCE = "evidence"
MAX_EVIDENCE = 1000
_PRIVATE = "PRIVATE+KEY+"

log = logging.getLogger("counterseal.witness")


class WitnessError(Exception):
    """The witness cannot be started: what is wrong, and with which file."""


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """The key that cosigns; its file has the form that other note tools know: `PRIVATE+KEY+<name>+<id>+<base64>`."""

    signing: SigningKey
    key: VerifierKey

    @classmethod
    def make(cls, name: str, seed: bytes) -> "WitnessKey":
        """Return the key made of 32 random bytes. Raises VerificationError for a bad name."""
        signing = SigningKey(seed)
        return cls(signing, VerifierKey.make(name, bytes(signing.verify_key), COSIGNATURE))

    def write(self, file: Path) -> None:
        """Write the key to a new file that only its owner can read. Raises FileExistsError."""
        plain = VerifierKey(self.key.name, self.key.public)
        text = f"{_PRIVATE}{plain.name}+{plain.key_id.hex()}+{b64(bytes([ED25519]) + bytes(self.signing))}\n"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())

    @classmethod
    def read(cls, file: Path) -> "WitnessKey":
        """Read a key file. Raises WitnessError when it is none, or others than its owner can read it."""
        try:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise WitnessError(f"{file}: others than its owner can read it; chmod 600")
            text = file.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise WitnessError(f"{file}: {getattr(error, 'strerror', None) or 'not a key file'}") from None
        name, _, rest = text.removeprefix(_PRIVATE).partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            material = base64.b64decode(encoded, validate=True)
            one = cls.make(name, material[1:]) if text.startswith(_PRIVATE) and len(material) == 33 else None
        except (ValueError, VerificationError):
            one = None
        if one is None or VerifierKey(name, one.key.public).key_id.hex() != key_id:
            raise WitnessError(f"{file}: not a key file of a witness")
        return one

    def cosign(self, text: str, seconds: int) -> str:
        """Return the signature line over a checkpoint's text as of that time."""
        signature = self.signing.sign(self.key.message(text, seconds)).signature
        return signature_line(self.key, cosignature(seconds, signature))


def read_logs(file: Path) -> dict[str, list[VerifierKey]]:
    """Return the keys by origin from a file of one vkey a line. Raises WitnessError naming the line."""
    logs: dict[str, list[VerifierKey]] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WitnessError(f"{file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            key = VerifierKey.parse(words[1] if words[0] == "log" and len(words) > 1 else words[0])
        except VerificationError as error:
            raise WitnessError(f"{file}, line {number}: {error.message}") from None
        known = logs.setdefault(key.name, [])
        if key in known:
            raise WitnessError(f"{file}, line {number}: the key is listed twice")
        known.append(key)
    return logs


class State:
    """The last cosigned head of each log, on disk."""

    def __init__(self, directory: Path, key: VerifierKey, logs: Mapping[str, Sequence[VerifierKey]]) -> None:
        """Open the directory for this process alone. Raises WitnessError when what it holds is not ours."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise WitnessError(f"{directory}: another witness uses this directory") from None
        self.notes: dict[str, bytes] = {}
        self.heads: dict[str, Checkpoint] = {}
        for origin, keys in logs.items():
            file = directory / witness.origin_hash(origin)
            if not file.exists():
                continue
            note = file.read_bytes()
            try:
                head, opened = open_signed(note, [*keys, key])
            except VerificationError as error:
                raise WitnessError(f"{file}: {error.message}; restore it, a witness must not forget") from None
            if head.origin != origin or key not in opened.signers:
                raise WitnessError(f"{file}: not a head of {origin} that this witness cosigned")
            self.notes[origin], self.heads[origin] = note, head

    def store(self, head: Checkpoint, note: bytes) -> None:
        """Make `note` the last cosigned one: on disk before this returns."""
        replace_file(self._directory / witness.origin_hash(head.origin), note, mode=0o600)
        self.notes[head.origin], self.heads[head.origin] = note, head

    def keep_evidence(self, note: bytes) -> None:
        """Keep a head that its log signed and that is not an extension of the last; up to a limit."""
        folder = self._directory / EVIDENCE
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / hashlib.sha256(note).hexdigest()
        if not file.exists() and sum(1 for _ in folder.iterdir()) < MAX_EVIDENCE:
            replace_file(file, note, mode=0o600)

    def close(self) -> None:
        """Let another process use the directory."""
        os.close(self._lock)


@dataclass(slots=True)
class Witness:
    """The service. clock: POSIX milliseconds."""

    key: WitnessKey
    logs: Mapping[str, Sequence[VerifierKey]]
    state: State
    clock: Callable[[], int]
    _disk: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "witness"))
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def application(self, prefix: str = "") -> web.Application:
        """Return the HTTP application below a path prefix; it is both submission and monitoring prefix."""
        app = web.Application(client_max_size=witness.MAX_REQUEST_BYTES)
        app.router.add_post(f"{prefix}/{witness.ADD_CHECKPOINT}", self._add)
        app.router.add_get(prefix + "/{hash:[0-9a-f]{64}}/checkpoint", self._show)
        return app

    async def _add(self, request: web.Request) -> web.Response:
        data = await request.read()
        try:
            origin = witness.origin_of(data)
            if origin not in self.logs:
                raise witness.Refused(witness.NOT_FOUND, "this witness does not know the log")
            # Not ended by a caller who goes away: the lock must be held until the head is stored.
            return await asyncio.shield(self._cosign(data, origin))
        except witness.Refused as refused:
            return await self._refuse(refused)

    async def _cosign(self, data: bytes, origin: str) -> web.Response:
        # One at a time per log: checked and stored without another in between, or a head could go back.
        async with self._locks.setdefault(origin, asyncio.Lock()):
            grown = witness.check(data, self.state.heads.get(origin), self.logs)
            line = self.key.cosign(grown.text, self.clock() // 1000)
            await self._blocking(lambda: self.state.store(grown.checkpoint, assemble(grown.text, [*grown.lines, line])))
        log.info("cosigned", extra={"origin": origin, "size": grown.checkpoint.size})
        return web.Response(text=line, content_type="text/plain", charset="utf-8")

    async def _refuse(self, refused: witness.Refused) -> web.Response:
        if refused.evidence is not None:
            evidence = refused.evidence
            log.critical("a signed head does not extend the last one", extra={"why": refused.message})
            await self._blocking(lambda: self.state.keep_evidence(evidence))
        if refused.status == witness.CONFLICT:
            body = f"{refused.size}\n".encode()
            return web.Response(body=body, status=refused.status, headers={"Content-Type": witness.SIZE_TYPE})
        return web.Response(text=refused.message + "\n", status=refused.status)

    async def _show(self, request: web.Request) -> web.Response:
        wanted = request.match_info["hash"]
        for origin, note in self.state.notes.items():
            if witness.origin_hash(origin) == wanted:
                return web.Response(body=note, headers={"Content-Type": TEXT, "Cache-Control": "no-cache"})
        return web.Response(text="no checkpoint\n", status=witness.NOT_FOUND)

    async def _blocking(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._disk, work)
