"""`audit erase|erasures|hold|disclose` and `audit verify payloads`: what people do about the sealed part of entries."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterseal.cli import exits, payload_check
from counterseal.cli.entry_name import METAVAR, parse_entry_name, place_name
from counterseal.cli.options import add_options
from counterseal.cli.output import complain, emit, fenced, say
from counterseal.errors import InputInvalid, LogForked
from counterseal.ids import is_id
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from counterseal.api.audit.v1 import retention_pb2 as pb
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person


def register(commands: "Subparsers") -> None:
    """Add the commands to `audit`."""
    one = commands.add_parser("erase", help="erase what the log holds sealed about a person (two people)")
    one.add_argument("subject", metavar="SUBJECT", help="who, as tokens name them (user:ana), or a pseudonym (p_...)")
    one.add_argument("--note", default="", help="why in words; sealed in the ledger")
    one.add_argument("--request-digest", default="", help="what the first person's call printed")
    _finish(one, erase)

    one = commands.add_parser("erasures", help="list erasures and who has still to report")
    one.add_argument("job_id", nargs="?", metavar="JOB_ID", help="only this one")
    one.add_argument("--unfinished", action="store_true", help="only those that are not finished")
    _finish(one, erasures)

    parser = commands.add_parser("hold", help="keep payload from being dropped by age")
    kinds = parser.add_subparsers(dest="hold_command", metavar="COMMAND", required=True)
    one = kinds.add_parser("place", help="place a legal hold")
    covers = one.add_mutually_exclusive_group(required=True)
    covers.add_argument("--subject", help="everything that names this person")
    covers.add_argument("--request-id", help="everything of this request")
    covers.add_argument("--plan-digest", help="everything of this plan")
    one.add_argument("--note", default="", help="why in words; sealed in the ledger")
    _finish(one, place)
    one = kinds.add_parser("lift", help="lift a legal hold")
    one.add_argument("hold_id", metavar="HOLD_ID")
    one.add_argument("--note", default="", help="why in words; sealed in the ledger")
    _finish(one, lift)
    one = kinds.add_parser("list", help="list legal holds")
    one.add_argument("--all", action="store_true", help="lifted ones too")
    _finish(one, holds)

    one = commands.add_parser("disclose", help="show chosen sealed fields of an entry; the log records that you did")
    one.add_argument("entry", metavar=METAVAR)
    one.add_argument("--name", action="append", required=True, metavar="FIELD", help="a sealed field; may be repeated")
    one.add_argument("--purpose", required=True, help="what it is for, a code such as case-4711; in clear in the log")
    one.add_argument("--note", default="", help="more words; sealed in the ledger")
    one.add_argument("--out", metavar="FILE", help="also write entry, proof and disclosures beside this name")
    _finish(one, disclose)


def register_check(kinds: "Subparsers") -> None:
    """Add `payloads` to `audit verify`."""
    one = kinds.add_parser("payloads", help="ask the service whether any sealed field is missing without a declaration")
    _finish(one, check)


def _finish(parser: argparse.ArgumentParser, command: Any) -> None:
    add_options(parser)
    parser.set_defaults(run=command)


def erase(args: argparse.Namespace) -> int:
    """Ask for an erasure, or order it as the second person."""

    async def work(person: "Person") -> int:
        answer = await person.erase(args.subject, args.note, args.request_digest)
        waits = answer.HasField("second_person")
        if args.json:
            _emit(answer)
        elif waits:
            say(f"person    {answer.person}")
            say("nothing was erased yet; another person with such a role has to repeat this within the hour with:")
            say(f"  --request-digest {answer.second_person.request_digest}")
        else:
            _show_erasure(answer.erasure)
        return exits.APPROVAL_PENDING if waits else exits.OK

    return _as_person(args, work)


def erasures(args: argparse.Namespace) -> int:
    """List erasures; exit 3 when one of those shown is not finished."""
    if args.job_id is not None and not is_id(args.job_id):
        raise InputInvalid("an erasure is named by its id")

    async def work(person: "Person") -> int:
        found = await person.erasures(args.job_id or "", unfinished_only=args.unfinished)
        if args.json:
            _emit_all("erasures", found)
        else:
            for one in found:
                _show_erasure(one)
            if not found:
                say("none")
        return exits.REFUSED if any(one.missing for one in found) else exits.OK

    return _as_person(args, work)


def place(args: argparse.Namespace) -> int:
    """Place a hold."""

    async def work(person: "Person") -> int:
        covers = {"subject": args.subject, "request_id": args.request_id, "plan_digest": args.plan_digest}
        _show_holds(args, [await person.place_hold(args.note, **{k: v for k, v in covers.items() if v is not None})])
        return exits.OK

    return _as_person(args, work)


def lift(args: argparse.Namespace) -> int:
    """Lift a hold."""

    async def work(person: "Person") -> int:
        _show_holds(args, [await person.lift_hold(args.hold_id, args.note)])
        return exits.OK

    return _as_person(args, work)


def holds(args: argparse.Namespace) -> int:
    """List holds."""

    async def work(person: "Person") -> int:
        _show_holds(args, await person.holds(include_lifted=args.all))
        return exits.OK

    return _as_person(args, work)


def disclose(args: argparse.Namespace) -> int:
    """Show sealed fields, after checking that they are what the entry sealed."""
    named = parse_entry_name(args.entry)

    async def work(person: "Person") -> int:
        answer = await person.disclose(args.name, args.purpose, args.note, **named)
        try:
            shown = _checked(answer.entry.entry, answer.disclosures)
        except VerificationError as error:
            raise LogForked(f"the service disclosed what the entry does not hold: {error.message}") from error
        if args.out:
            _write(Path(args.out), answer)
        if args.json:
            emit(
                {
                    "index": answer.entry.index,
                    "shard": answer.entry.shard,
                    "disclosures": list(answer.disclosures),
                    "fields": {one.name: one.value for one in shown},
                    "disclosed_event_id": answer.disclosed_event_id,
                    "manifest_digest": answer.manifest_digest,
                }
            )
        else:
            say(f"entry     {place_name(answer.entry.shard, answer.entry.index)}")
            for one in shown:
                say(f"{one.name}:")
                print(fenced(one.value if isinstance(one.value, str) else str(one.value)))
            say(f"recorded  access.disclosed {answer.disclosed_event_id}")
        return exits.OK

    return _as_person(args, work)


def check(args: argparse.Namespace) -> int:
    """Ask for a check: 0 all there or declared, 3 an erasure is unfinished, 4 something is missing or altered."""

    def on_finding(one: payload_check.Finding) -> None:
        if not args.json:
            say(f"{one['kind']}: entry {one['index']}: {one['message']}")

    async def work(person: "Person") -> int:
        checked = await payload_check.check(person, on_finding)
        if not checked.counts:
            complain(payload_check.UNENDED)
        elif args.json:
            emit(checked.as_json())
        else:
            counts = checked.counts
            if counts["finding_count"] > len(checked.findings):
                say(f"... and {counts['finding_count'] - len(checked.findings)} more findings")
            say(f"entries   {counts['size']}")
            say(f"sealed    {counts['intact_count']} fields there, {counts['declared_count']} gone as the log declares")
            say(f"verdict   {checked.verdict}")
        return payload_check.EXITS[checked.verdict]

    return _as_person(args, work)


def _checked(entry: bytes, disclosures: "Sequence[str]") -> list[disclosure.Disclosure]:
    """Return the disclosures in the open. Raises VerificationError unless the entry's digests cover each."""
    sealed = entries.parse(entry).document.get("_sd", [])
    if any(disclosure.digest(one) not in sealed for one in disclosures):
        raise VerificationError("a disclosure is not of this entry")
    return [disclosure.parse(one) for one in disclosures]


