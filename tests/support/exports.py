"""Whole logs as files, made by the library's own parts: for tests of the verifier and of the command."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nacl.signing import SigningKey

from counterseal.cli.audit_sources import Directory
from counterseal.ledger import entry as entries
from counterseal.ledger import tiles
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.note import VerifierKey, assemble, signature_line
from counterseal.ledger.tree import HASH_SIZE, Frontier, leaf_hash

ORIGIN = "counterseal.dev/0192aa"
SIGNING = SigningKey(b"\x07" * 32)
KEY = VerifierKey.make(ORIGIN, bytes(SIGNING.verify_key))
DIGEST = "sha256:" + "ab" * 32


def uuid(number: int) -> str:
    return f"0192f000-0000-7000-8000-{number:012x}"


def sign(checkpoint: Checkpoint, signing: SigningKey = SIGNING, key: VerifierKey = KEY) -> bytes:
    text = checkpoint.text()
    return assemble(text, [signature_line(key, signing.sign(text.encode()).signature)])


def genesis(key: VerifierKey = KEY, tenant: str = "acme") -> bytes:
    content = {
        "v": 1,
        "type": "log.genesis",
        "event_id": uuid(0),
        "event_time_ms": 1,
        "tenant": tenant,
        "environment": "prod",
        "data": {"vkey": key.vkey, "shard": 0},
    }
    entries.check_content(content)
    return entries.build(content, entries.Srv(1, "audit"))


def changed(number: int, *, stream: str = "plan:p1", seq: int | None = None, tenant: str = "acme") -> bytes:
    content = {
        "v": 1,
        "type": "plan.changed",
        "event_id": uuid(number),
        "event_time_ms": 1,
        "tenant": tenant,
        "environment": "prod",
        "plan_digest": DIGEST,
        "stream": stream,
        "seq": number if seq is None else seq,
        "data": {"from_state": "COMMITTED", "to_state": "RUNNING"},
    }
    entries.check_content(content)
    return entries.build(content, entries.Srv(1, "executor"))


def log_of(size: int) -> list[bytes]:
    return [genesis(), *(changed(n) for n in range(1, size))] if size else []


def files_of(logged: list[bytes]) -> dict[str, bytes]:
    """Return the export of a log: path -> bytes."""
    levels = [[leaf_hash(data) for data in logged]]
    nodes: dict[int, list[bytes]] = {}

    def on_node(height: int, _index: int, node: bytes) -> None:
        if height % tiles.HEIGHT == 0:
            nodes.setdefault(height // tiles.HEIGHT, []).append(node)

    root = Frontier().extend(levels[0], on_node).root()
    levels += [nodes[level] for level in sorted(nodes)]
    files = {
        "checkpoint": sign(Checkpoint(ORIGIN, len(logged), root)),
        "vkey": (KEY.vkey + "\n").encode(),
    }
    for tile in tiles.tiles_of(len(logged)):
        assert tile.level is not None
        start = tile.index * tiles.WIDTH
        files[tile.path] = b"".join(levels[tile.level][start : start + tile.width])
        assert len(files[tile.path]) == tile.width * HASH_SIZE
    for bundle in tiles.bundles_of(len(logged)):
        start = bundle.index * tiles.WIDTH
        files[bundle.path] = tiles.bundle(logged[start : start + bundle.width])
    return files


@dataclass(frozen=True, slots=True)
class Files:
    """A `Source` in memory."""

    files: Mapping[str, bytes]

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def paths(self, below: str = "tile/") -> Iterable[str]:
        return [path for path in self.files if path.startswith(below)]

    def lines(self, path: str) -> Iterator[bytes] | None:
        return None if path not in self.files else iter(self.files[path].split(b"\n")[:-1])


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    for path, data in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return directory


class Outside(Directory):
    """Files by their names, as over HTTP: nobody lists what a checkpoint does not cover yet."""

    def paths(self, below: str = "tile/") -> list[str]:
        return []
