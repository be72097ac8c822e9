"""Verification of a whole log from its files (C2SP tlog-tiles layout, and beside it what is ours).

Everything is derived again from the entry bytes: leaf hashes, every tile at every level, the root under the signed
checkpoint, the keys that the log was rotated to, the shard before it, and what the entries say of themselves. Findings
name the file, the entry and the byte. One pass, entries are not kept; memory grows by 8 bytes per entry and 16 to 32
per plan.

Beside C2SP's files an export may have: `vkey` (the genesis key), `rotation/<n>` (the note that covers the n-th key
rotation), `disclosures.jsonl` (sealed fields, in order of the entries), `predecessor/` (the shard before, all of it).
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import Checkpoint, own_lines
from counterseal.ledger.errors import Kind, VerificationError
from counterseal.ledger.findings import MAX_FINDINGS, Findings, worst
from counterseal.ledger.keyring import MAX_ROTATIONS, Keyring, claimed, rotation_path
from counterseal.ledger.note import VerifierKey, split
from counterseal.ledger.policy import Policy
from counterseal.ledger.registry import REGISTRY
from counterseal.ledger.seen import IdSet, Streams
from counterseal.ledger.tiles import CHECKPOINT, VKEY, bundles_of
from counterseal.ledger.walk import Walk, check_strays

__all__ = ["DISCLOSURES", "MAX_FINDINGS", "PREDECESSOR", "Report", "Source", "verify_log"]

DISCLOSURES = "disclosures.jsonl"
PREDECESSOR = "predecessor/"
MAX_SHARDS = 64

_KEY_EVENTS = frozenset(name for name in REGISTRY if name.startswith("key."))
_INDEX = rb'"index": ?(?P<%s>0|[1-9][0-9]{0,15})'
_STRINGS = rb'"disclosures": ?\[(?P<%s>"[A-Za-z0-9_-]+"(?:, ?"[A-Za-z0-9_-]+")*)\]'
_LINE = re.compile(
    rb"\{(?:"
    + (_INDEX % b"before" + rb", ?" + _STRINGS % b"first")
    + rb"|"
    + (_STRINGS % b"second" + rb", ?" + _INDEX % b"after")
    + rb")\}"
)


class Source(Protocol):
    """The files of an export."""

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None when there is no such file. Raises VerificationError when it cannot be read."""

    def paths(self, below: str = "tile/") -> Iterable[str]:
        """Return the paths of all files below a folder; nothing where they cannot be listed."""

    def lines(self, path: str) -> Iterator[bytes] | None:
        """Yield a file's lines without their newlines, None when there is no such file. Raises as `read` does."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was verified and what does not hold; `findings` is empty when everything does.

    witnesses: when (POSIX seconds) each witness of the policy cosigned the checkpoint, by name.
    shards: the reports of the shards before this one, oldest first; their findings are among `findings`.
    keys: those that signed this shard, as far as its rotations were followed: the pinned one first.
    """

    origin: str
    size: int
    root: bytes
    tenant: str
    environment: str
    findings: tuple[VerificationError, ...]
    omitted_count: int = 0
    rotation_count: int = 0
    disclosed_count: int = 0
    witnesses: tuple[tuple[str, int], ...] = ()
    shards: "tuple[Report, ...]" = ()
    keys: tuple[VerifierKey, ...] = ()

    @property
    def verdict(self) -> Kind | None:
        """The worst kind of finding: forked, else tampered, else incomplete; None when verified."""
        return worst(self.findings)


OnEntry = Callable[[int, entries.Entry], None]
"""Takes each entry that is well-formed and hashes to its leaf, with its index, in order; older shards come first."""

OnProgress = Callable[[int, int], None]
"""Takes how many entries of the log were read, and how many it claims."""


