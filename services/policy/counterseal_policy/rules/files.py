"""Policy files: rule sets, tool catalogues, settings and test suites, read from strict YAML, one module per kind."""

from dataclasses import dataclass
from typing import Any

from counterseal.canonical import JsonObject, canonical, digest
from counterseal.documents.fields import NAME_PART, Fields
from counterseal.errors import InputInvalid, NotCanonical
from counterseal_policy.rules import yaml
from counterseal_policy.rules.catalogue import CatalogueTool, Fact, Raise, tool_of
from counterseal_policy.rules.errors import PolicyFileError, error
from counterseal_policy.rules.forms import Approvers, matches
from counterseal_policy.rules.rule_set import Limit, ObligationSpec, Rule, RuleSet, rule_set
from counterseal_policy.rules.settings import Freeze, Settings, StageRule, settings
from counterseal_policy.rules.suite import Case, Suite, suite

API_VERSION = "counterseal/policy.v1"
KINDS = ("RuleSet", "ToolCatalogue", "Settings", "TestSuite")
SCOPES = ("platform", "tenant")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """One file: its identity, its canonical bytes and digest (kind `policy-document`), and what it says."""

    kind: str
    scope: str
    name: str
    file_name: str
    body: bytes
    digest: str
    content: RuleSet | tuple[CatalogueTool, ...] | Settings | Suite


def parse_file(text: bytes, file_name: str) -> PolicyFile:
    """Read one policy file. Raises PolicyFileError."""
    document = yaml.load(text, file_name)
    try:
        return _file(document, file_name, canonical(document))
    except NotCanonical as problem:
        raise PolicyFileError([error(file_name, "SCHEMA", problem.message)]) from None
    except PolicyFileError:
        raise
    except InputInvalid as problem:
        raise PolicyFileError([error(file_name, "SCHEMA", problem.message)]) from None


def _file(document: JsonObject, file_name: str, body: bytes) -> PolicyFile:
    fields: Fields[Any] = Fields(document, "", InputInvalid)
    fields.one_of("apiVersion", (API_VERSION,))
    kind = fields.one_of("kind", KINDS)
    metadata: Fields[Any] = Fields(fields.raw("metadata"), "/metadata", InputInvalid)
    name = metadata.text("name", most=48, pattern=NAME_PART)
    scope = metadata.one_of("scope", SCOPES)
    content: RuleSet | tuple[CatalogueTool, ...] | Settings | Suite
    if kind == "RuleSet":
        content = rule_set(fields, metadata, scope, file_name)
    elif kind == "ToolCatalogue":
        content = fields.items("tools", lambda v, w: tool_of(v, w, file_name), most=1024)
    elif kind == "Settings":
        content = settings(fields)
    else:
        content = suite(fields)
    metadata.done()
    fields.done()
    return PolicyFile(kind, scope, name, file_name, body, digest("policy-document", body), content)


__all__ = [
    "Approvers",
    "Case",
    "CatalogueTool",
    "Fact",
    "Freeze",
    "Limit",
    "ObligationSpec",
    "PolicyFile",
    "Raise",
    "Rule",
    "RuleSet",
    "Settings",
    "StageRule",
    "Suite",
    "matches",
    "parse_file",
]
