"""`counterseal-policy lint DIR` and `counterseal-policy test DIR`: the server's own compiler and engine on local files.

Exit codes: 0 nothing found, 2 usage, 3 findings or failed cases.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from counterseal.canonical import canonical
from counterseal_policy.rules.compile import Policy, compile_policy, parse_files
from counterseal_policy.rules.condition import ConditionEngine
from counterseal_policy.rules.errors import Finding, PolicyFileError
from counterseal_policy.suites import Report, run_suites

COMMANDS = ("lint", "test")


def main(argv: Sequence[str]) -> int:
    """Run one of the commands and return its exit code."""
    parser = argparse.ArgumentParser(prog="counterseal-policy", description="Check policy files without a server.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("lint", "compile and lint policy files"), ("test", "lint, then run the test suites")):
        command = commands.add_parser(name, help=about)
        command.add_argument("path", type=Path, metavar="DIR", help="a folder of *.yaml files, or one file")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "test":
            command.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    options = parser.parse_args(argv)
    try:
        policy = _load(options.path)
    except OSError as problem:
        sys.stderr.write(f"counterseal-policy: {problem.strerror}: {problem.filename}\n")
        return 2
    except PolicyFileError as problem:
        return _answer(problem.findings, None, options)
    report = run_suites(policy) if options.command == "test" and not policy.errors else None
    return _answer(policy.findings, report, options)


def _load(path: Path) -> Policy:
    names = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    return compile_policy(parse_files([(name.name, name.read_bytes()) for name in names]), ConditionEngine())


def _answer(findings: Sequence[Finding], report: Report | None, options: argparse.Namespace) -> int:
    shown = [*findings, *(report.findings if report else ())]
    failed = [case for case in report.cases if not case.passed] if report else []
    count = len(report.cases) if report else 0
    bad = any(finding.is_error for finding in shown) or bool(failed)
    if options.json:
        document = {
            "v": 1,
            "passed": not bad,
            "findings": [
                {"severity": f.severity, "where": f.where, "code": f.code, "message": f.message} for f in shown
            ],
            "cases": [
                {"suite": case.suite, "name": case.name, "failures": list(case.failures)}
                for case in (report.cases if report else ())
            ],
        }
        sys.stdout.write(canonical(document).decode() + "\n")
    else:
        lines = [finding.line() for finding in shown]
        lines += [f"{case.suite}: FAILED {case.name}: {why}" for case in failed for why in case.failures]
        if report:
            lines.append(f"{count - len(failed)} of {count} cases passed")
        else:
            lines.append(f"{len(shown)} findings")
        sys.stdout.write("\n".join(lines) + "\n")
    if report and options.command == "test" and options.junit:
        options.junit.write_text(_junit(report), encoding="utf-8")
    return 3 if bad else 0


def _junit(report: Report) -> str:
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    failures = sum(not case.passed for case in report.cases)
    lines.append(f'<testsuite name="counterseal-policy" tests="{len(report.cases)}" failures="{failures}">')
    for case in report.cases:
        lines.append(f"<testcase classname={quoteattr(case.suite)} name={quoteattr(case.name)}>")
        lines += [f"<failure message={quoteattr(why)}/>" for why in case.failures]
        lines.append("</testcase>")
    return "\n".join([*lines, "</testsuite>", ""])
