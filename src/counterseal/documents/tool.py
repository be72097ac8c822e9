"""A tool's descriptor: what it takes, what its loss means, how it is undone, and the very text it runs.

Immutable per `name@version`. The digest covers `connector.config`, so approving a plan approves the SQL or the HTTP
operation behind its steps too. Source: the executor's design, "Tool registry".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import JsonObject, canonical, digest, parse_canonical
from counterseal.documents.fields import NAME_PART, Fields
from counterseal.documents.schema import check_schema
from counterseal.errors import InputInvalid

KIND = "tool"
EFFECTS = ("E0", "E1", "E2", "E3", "E4")
"""What a lost answer means: read, conditional write, keyed write, probeable write, opaque write."""
REVERSIBILITIES = ("R0", "R1", "R2", "R3", "R4")
"""How far an effect can be undone: nothing to undo, transactional, restorable, compensable, irreversible."""
PREVIEWS = ("none", "simulate", "server_dry_run", "tx_rollback")
IDEMPOTENCY = ("none", "key", "natural")
PRE_KINDS = ("etag", "resource_version", "row_digest", "git_head", "absent", "tool_state")
CONNECTORS = ("postgres", "sim")

NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
VERSION = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})")
REFERENCE = re.compile(rf"{NAME.pattern}@{VERSION.pattern}")


@dataclass(frozen=True, slots=True)
class Connector:
    """Which connector runs the tool, and its own configuration (checked by that connector)."""

    kind: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Idempotency:
    """How the target deduplicates: not at all, by the effect key for `window_seconds`, or by nature."""

    kind: str
    window_seconds: int


@dataclass(frozen=True, slots=True)
class ToolDescriptor:
    """One version of one tool, as it was registered. `body` are its exact bytes, `digest` their digest."""

    name: str
    version: str
    title: str
    description: str
    connector: Connector
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    effect: str
    reversibility: str
    residual_effects: tuple[str, ...]
    blast_records: int | None
    preview: str
    probe: bool
    idempotency: Idempotency
    pre_kinds: tuple[str, ...]
    sensitive: tuple[str, ...]
    targets: tuple[str, ...]
    credential_role: str
    max_concurrency: int
    open_world: bool
    body: bytes
    digest: str

    @property
    def reference(self) -> str:
        """`name@version`, as plans name the tool."""
        return f"{self.name}@{self.version}"

    @property
    def reads_only(self) -> bool:
        """Whether the tool has no effect at all (E0): it needs no write grant and nothing to undo."""
        return self.effect == "E0"

    @property
    def can_repeat_undo(self) -> bool:
        """Whether an undo by this tool can be repeated or asked after: idempotent, conditional or probeable."""
        return self.effect in ("E0", "E1") or self.idempotency.kind != "none" or self.probe


def parse_tool(data: bytes) -> ToolDescriptor:
    """Read canonical descriptor bytes. Raises NotCanonical, or InputInvalid with a JSON pointer."""
    return _read(parse_canonical(data), data)


def build_tool(document: JsonObject) -> ToolDescriptor:
    """Make the descriptor of a document given as a value. Raises NotCanonical or InputInvalid."""
    return _read(document, canonical(document))


def _read(document: JsonObject, body: bytes) -> ToolDescriptor:
    fields: Fields[Any] = Fields(document, "", InputInvalid)
    fields.integer("v", least=1, most=1)
    connector = _connector(fields.raw("connector"))
    for key in ("input_schema", "output_schema"):
        check_schema(fields.raw(key), f"/{key}")
    if document["input_schema"].get("type") != "object":
        raise InputInvalid("/input_schema/type: must be object", pointer="/input_schema/type")
    tool = ToolDescriptor(
        name=fields.text("name", most=96, pattern=NAME),
        version=fields.text("version", most=20, pattern=VERSION),
        title=fields.text("title", most=200),
        description=fields.text("description", most=8192),
        connector=connector,
        input_schema=document["input_schema"],
        output_schema=document["output_schema"],
        effect=fields.one_of("effect", EFFECTS),
        reversibility=fields.one_of("reversibility", REVERSIBILITIES),
        residual_effects=fields.texts("residual_effects", most=32),
        blast_records=_blast(fields.raw("blast")),
        preview=fields.one_of("preview", PREVIEWS),
        probe=fields.boolean("probe"),
        idempotency=_idempotency(fields.raw("idempotency")),
        pre_kinds=_words(fields, "pre_kinds", PRE_KINDS),
        sensitive=_pointers(fields),
        targets=fields.texts("targets", most=64, pattern=NAME_PART),
        credential_role=fields.text("credential_role", most=24, pattern=NAME_PART),
        max_concurrency=fields.integer("max_concurrency", least=1, most=10_000),
        open_world=fields.boolean("open_world"),
        body=body,
        digest=digest(KIND, body),
    )
    fields.done()
    _agree(tool, fields)
    return tool


def _agree(tool: ToolDescriptor, fields: "Fields[Any]") -> None:
    """Refuse combinations that say two things at once."""
    if (tool.effect == "E0") != (tool.reversibility == "R0"):
        raise fields.error("R0 (nothing to undo) belongs to E0 (read) and to nothing else", "reversibility")
    if tool.effect == "E2" and (tool.idempotency.kind != "key" or tool.idempotency.window_seconds == 0):
        raise fields.error("E2 needs idempotency by key with a window", "idempotency")
    if tool.effect == "E3" and not tool.probe:
        raise fields.error("E3 needs a probe", "probe")
    if not tool.targets:
        raise fields.error("names no target", "targets")


def _connector(value: Any) -> Connector:
    fields: Fields[Any] = Fields(value, "/connector", InputInvalid)
    kind = fields.one_of("kind", CONNECTORS)
    config = fields.raw("config")
    if not isinstance(config, dict):
        raise fields.error("must be an object", "config")
    fields.done()
    return Connector(kind, config)


def _idempotency(value: Any) -> Idempotency:
    fields: Fields[Any] = Fields(value, "/idempotency", InputInvalid)
    result = Idempotency(fields.one_of("kind", IDEMPOTENCY), fields.integer("window_seconds", most=31_536_000))
    fields.done()
    return result


def _blast(value: Any) -> int | None:
    fields: Fields[Any] = Fields(value, "/blast", InputInvalid)
    records = None if fields.raw("records") is None else fields.integer("records")
    fields.done()
    return records


def _words(fields: "Fields[Any]", key: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    words = fields.texts(key, most=len(choices))
    for word in words:
        if word not in choices:
            raise fields.error(f"holds {word!r}; allowed are {', '.join(choices)}", key)
    return words


def _pointers(fields: "Fields[Any]") -> tuple[str, ...]:
    pointers = fields.texts("sensitive", most=256)
    for pointer in pointers:
        if not pointer.startswith("/"):
            raise fields.error(f"holds {pointer!r}, which is no JSON pointer", "sensitive")
    return pointers
