"""`audit verify log|checkpoint|entry|consistency|chain`: evidence against the keys that the auditor pinned.

Standard library only. Exit codes: 0 verified, 2 usage, 3 incomplete (a file, a quorum or an outcome is missing), 4
tampered or forked. The verdict is decided before anything is printed, so that a reader who goes away changes nothing.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterseal.canonical import parse_strict
from counterseal.cli import audit_retention
from counterseal.cli.audit_pins import Usage, add_keys, guarded, keys_of, policy_of, read_file, read_vkey
from counterseal.cli.audit_sources import add_access, opened
from counterseal.cli.audit_verdict import Progress, accept, as_json, exit_code, output, refuse, show
from counterseal.errors import NotCanonical
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger import proof as proofs
from counterseal.ledger.chain import Chain
from counterseal.ledger.checkpoint import Checkpoint, open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.policy import Policy, Witnessed
from counterseal.ledger.proof import TlogProof
from counterseal.ledger.registry import REGISTRY
from counterseal.ledger.tiles import CHECKPOINT
from counterseal.ledger.treefiles import consistency
from counterseal.ledger.verify import MAX_FINDINGS, Source, verify_log

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers


class CommandParser(argparse.ArgumentParser):
    """A parser of which one subcommand may be left out: what is no subcommand's name is that one's argument."""

    default_command = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Put the default subcommand in front where none is named."""
        if self.default_command and args and args[0] not in (*self._names(), "-h", "--help"):
            args = [self.default_command, *args]
        return super().parse_known_args(args, namespace)

    def _names(self) -> list[str]:
        return [name for group in self._actions if isinstance(group.choices, dict) for name in group.choices]


def register(commands: "Subparsers") -> None:
    """Add `verify` with its subcommands, and `chain`, the older name of `verify chain`."""
    parser = commands.add_parser("verify", help="verify a log, a checkpoint, one entry, or what actions were proven")
    kinds = parser.add_subparsers(dest="verify_command", metavar="KIND", required=True)
    parser.default_command = "log"  # type: ignore[attr-defined]

    whole = "verify an exported log: every entry, tile, root, key and signature (the default: `verify DIR`)"
    _add_log(kinds.add_parser("log", help=whole), run)
    chained = "verify a log, and the chain from decision to outcome inside it"
    for one in (
        kinds.add_parser("chain", help=chained),
        commands.add_parser("chain", help="the same as `verify chain`"),
    ):
        _add_log(one, run_chain)
        one.add_argument("--platform", metavar="SOURCE", help="the log that shows the platform's policy, if another")
        one.add_argument("--platform-vkey", metavar="FILE_OR_STRING", help="that log's verifier key")

    one = kinds.add_parser("checkpoint", help="verify a signed head by itself")
    one.add_argument("note", metavar="NOTE", help="the file")
    add_keys(one)
    _add_rotations(one)
    add_access(one)
    one.set_defaults(run=run_checkpoint)

    one = kinds.add_parser("entry", help="verify that an entry is in the log, from its .tlog-proof")
    one.add_argument("proof", metavar="PROOF", help="the .tlog-proof file")
    one.add_argument("--entry", metavar="FILE", help="the entry's bytes, default: PROOF with .entry.json as its ending")
    add_keys(one)
    _add_rotations(one)
    add_access(one)
    one.set_defaults(run=run_entry)

    one = kinds.add_parser("consistency", help="verify that one head of a log is an extension of another")
    one.add_argument("old", metavar="A", help="a signed head: a note, or an export")
    one.add_argument("new", metavar="B", help="another; where their sizes differ, the larger is an export with tiles")
    add_keys(one)
    _add_rotations(one)
    add_access(one)
    one.set_defaults(run=run_consistency)

    audit_retention.register_check(kinds)


def _add_log(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("directory", metavar="SOURCE", help="the export (directory or zip), or the log's URL")
    add_keys(parser)
    parser.add_argument("--since", metavar="NOTE", help="a checkpoint that you kept: finds a cut or rewritten history")
    add_access(parser)
    parser.set_defaults(run=command)


def _add_rotations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log",
        metavar="SOURCE",
        help="an export of the log: it is verified with the pinned key, and the keys it was rotated to are trusted too",
    )


def run(args: argparse.Namespace) -> int:
    """Verify a log and print what holds and what does not."""
    return guarded(lambda: _verify(args, None))


def run_chain(args: argparse.Namespace) -> int:
    """Verify a log, then the chain of evidence inside it."""

    def work() -> int:
        try:
            snapshots = _platform_snapshots(args)
        except VerificationError as error:
            return refuse(args, error.at(args.platform))
        return _verify(args, Chain(snapshots))

    return guarded(work)


def _platform_snapshots(args: argparse.Namespace) -> set[str]:
    """Return the policy snapshots that the platform's log shows as activated; that log must verify too."""
    if args.platform is None:
        return set()
    if args.platform_vkey is None:
        raise Usage("--platform needs --platform-vkey")
    try:
        key = read_vkey(args.platform_vkey)
    except VerificationError as error:
        raise Usage(f"--platform-vkey: {error.message}") from None
    chain = Chain()
    with opened(args.platform, args) as source:
        if source is None:
            raise Usage(f"{args.platform} is not a directory, a zip or a URL")
        report = verify_log(source, key, None, chain.add, on_progress=Progress())
    if report.findings:
        raise report.findings[0]
    return chain.snapshots


