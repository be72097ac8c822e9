"""Trust policies (C2SP tlog-policy.md): which logs and witnesses are known, and which witnesses together suffice.

The file is lines of octets; names are opaque, so they are kept as text that is bijective to their octets. A witness or
log whose key has an algorithm that this library does not have may be listed; it counts as never having signed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from counterseal.ledger.checkpoint import Checkpoint, open_signed
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import COSIGNATURE, ED25519, VerifierKey, split_vkey

MAX_BYTES = 1 << 20
MAX_DEFINED = 256
"""How many logs, and how many witnesses and groups together, a policy may have (the specification wants 32)."""

NONE = "none"

_SPACE = re.compile(r"[ \t]+")
_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_ALGORITHMS = (ED25519, COSIGNATURE)


@dataclass(frozen=True, slots=True)
class Peer:
    """A log or a witness: its key, None when its algorithm is not ours, and where it answers, "" if it does not say."""

    name: str
    key: VerifierKey | None
    url: str


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that satisfies a policy, and when (POSIX seconds) each known witness cosigned it, by name."""

    checkpoint: Checkpoint
    times: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy. groups: name -> (how many members must have cosigned, the members), each after its members."""

    logs: tuple[Peer, ...]
    witnesses: tuple[Peer, ...]
    groups: Mapping[str, tuple[int, tuple[str, ...]]]
    quorum: str

    @property
    def log_keys(self) -> list[VerifierKey]:
        """The keys of the listed logs."""
        return [log.key for log in self.logs if log.key is not None]

    @property
    def witness_keys(self) -> list[VerifierKey]:
        """The keys of the listed witnesses."""
        return [witness.key for witness in self.witnesses if witness.key is not None]

    def is_met_by(self, cosigners: Iterable[VerifierKey]) -> bool:
        """Tell whether the witnesses behind these keys, whose cosignatures were verified, are a quorum."""
        if self.quorum == NONE:
            return True
        keys = set(cosigners)
        met = {witness.name for witness in self.witnesses if witness.key in keys}
        for name, (least, members) in self.groups.items():
            if sum(member in met for member in members) >= least:
                met.add(name)
        return self.quorum in met

    def open(self, data: bytes, log_keys: Iterable[VerifierKey] = ()) -> Witnessed:
        """Verify a signed checkpoint: by a log that is listed here or given, and cosigned by a quorum.

        Raises VerificationError; of kind `incomplete` when all that is missing is the quorum.
        """
        logs = list(dict.fromkeys([*self.log_keys, *log_keys]))
        checkpoint, note = open_signed(data, [*logs, *self.witness_keys])
        times = {
            one.name: note.times[one.key] for one in self.witnesses if one.key is not None and one.key in note.times
        }
        if not self.is_met_by(note.times):
            raise VerificationError(
                f"the checkpoint of size {checkpoint.size} is not cosigned by the quorum {self.quorum!r}; "
                f"witnesses that did: {', '.join(sorted(times)) or 'none'}",
                kind="incomplete",
            )
        return Witnessed(checkpoint, times)


def parse(data: bytes) -> Policy:
    """Read a policy file. Raises VerificationError naming the line."""
    if len(data) > MAX_BYTES:
        raise VerificationError(f"a policy of {len(data)} bytes; at most {MAX_BYTES} are read")
    bad = _FORBIDDEN.search(data)
    if bad is not None:
        raise VerificationError(f"the policy holds a control character at byte {bad.start()}")
    reader = _Reader()
    for number, line in enumerate(data.decode(errors="surrogateescape").split("\n"), 1):
        words = _SPACE.split(line.strip(" \t"))
        if words == [""] or words[0].startswith("#"):
            continue
        try:
            reader.take(words)
        except VerificationError as error:
            raise error.at(f"line {number}") from None
    return reader.policy()


@dataclass(slots=True)
class _Reader:
    """What the lines so far defined."""

    logs: list[Peer] = field(default_factory=list)
    witnesses: list[Peer] = field(default_factory=list)
    groups: dict[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    materials: set[tuple[str, bytes]] = field(default_factory=set)
    quorum: str = ""

    def take(self, words: list[str]) -> None:
        kind, rest = words[0], words[1:]
        if kind == "log" and 1 <= len(rest) <= 2:
            self.logs.append(self._peer("log", "", rest))
        elif kind == "witness" and 2 <= len(rest) <= 3:
            self._define(rest[0])
            self.witnesses.append(self._peer("witness", rest[0], rest[1:]))
        elif kind == "group" and len(rest) >= 3:
            self._group(rest[0], rest[1], tuple(rest[2:]))
        elif kind == "quorum" and len(rest) == 1:
            self._quorum(rest[0])
        else:
            raise VerificationError("the line is none of: log, witness, group, quorum, with what each needs")

    def policy(self) -> Policy:
        if not self.quorum:
            raise VerificationError("the policy has no quorum line")
        return Policy(tuple(self.logs), tuple(self.witnesses), self.groups, self.quorum)

    def _peer(self, kind: str, name: str, rest: list[str]) -> Peer:
        own, material = split_vkey(rest[0])
        known = (kind, material[1:])
        if known in self.materials:
            raise VerificationError(f"the public key of this {kind} was listed before")
        if len(self.logs) >= MAX_DEFINED:
            raise VerificationError(f"more than {MAX_DEFINED} logs")
        self.materials.add(known)
        read = VerifierKey.parse if kind == "log" else VerifierKey.parse_cosigner
        key = read(rest[0]) if material[0] in _ALGORITHMS else None
        return Peer(name or own, key, rest[1] if len(rest) > 1 else "")

    def _define(self, name: str) -> None:
        if name == NONE or name in self.names:
            raise VerificationError(f"the name {name!r} is predefined or was defined before")
        if len(self.names) >= MAX_DEFINED:
            raise VerificationError(f"more than {MAX_DEFINED} witnesses and groups")
        self.names.add(name)

    def _group(self, name: str, least: str, members: tuple[str, ...]) -> None:
        for member in members:
            if member not in self.names:
                raise VerificationError(f"the group member {member!r} is not defined on a line before")
            if member in self.members:
                raise VerificationError(f"{member!r} is a group member already")
            self.members.add(member)
        if least == "all":
            count = len(members)
        elif least == "any":
            count = 1
        elif _COUNT.fullmatch(least) and int(least) <= len(members):
            count = int(least)
        else:
            raise VerificationError(f"{least!r} is none of: all, any, a number from 1 to {len(members)}")
        self._define(name)
        self.groups[name] = (count, members)

    def _quorum(self, name: str) -> None:
        if self.quorum:
            raise VerificationError("a second quorum line")
        if name != NONE and name not in self.names:
            raise VerificationError(f"the quorum {name!r} is not defined on a line before")
        self.quorum = name
