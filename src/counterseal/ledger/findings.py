"""What a verifier found: collected up to a limit that never changes the verdict."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from counterseal.ledger.errors import Kind, VerificationError

MAX_FINDINGS = 50

_T = TypeVar("_T")
_ORDER: tuple[Kind, ...] = ("forked", "tampered", "stale", "incomplete")


def worst(findings: "list[VerificationError] | tuple[VerificationError, ...]") -> Kind | None:
    """Return the worst kind among findings: forked, tampered, stale, incomplete; None without any."""
    kinds = {finding.kind for finding in findings}
    return next((kind for kind in _ORDER if kind in kinds), None)


@dataclass(slots=True)
class Findings:
    """The findings of one run. `prefix` stands before every place, for logs below another."""

    prefix: str = ""
    kept: list[VerificationError] = field(default_factory=list)
    omitted_count: int = 0

    def add(self, message: str, where: str, kind: Kind = "tampered") -> None:
        """Note that something at `where` does not hold."""
        self.note(VerificationError(message, kind=kind, where=where))

    def note(self, finding: VerificationError) -> None:
        """Keep a finding unless it is known or the limit is reached."""
        if self.prefix:
            finding = VerificationError(finding.message, kind=finding.kind, where=self.prefix + finding.where)
        if any((f.where, f.message) == (finding.where, finding.message) for f in self.kept):
            return
        worse = finding.kind != "incomplete" and all(f.kind == "incomplete" for f in self.kept)
        if len(self.kept) < MAX_FINDINGS or worse:  # the verdict never depends on the cut
            self.kept.append(finding)
        else:
            self.omitted_count += 1

    def attempt(self, where: str, read: Callable[[], _T]) -> _T | None:
        """Return what `read` returns; note what it raises and return None."""
        try:
            return read()
        except VerificationError as error:
            self.note(error.at(where))
            return None