def run_checkpoint(args: argparse.Namespace) -> int:
    """Verify a signed head."""

    def work() -> int:
        data = read_file(args.note)
        try:
            checkpoint, times = _open(data, _all_keys(args), policy_of(args))
        except VerificationError as error:
            return refuse(args, error.at(args.note))
        return accept(args, checkpoint, times)

    return guarded(work)


def run_entry(args: argparse.Namespace) -> int:
    """Verify an entry by its offline proof, and the disclosures that the proof carries."""

    def work() -> int:
        file = Path(args.proof)
        data = read_file(args.entry or str(file.with_name(file.name.removesuffix(".tlog-proof") + ".entry.json")))
        trust = policy_of(args)
        raw = read_file(args.proof)
        try:
            keys = _all_keys(args)
            proof = proofs.parse(raw)
            checkpoint, times = _open(proof.checkpoint, keys, trust)
            proof.verify(data, keys)
            entry = entries.parse(data)
            shown = _disclosed(proof, entry)
        except VerificationError as error:
            return refuse(args, error.at(args.proof))
        more = {"index": proof.index, "type": entry.type, "event_id": entry.event_id, "disclosed": shown}
        return accept(args, checkpoint, times, more)

    return guarded(work)


def run_consistency(args: argparse.Namespace) -> int:
    """Verify that the larger of two heads is an extension of the smaller."""

    def work() -> int:
        trust = policy_of(args)
        try:
            keys = _all_keys(args)
            with ExitStack() as stack:
                heads = [_head_of(text, args, stack) for text in (args.old, args.new)]
                checked = [(_open(data, keys, trust)[0], source) for data, source in heads]
                (old, _), (new, source) = sorted(checked, key=lambda one: one[0].size)
                if old.origin != new.origin:
                    raise VerificationError(f"the heads are of two logs, {old.origin} and {new.origin}")
                consistency(source, old, new)
        except VerificationError as error:
            return refuse(args, error.at(f"{args.old}, {args.new}"))
        return accept(args, new, {}, {"old_size": old.size})

    return guarded(work)


def _verify(args: argparse.Namespace, chain: Chain | None) -> int:
    key, *pinned = keys_of(args)
    trust = policy_of(args)
    since = read_file(args.since) if args.since is not None else None
    on_entry = chain.add if chain is not None else None
    try:
        with opened(args.directory, args) as source:
            if source is None:
                raise Usage(f"{args.directory} is not a directory, a zip or a URL")
            report = verify_log(source, key, since, on_entry, policy=trust, pinned=pinned, on_progress=Progress())
    except VerificationError as error:
        return refuse(args, error.at(args.directory))
    if chain is not None and not report.findings:
        found = chain.findings()
        report = replace(report, findings=tuple(found[:MAX_FINDINGS]), omitted_count=len(found[MAX_FINDINGS:]))
    output(args, as_json(report), lambda: show(report))
    return exit_code(report)


def _all_keys(args: argparse.Namespace) -> list[VerifierKey]:
    """Return the pinned keys, and those that the log named by --log was rotated to. Raises VerificationError, Usage."""
    keys = keys_of(args)
    if args.log is None:
        return keys
    first, *pinned = keys
    with opened(args.log, args) as source:
        if source is None:
            raise Usage(f"{args.log} is not a directory, a zip or a URL")
        report = verify_log(source, first, pinned=pinned, on_progress=Progress())
    if report.findings:
        raise report.findings[0].at(args.log)
    found = [key for one in (report, *report.shards) for key in one.keys]
    return [*keys, *(key for key in found if key not in keys)]


def _head_of(text: str, args: argparse.Namespace, stack: ExitStack) -> tuple[bytes, Source | None]:
    """Return the signed head that `text` names, and its export when it is one."""
    if Path(text).is_file() and not text.endswith(".zip"):
        return read_file(text), None
    source = stack.enter_context(opened(text, args))
    if source is None:
        raise Usage(f"{text} is neither a note nor an export")
    data = source.read(CHECKPOINT)
    if data is None:
        raise VerificationError("the file is missing", kind="incomplete", where=f"{text}: {CHECKPOINT}")
    return data, source


def _open(data: bytes, keys: list[VerifierKey], trust: Policy | None) -> tuple[Checkpoint, dict[str, int]]:
    if trust is None:
        return open_checkpoint(data, keys), {}
    witnessed: Witnessed = trust.open(data, keys)
    return witnessed.checkpoint, dict(witnessed.times)


def _disclosed(proof: TlogProof, entry: entries.Entry) -> dict[str, Any]:
    """Return the sealed fields that the proof's `extra` line opens, by name; each must be one that the entry sealed."""
    if proof.extra is None:
        return {}
    try:
        strings = parse_strict(proof.extra).get("disclosures")
    except NotCanonical:
        strings = None
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise VerificationError("the proof's extra line does not hold disclosures")
    found = disclosure.check(strings, REGISTRY[entry.type].sealed)
    if not set(entry.document.get("_sd", ())).issuperset(map(disclosure.digest, strings)):
        raise VerificationError("a disclosure is not one of those that the entry sealed")
    return {one.name: one.value for one in found}
