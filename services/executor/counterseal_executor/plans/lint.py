"""What makes a well-formed draft unfit to run here. Pure: tools and targets are handed in.

Features whose format is fixed but which this release does not run (`$ref`, `$secret`, `$sealed`, budgets, parallelism,
open-world taint, previews beyond `none`) are refused here by name: a plan must never run with less than it asked for.
"""

from collections.abc import Mapping

from counterseal.canonical import JsonObject
from counterseal.documents.plan import Draft, Step, Undo, markers
from counterseal.documents.schema import validate
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import InputInvalid, PlanInvalid

TOOL_STATE = "tool_state"
MAX_POSTS = 64
LATER = {"$ref": "references between steps", "$secret": "secrets in arguments", "$sealed": "sealed arguments"}


def lint(draft: Draft, tools: Mapping[str, ToolDescriptor], targets: Mapping[str, str]) -> None:
    """Refuse a draft that breaks a rule. Raises PlanInvalid with the JSON pointer of the offence.

    tools: `name@version` -> live descriptor, of every tool that the draft names. targets: alias -> connector kind.
    """
    if draft.content.budgets is not None:
        raise _later("budgets", "/budgets")
    if draft.content.parallelism != 1:
        raise _later("parallelism", "/parallelism")
    for index, step in enumerate(draft.steps):
        where = f"/steps/{index}"
        tool = _tool(tools, step.tool, f"{where}/tool")
        _target(tool, step.target, targets, f"{where}/target")
        _arguments(step.args, tool, f"{where}/args")
        if step.post:
            _posts(step, tool, f"{where}/post")
        if step.undoable is not None:
            if step.undoable.post:
                raise _later("postconditions of an undo", f"{where}/undo/post")
            _undo(step, step.undoable, tool, tools, f"{where}/undo")
    _writes_are_ordered(draft.steps, tools)


def _tool(tools: Mapping[str, ToolDescriptor], reference: str, where: str) -> ToolDescriptor:
    tool = tools.get(reference)
    if tool is None:
        raise PlanInvalid(f"{where}: {reference} is not registered, or retired", pointer=where)
    if tool.open_world:
        raise _later("tools whose output comes from the open world", where)
    return tool


def _target(tool: ToolDescriptor, target: str, targets: Mapping[str, str], where: str) -> None:
    if target not in tool.targets:
        raise PlanInvalid(f"{where}: {tool.reference} does not allow the target {target!r}", pointer=where)
    if targets.get(target) != tool.connector.kind:
        raise PlanInvalid(f"{where}: the target {target!r} is not configured here", pointer=where)


def _arguments(args: Mapping[str, object], tool: ToolDescriptor, where: str) -> None:
    for marker, at in markers(dict(args), where):
        raise _later(LATER.get(marker, f"the reserved object {marker}"), at)
    try:
        validate(tool.input_schema, dict(args), where)
    except InputInvalid as error:
        raise PlanInvalid(error.message, pointer=error.metadata["pointer"]) from None


def _posts(step: Step, tool: ToolDescriptor, where: str) -> None:
    """Refuse postconditions that nobody could read back."""
    if tool.reads_only:
        raise PlanInvalid(f"{where}: {tool.reference} only reads; it leaves nothing to be compared", pointer=where)
    if len(step.post) > MAX_POSTS:
        raise PlanInvalid(f"{where}: at most {MAX_POSTS} postconditions", pointer=where)
    names: set[str] = set()
    for index, condition in enumerate(step.post):
        at = f"{where}/{index}"
        if condition.kind != TOOL_STATE:
            raise _later(f"postconditions of the kind {condition.kind}", f"{at}/kind")
        if condition.ref in names:
            raise PlanInvalid(f"{at}/ref: {condition.ref!r} is named twice", pointer=f"{at}/ref")
        names.add(condition.ref)
    if TOOL_STATE not in tool.pre_kinds:
        raise PlanInvalid(f"{where}: {tool.reference} observes nothing that could be compared", pointer=where)


def _undo(step: Step, undo: Undo, tool: ToolDescriptor, tools: Mapping[str, ToolDescriptor], where: str) -> None:
    if tool.reads_only:
        raise PlanInvalid(f"{where}: {tool.reference} only reads; there is nothing to undo", pointer=where)
    undo_tool = _tool(tools, undo.tool, f"{where}/tool")
    if undo_tool.connector.kind != tool.connector.kind or step.target not in undo_tool.targets:
        raise PlanInvalid(
            f"{where}/tool: {undo.tool} does not reach the target {step.target!r}", pointer=f"{where}/tool"
        )
    if undo_tool.reads_only:
        raise PlanInvalid(f"{where}/tool: {undo.tool} only reads and undoes nothing", pointer=f"{where}/tool")
    if not undo_tool.can_repeat_undo:
        raise PlanInvalid(
            f"{where}/tool: {undo.tool} is neither idempotent nor probeable, so a lost undo could never be settled",
            pointer=f"{where}/tool",
        )
    dynamic = list(markers(dict(undo.args), f"{where}/args"))
    for marker, at in dynamic:
        if marker != "$before":
            raise _later(LATER.get(marker, f"the reserved object {marker}"), at)
    if not dynamic:
        _arguments(undo.args, undo_tool, f"{where}/args")


def _writes_are_ordered(steps: tuple[Step, ...], tools: Mapping[str, ToolDescriptor]) -> None:
    """Two writes on one target need a path between them: otherwise their undos have no order either."""
    ancestors: dict[str, set[str]] = {}

    def before(step: Step) -> set[str]:
        if step.id not in ancestors:
            ancestors[step.id] = set(step.needs)
            for other in steps:
                if other.id in step.needs:
                    ancestors[step.id] |= before(other)
        return ancestors[step.id]

    writes = [(index, step) for index, step in enumerate(steps) if not tools[step.tool].reads_only]
    for at, (index, step) in enumerate(writes):
        for _, earlier in writes[:at]:
            ordered = earlier.id in before(step) or step.id in before(earlier)
            if step.target == earlier.target and not ordered:
                where = f"/steps/{index}/needs"
                raise PlanInvalid(
                    f"{where}: {earlier.id!r} and {step.id!r} both write to {step.target!r}; one must need the other",
                    pointer=where,
                )


def highest(tools: list[ToolDescriptor]) -> JsonObject:
    """Return the worst effect and reversibility of a plan's tools, for `plan.proposed`."""
    return {
        "effect": max(tool.effect for tool in tools),
        "reversibility": max(tool.reversibility for tool in tools),
    }


def scopes_of(tenant: str, environment: str, agent: str | None, request_id: str, names: set[str]) -> list[str]:
    """Return every containment scope of a plan but its own (`plan:<digest>`), as containment names them."""
    scopes = [f"environment:{environment}", f"tenant:{tenant}", f"request:{tenant}/{request_id}"]
    if agent is not None:
        scopes.append(f"agent:{tenant}/{agent}")
    return scopes + [f"tool:{tenant}/{name}" for name in sorted(names)]


def _later(feature: str, where: str) -> PlanInvalid:
    return PlanInvalid(f"{where}: {feature}: not supported by this release", pointer=where, feature=feature)
