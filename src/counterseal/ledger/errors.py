"""The one error of this package: whatever bytes come in, nothing else is raised."""

from typing import Literal

Kind = Literal["tampered", "incomplete", "forked", "stale"]
"""What is wrong: bytes that cannot be right, bytes that are absent, two valid heads that exclude each other, or a head
that is older than a living log's can be."""

_MEANING: dict[Kind, str] = {
    "tampered": "The bytes are not what was logged, or not what the format allows. Do not trust this copy.",
    "incomplete": "Nothing contradicts the log, but not all of it is here. Fetch the missing files and verify again.",
    "forked": "Two signed heads of one log exclude each other. Keep both notes: together they are the evidence.",
    "stale": "The log promised a sign of life by now. It stands still, or you are shown an old copy: ask elsewhere.",
}


class VerificationError(Exception):
    """Something that should be proven is not.

    `kind` says what sort of failure it is; `where` names the file, entry or line, where one is known.
    """

    def __init__(self, message: str, *, kind: Kind = "tampered", where: str = "") -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.where = where

    @property
    def message(self) -> str:
        """What does not hold, in one sentence."""
        return str(self.args[0])

    def at(self, where: str) -> "VerificationError":
        """Return the same error with its place named, unless it names one already."""
        return VerificationError(self.message, kind=self.kind, where=self.where or where)

    def diagnostics(self) -> str:
        """Return what a reader needs: where, what, and what follows from it."""
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.message}\n{_MEANING[self.kind]}"
