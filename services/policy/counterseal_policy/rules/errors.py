"""What is wrong with policy files, as findings that lint, tests and Publish report alike."""

from collections.abc import Iterable
from dataclasses import dataclass

from counterseal.errors import InputInvalid


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in policy files. An `error` refuses a publication, a `warning` does not.

    where: document and place, such as `refunds.yaml: /rules/2/when`. code: stable, for machines.
    """

    severity: str
    where: str
    code: str
    message: str

    @property
    def is_error(self) -> bool:
        """Whether the finding refuses a publication."""
        return self.severity == "error"

    def line(self) -> str:
        """Return the finding as one line for people."""
        return f"{self.where}: {self.severity} {self.code}: {self.message}"


def error(where: str, code: str, message: str) -> Finding:
    """Return a finding that refuses a publication."""
    return Finding("error", where, code, message)


def warning(where: str, code: str, message: str) -> Finding:
    """Return a finding that does not."""
    return Finding("warning", where, code, message)


class PolicyFileError(InputInvalid):
    """A policy file cannot be used; `findings` say why."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        shown = "; ".join(finding.line() for finding in self.findings[:3])
        more = len(self.findings) - 3
        super().__init__(f"{shown} (and {more} more)" if more > 0 else shown)