def verify_log(
    source: Source,
    key: VerifierKey,
    since: bytes | None = None,
    on_entry: OnEntry | None = None,
    *,
    policy: Policy | None = None,
    pinned: Sequence[VerifierKey] = (),
    on_progress: OnProgress | None = None,
) -> Report:
    """Verify every byte of a log against the pinned `key` and, where given, a checkpoint note kept from before.

    policy: the checkpoint must also be cosigned by its quorum. pinned: genesis keys of earlier shards; without one, a
    predecessor's key is the one that its genesis entry names, and the successor's genesis vouches for its checkpoint.

    Never raises for what the files hold: everything that does not hold is a finding. What `on_entry` was given counts
    only if the report has no findings.
    """
    run = _Run(on_entry, on_progress, {one.name: one for one in pinned})
    logs = run.chain_of(source, key)
    for log in logs:
        log.walk(since if log is logs[-1] else None, policy if log is logs[-1] else None)
    run.blame_duplicates(logs)
    findings = Findings()
    for log in logs:
        for finding in log.findings.kept:
            findings.note(finding)
        findings.omitted_count += log.findings.omitted_count
    *older, newest = [log.report() for log in logs]
    return Report(
        newest.origin,
        newest.size,
        newest.root,
        newest.tenant,
        newest.environment,
        tuple(findings.kept),
        findings.omitted_count,
        newest.rotation_count,
        sum(log.disclosed_count for log in logs),
        newest.witnesses,
        tuple(older),
        newest.keys,
    )


@dataclass(slots=True)
class _Run:
    """What the shards of one verification share."""

    on_entry: OnEntry | None
    on_progress: OnProgress | None
    pinned: dict[str, VerifierKey]
    ids: IdSet = field(default_factory=IdSet)
    streams: Streams = field(default_factory=Streams)

    def chain_of(self, source: Source, key: VerifierKey) -> "list[_Log]":
        """Return the log and the shards before it that lie in the export, oldest first."""
        newest = _Log(self, source, key, Findings())
        logs = [newest]
        while logs[0].source.read(PREDECESSOR + CHECKPOINT) is not None:
            successor = logs[0]
            if len(logs) == MAX_SHARDS:
                successor.findings.add(f"more than {MAX_SHARDS} shards", PREDECESSOR)
                break
            below = _Below(successor.source, PREDECESSOR)
            findings = Findings(successor.findings.prefix + PREDECESSOR)
            try:
                older = _Log(self, below, self._key_of(below), findings)
            except VerificationError as error:
                successor.findings.note(error.at(PREDECESSOR))
                break
            older.successor, successor.predecessor = successor, older
            logs.insert(0, older)
        return logs

    def _key_of(self, source: Source) -> VerifierKey:
        """Return the key that a predecessor is verified with."""
        origin = claimed(source.read(CHECKPOINT) or b"").origin
        known = self.pinned.get(origin)
        if known is not None:
            return known
        return VerifierKey.parse((source.read(VKEY) or b"").removesuffix(b"\n").decode("ascii", "replace"))

    def blame_duplicates(self, logs: "Sequence[_Log]") -> None:
        """Read the entries again whose ids seemed to occur twice, and name those that do."""
        suspects = self.ids.suspects()
        seen: dict[str, str] = {}
        for log in logs if suspects else ():
            for index, entry, where in log.entries_again():
                if IdSet.fingerprint(entry.event_id) not in suspects:
                    continue
                earlier = seen.setdefault(entry.event_id, f"{log.findings.prefix}entry {index}")
                if earlier != f"{log.findings.prefix}entry {index}":
                    log.findings.add(f"the event id {entry.event_id} is that of {earlier}", where)


