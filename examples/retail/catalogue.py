"""The tools of the retail workload: JSON descriptors whose SQL lies in files of its own, one statement each.

`python -m examples.retail.catalogue` prints the digest of each, as `policy/tools.yaml` names them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counterseal.canonical import JsonObject, parse_strict
from counterseal.client import Draft, Step, Undo
from counterseal.documents.tool import ToolDescriptor, build_tool
from counterseal.errors import InputInvalid

HERE = Path(__file__).resolve().parent
TARGET = "shop"
TENANT = "retail"
UNDO = "retail.restore@1.0.0"
BEFORE_IMAGE = {"order": {"$before": "/0/order"}, "customer": {"$before": "/0/customer"}}
TIMEOUT_SECONDS = 30
CONFIDENCE_PPM = 990_000
"""The workload's calls are given, not guessed by a model."""


def documents() -> list[JsonObject]:
    """Return every descriptor as it is registered, `@name.sql` replaced by that file's text, sorted by name."""
    return [_inlined(parse_strict(path.read_bytes())) for path in sorted((HERE / "tools").glob("*.json"))]


def descriptors() -> list[ToolDescriptor]:
    """Return every descriptor, parsed and checked."""
    return [build_tool(document) for document in documents()]


def policy_files() -> list[tuple[str, bytes]]:
    """Return the policy's files as (name, text), sorted by name."""
    return [(path.name, path.read_bytes()) for path in sorted((HERE / "policy").glob("*.yaml"))]


def draft(tools: Mapping[str, ToolDescriptor], name: str, args: Any) -> Draft:
    """Return the plan of one call; a write names its undo. tools: by their names in the task files.

    A tool that is not among them is asked for all the same: the executor says that there is none.
    Raises InputInvalid when the arguments are no object.
    """
    if not isinstance(args, dict):
        raise InputInvalid("a tool's arguments are a JSON object")
    tool = tools.get(name)
    if tool is None:
        return Draft(name, [Step("s1", f"retail.{name}@1.0.0", TARGET, args)], confidence_ppm=CONFIDENCE_PPM)
    undo = None if tool.reads_only else Undo(UNDO, BEFORE_IMAGE)
    step = Step("s1", tool.reference, TARGET, args, undo=undo, timeout_seconds=TIMEOUT_SECONDS)
    return Draft(tool.title, [step], confidence_ppm=CONFIDENCE_PPM)


def _inlined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inlined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_inlined(item) for item in value]
    if isinstance(value, str) and value.startswith("@") and value.endswith(".sql"):
        return (HERE / "sql" / value[1:]).read_text(encoding="utf-8").rstrip("\n")
    return value


if __name__ == "__main__":
    for descriptor in descriptors():
        print(descriptor.digest, descriptor.reference)
