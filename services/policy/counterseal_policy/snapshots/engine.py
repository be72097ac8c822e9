"""What a snapshot is called and what it may contain. Pure."""

from collections.abc import Sequence

from counterseal.canonical import digest_of
from counterseal_policy.rules.compile import Policy, compile_policy, parse_files
from counterseal_policy.rules.condition import ENGINE, ConditionEngine, input_digest
from counterseal_policy.rules.errors import Finding, PolicyFileError, error
from counterseal_policy.rules.files import PolicyFile
from counterseal_policy.suites import Report

PLATFORM = "_platform"
MAX_DOCUMENTS = 200


def snapshot_id(files: Sequence[PolicyFile]) -> str:
    """Return the digest of a set of files: their identities and digests, the engine, and what rules may know."""
    documents = sorted([file.kind, file.scope, file.name, file.digest] for file in files)
    return digest_of(
        "policy-snapshot", {"v": 1, "documents": documents, "engine": ENGINE, "rule_input": input_digest()}
    )


def effective_id(platform: str | None, tenant: str | None) -> str:
    """Return the id under which a tenant's decisions are made: of its own snapshot and the platform's."""
    named = {"platform": platform, "tenant": tenant}
    return digest_of("policy-snapshot", {"v": 1, "effective": {k: v for k, v in named.items() if v is not None}})


def compile_documents(texts: Sequence[tuple[str, bytes]], engine: ConditionEngine) -> Policy:
    """Compile and lint a snapshot's files.

    Raises PolicyFileError with every finding that refuses the publication: lint errors, and what this release tests
    but does not enforce.
    """
    if not texts or len(texts) > MAX_DOCUMENTS:
        raise PolicyFileError([error("snapshot", "DOCUMENTS", f"needs 1 to {MAX_DOCUMENTS} documents")])
    policy = compile_policy(parse_files(texts), engine)
    if policy.blockers:
        raise PolicyFileError(policy.blockers)
    return policy


def warnings(policy: Policy, report: Report) -> tuple[Finding, ...]:
    """Return what a publication tells besides. Raises PolicyFileError when a case of a suite is red."""
    red = [error(f"{case.suite}: {case.name}", "CASE_FAILED", why) for case in report.cases for why in case.failures]
    if red:
        raise PolicyFileError(red)
    uncovered = tuple(Finding("warning", item.where, item.code, item.message) for item in report.findings)
    return (*policy.findings, *uncovered)