class _Log:
    """One shard under verification."""

    def __init__(self, run: _Run, source: Source, key: VerifierKey, findings: Findings) -> None:
        self.source = source
        self.findings = findings
        self.predecessor: _Log | None = None
        self.successor: _Log | None = None
        self.disclosed_count = 0
        self._run = run
        self._keys = Keyring(key)
        self._head = Checkpoint(key.name, 0, b"")
        self._walk: Walk | None = None
        self._tenant = self._environment = self._cites = ""
        self._witnesses: tuple[tuple[str, int], ...] = ()
        self._disclosures = _Disclosures(source, findings)

    def walk(self, since: bytes | None, policy: Policy | None) -> None:
        """Verify everything about this shard."""
        self._check_vkey()
        data = self.findings.attempt(CHECKPOINT, self._read_checkpoint)
        head = self.findings.attempt(CHECKPOINT, lambda: claimed(data)) if data is not None else None
        kept = self.findings.attempt("the kept checkpoint", lambda: claimed(since)) if since is not None else None
        if data is None or head is None or not self._may_be_ours(data):
            return
        rotations = self._rotations()
        sizes = {one.size for _, one in rotations} | ({kept.size} if kept is not None else set())
        self._walk = Walk(self.source, head, self.findings, self._on_entries, marks=frozenset(sizes))
        whole = self._walk.run(self._run.on_progress)
        self._follow(rotations)
        signed = self.findings.attempt(CHECKPOINT, lambda: self._keys.open_head(data))
        if signed is None:
            return
        self._head = signed
        if since is not None and kept is not None:
            self._compare(since, kept, whole=whole)
        if policy is not None:
            self._check_witnesses(policy, data)
        self._disclosures.finish(head.size)
        check_strays(self.source.paths(), self.source, head.size, self.findings)
        self._check_predecessor()

    def report(self) -> Report:
        """Return what was found of this shard alone."""
        return Report(
            self._head.origin,
            self._head.size,
            self._head.root,
            self._tenant,
            self._environment,
            tuple(self.findings.kept),
            self.findings.omitted_count,
            len(self._keys.accepted) - 1,
            self.disclosed_count,
            self._witnesses,
            keys=tuple(self._keys.accepted),
        )

    # --- the signed head and its keys ---

    def _check_vkey(self) -> None:
        """The file is a convenience beside the log (C2SP knows none): it may be absent, but it must not mislead."""
        data = self.findings.attempt(VKEY, lambda: self.source.read(VKEY))
        if data is not None and data.removesuffix(b"\n") != self._keys.pinned.vkey.encode():
            self.findings.add("the file does not hold the pinned key", VKEY)

    def _read_checkpoint(self) -> bytes:
        data = self.source.read(CHECKPOINT)
        if data is None:
            raise VerificationError("the file is missing", kind="incomplete")
        return data

    def _may_be_ours(self, data: bytes) -> bool:
        """Tell whether reading the log can lead to a key that signed the head: the pinned one, or a later one."""
        try:
            self._keys.open_head(data)
        except VerificationError as error:
            pinned = self._keys.pinned
            _, signatures = split(data)
            if any(one.name == pinned.name and one.key_id != pinned.key_id for one in signatures):
                return True
            self.findings.note(error.at(CHECKPOINT))
            return False
        return True

    def _rotations(self) -> list[tuple[bytes, Checkpoint]]:
        """Return the rotation notes that the export holds, with what they claim."""
        found: list[tuple[bytes, Checkpoint]] = []
        while len(found) < MAX_ROTATIONS:
            path = rotation_path(len(found) + 1)
            note = self.findings.attempt(path, partial(self.source.read, path))
            one = self.findings.attempt(path, partial(claimed, note)) if note is not None else None
            if note is None or one is None:
                break
            found.append((note, one))
        return found

    def _follow(self, rotations: Sequence[tuple[bytes, Checkpoint]]) -> None:
        """Accept the keys that the rotation notes vouch for, up to the first that does not hold."""
        if self._walk is None or (rotations and not self._walk.is_gapless):
            return  # what is missing was named; keys cannot be followed across it
        for number, (note, _) in enumerate(rotations, 1):
            try:
                self._keys.accept(number, note, self._walk.roots)
            except VerificationError as error:
                self.findings.note(error.at(rotation_path(number)))
                return

    def _compare(self, since: bytes, kept: Checkpoint, *, whole: bool) -> None:
        """Compare with a checkpoint that the reader kept from before."""
        where = "the kept checkpoint"
        if self.findings.attempt(where, lambda: self._keys.open_old(since)) is None or self._walk is None:
            return
        size = self._head.size
        if kept.size > size:
            self.findings.add(
                f"the log was cut: the kept checkpoint covers {kept.size} entries, this copy only {size}", CHECKPOINT
            )
        elif (whole or kept.size in self._walk.roots) and self._walk.roots[kept.size] != kept.root:
            self.findings.add(
                f"the first {kept.size} entries are not those of the kept checkpoint: two histories of one log",
                CHECKPOINT,
                "forked",
            )

    def _check_witnesses(self, policy: Policy, data: bytes) -> None:
        witnessed = self.findings.attempt(CHECKPOINT, lambda: policy.open(data, self._keys.accepted))
        if witnessed is not None:
            self._witnesses = tuple(sorted(witnessed.times.items()))

    # --- the shard before ---

    def _check_predecessor(self) -> None:
        """The genesis entry cites the last checkpoint of the shard before; it must be the one that lies here."""
        if self.predecessor is None:
            if self._cites:
                where = PREDECESSOR + CHECKPOINT
                self.findings.add("the shard before this one is not in the export", where, "incomplete")
            return
        if not self._tenant:
            return  # the genesis entry is missing, which was named
        note = self.predecessor.source.read(CHECKPOINT) or b""
        candidates = [note]
        with contextlib.suppress(VerificationError):  # cited is what the log signed, with or without cosignatures
            candidates.append(own_lines(note, self.predecessor.origin))
        if self._cites not in {"sha256:" + hashlib.sha256(one).hexdigest() for one in candidates}:
            self.findings.add("this is not the checkpoint that the genesis entry cites", PREDECESSOR + CHECKPOINT)
        theirs = self.predecessor.report()
        if theirs.tenant and (theirs.tenant, theirs.environment) != (self._tenant, self._environment):
            self.findings.add("the shard before is of another tenant or environment", PREDECESSOR + CHECKPOINT)

    @property
    def origin(self) -> str:
        """The log's origin."""
        return self._keys.pinned.name

    @property
    def _is_gapless(self) -> bool:
        """Whether all entries up to here were there, those of the shards before included."""
        here = self._walk is not None and self._walk.is_gapless
        return here and (self.predecessor is None or self.predecessor._is_gapless)  # noqa: SLF001

    # --- the entries ---

    def entries_again(self) -> Iterator[tuple[int, entries.Entry, str]]:
        """Yield the well-formed entries once more, with index and place."""
        if self._walk is None:
            return
        for bundle in bundles_of(self._walk.head.size):
            try:
                logged = self._walk.read_entries(bundle)
            except VerificationError:
                return
            for index, data in enumerate(logged, bundle.index * 256):
                try:
                    yield index, entries.parse(data), f"{bundle.path}, entry {index}"
                except VerificationError:
                    continue

    def _on_entries(self, start: int, logged: list[bytes], path: str) -> None:
        on_entry, advance, seen = self._run.on_entry, self._run.streams.advance, self._run.ids.add
        parse, disclosures = entries.parse, self._disclosures
        for index, data in enumerate(logged, start):
            try:
                entry = parse(data)
            except VerificationError as error:
                self.findings.note(error.at(f"{path}, entry {index}"))
                continue
            kind = entry.type
            if index == 0 or kind == entries.GENESIS:
                self._check_genesis(index, entry, f"{path}, entry {index}")
            if entry.tenant != self._tenant or entry.environment != self._environment:
                self._check_owner(entry, f"{path}, entry {index}")
            seen(entry.event_id)
            if stream := entry.stream:
                due = advance(stream, entry.seq)
                if entry.seq != due and self._is_gapless:
                    why = f"{stream} goes on with seq {entry.seq} where {due} is due"
                    self.findings.add(why, f"{path}, entry {index}")
            if kind in _KEY_EVENTS:
                self._keys.see(index, entry)
            if index == disclosures.due:
                self.disclosed_count += disclosures.check(index, entry)
            if on_entry is not None:
                on_entry(index, entry)

    def _check_owner(self, entry: entries.Entry, where: str) -> None:
        if self._tenant:  # else the genesis entry is missing, which is named
            self.findings.add(
                f"the entry is of {entry.tenant}/{entry.environment}, the log of {self._tenant}/{self._environment}",
                where,
            )

    def _check_genesis(self, index: int, entry: entries.Entry, where: str) -> None:
        if index:
            self.findings.add("a second log.genesis", where)
            return
        self._tenant, self._environment = entry.tenant, entry.environment
        if entry.type != entries.GENESIS:
            self.findings.add("the first entry is not log.genesis", where)
            return
        if entry.data["vkey"] != self._keys.pinned.vkey:
            self.findings.add("the genesis entry names another key than the pinned one", where)
        self._cites = entry.data.get("predecessor", "")


