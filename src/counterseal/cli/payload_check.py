"""The service's check of sealed fields, asked with a person's login: what `verify payloads` and `monitor` share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterseal.cli import exits

if TYPE_CHECKING:
    from counterseal.client import Person

EXITS = {"verified": exits.OK, "incomplete": exits.REFUSED, "tampered": exits.TAMPERED}
COUNTS = ("size", "intact_count", "declared_count", "finding_count")
UNENDED = "the check did not come to its end"

Finding = Mapping[str, Any]
"""`kind` (tampered, incomplete), `index` of the entry or None, `message`."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to. counts: as the service sums them up; empty when the check did not come to its end."""

    findings: tuple[Finding, ...]
    counts: Mapping[str, int]

    @property
    def verdict(self) -> str:
        """Return `tampered`, `incomplete` (an erasure, or the check itself, is not finished) or `verified`."""
        if any(one["kind"] == "tampered" for one in self.findings):
            return "tampered"
        return "incomplete" if self.findings or not self.counts else "verified"

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {"verdict": self.verdict, "findings": [dict(one) for one in self.findings], **self.counts}


async def check(person: "Person", on_finding: Callable[[Finding], None] = lambda _: None) -> Checked:
    """Ask for a check of the tenant's whole payload; `on_finding` hears of each finding as it comes.

    Raises ServiceError.
    """
    last = None
    findings: list[Finding] = []
    async for last in person.check_payloads():
        for one in last.findings:
            findings.append({"kind": one.kind, "index": int(one.index), "message": one.message})
            on_finding(findings[-1])
    if last is None or last.checked_count < last.size:
        return Checked(tuple(findings), {})
    return Checked(tuple(findings), {name: int(getattr(last, name)) for name in COUNTS})