def _write(out: Path, answer: Any) -> None:
    out.with_suffix(".entry.json").write_bytes(answer.entry.entry)
    out.with_suffix(".disclosures").write_text("".join(f"{one}\n" for one in answer.disclosures), encoding="ascii")
    if answer.tlog_proof:
        out.with_suffix(".tlog-proof").write_bytes(answer.tlog_proof)


def _show_erasure(one: "pb.Erasure") -> None:
    from counterseal.api.audit.v1 import retention_pb2 as pb

    state = pb.ErasureState.Name(one.state).removeprefix("ERASURE_STATE_")
    say(f"erasure   {one.job_id}  {state}")
    say(f"person    {one.person}")
    say(f"ordered   {one.order_time.ToJsonString()}, entry {one.event_id}")
    say(f"rows      {one.count} deleted in the ledger")
    say(f"reported  {', '.join(one.reported) or 'nobody'}")
    if one.missing:
        say(f"missing   {', '.join(one.missing)}")


def _show_holds(args: argparse.Namespace, found: "list[pb.Hold]") -> None:
    if args.json:
        _emit_all("holds", found)
        return
    for one in found:
        kind = one.WhichOneof("covers") or ""
        lifted = f", lifted {one.lift_time.ToJsonString()}" if one.HasField("lift_time") else ""
        say(f"hold      {one.hold_id}")
        say(f"covers    {kind} {getattr(one, kind)}")
        say(f"rows      {one.count}, since {one.place_time.ToJsonString()}{lifted}")
    if not found:
        say("none")


def _emit(message: Any) -> None:
    from counterseal.cli.views import as_json

    emit(as_json(message))


def _emit_all(name: str, found: Any) -> None:
    from counterseal.cli.views import as_json

    emit({name: [as_json(one) for one in found]})


def _as_person(args: argparse.Namespace, work: Any) -> int:
    from counterseal.cli.session import as_person

    return as_person(args, work)