class _Disclosures:
    """The sealed fields that an export shows, one line an entry, in order of the index."""

    def __init__(self, source: Source, findings: Findings) -> None:
        self._findings = findings
        self._number = 0
        self._lines = findings.attempt(DISCLOSURES, lambda: source.lines(DISCLOSURES))
        self._strings: list[str] = []
        self.due = -1
        """The index of the next entry that has some; -1 when there is none."""
        self._next()

    def check(self, index: int, entry: entries.Entry) -> int:
        """Compare the strings of entry `index` with its digests; return how many hold."""
        strings = self._strings
        where = f"{DISCLOSURES}, line {self._number}, entry {index}"

        def compare() -> int:
            sealed = set(entry.document.get("_sd", ()))
            disclosure.check(strings, REGISTRY[entry.type].sealed)
            if not sealed.issuperset(map(disclosure.digest, strings)):
                raise VerificationError("a disclosure is not one of those that the entry sealed")
            return len(strings)

        count = self._findings.attempt(where, compare) or 0
        self._next()
        return count

    def finish(self, size: int) -> None:
        """Note lines of entries that were not met."""
        while self.due >= 0:
            if self.due >= size:
                self._findings.add(f"there is no entry {self.due}", f"{DISCLOSURES}, line {self._number}")
                return
            self._next()

    def _next(self) -> None:
        before, self.due = self.due, -1
        if self._lines is None:
            return
        where = f"{DISCLOSURES}, line {self._number + 1}"
        read = self._findings.attempt(where, self._read)
        if read is None:
            return
        index, self._strings = read
        if index <= before:
            self._findings.add(f"entry {index} after entry {before}: the lines are in order of the index", where)
            return
        self.due = index

    def _read(self) -> tuple[int, list[str]] | None:
        line = next(self._lines, None) if self._lines is not None else None
        if line is None:
            return None
        self._number += 1
        found = _LINE.fullmatch(line)
        if found is None:
            raise VerificationError("the line is not {index, disclosures}, with at least one disclosure")
        strings = (found["first"] or found["second"]).decode().split(",")
        return int(found["before"] or found["after"]), [one.strip(' "') for one in strings]


class _Below:
    """The files of a source that lie below a folder."""

    def __init__(self, source: Source, folder: str) -> None:
        self._source, self._folder = source, folder

    def read(self, path: str) -> bytes | None:
        return self._source.read(self._folder + path)

    def paths(self, below: str = "tile/") -> Iterable[str]:
        for path in self._source.paths(self._folder + below):
            yield path.removeprefix(self._folder)

    def lines(self, path: str) -> Iterator[bytes] | None:
        return self._source.lines(self._folder + path)
