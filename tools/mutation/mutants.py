"""Mutants of a Python source: one small change each, at a place where a wrong program would still run."""

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}

ERRORS = ("Error", "Refused", "Missing")
"""How classes of errors end here: what they are told is words."""

OPPOSITE = {"any": "all", "all": "any", "min": "max", "max": "min"}


@dataclass(frozen=True)
class Mutant:
    """A changed tree, the line of the change, and what was changed in words that stay the same when lines move.

    No two mutants of a source have the same words.
    """

    line: int
    what: str
    tree: ast.Module


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module. Texts of errors, docstrings and annotations are left alone."""
    tree = ast.parse(source)
    lines = source.split("\n")
    seen: Counter[str] = Counter()
    for node, change in _changes(tree):
        fresh = copy.deepcopy(tree)
        twin = _twin(tree, fresh, node)
        before = ast.unparse(node)
        change(twin)
        after = "(nothing)" if isinstance(node, ast.Raise | ast.Expr) else ast.unparse(twin)
        line = node.lineno  # type: ignore[attr-defined]
        what = f"{lines[line - 1].strip()} :: {before} -> {after}"
        seen[what] += 1
        again = f" ({seen[what]})" if seen[what] > 1 else ""
        yield Mutant(line, what + again, ast.fix_missing_locations(fresh))


Change = tuple[ast.AST, Callable[[ast.AST], None]]


def _changes(tree: ast.Module) -> Iterator[Change]:
    for node in _live(tree):
        if isinstance(node, ast.Compare):
            for at, operator in enumerate(node.ops):
                other = COMPARE.get(type(operator))
                if other is not None:
                    yield node, lambda twin, at=at, other=other: twin.ops.__setitem__(at, other())  # type: ignore[misc]
        elif isinstance(node, ast.BinOp | ast.AugAssign):
            swapped = ARITHMETIC.get(type(node.op))
            if swapped is not None:
                yield node, lambda twin, swapped=swapped: setattr(twin, "op", swapped())  # type: ignore[misc]
        elif isinstance(node, ast.BoolOp):
            opposite = ast.Or if isinstance(node.op, ast.And) else ast.And
            yield node, lambda twin, opposite=opposite: setattr(twin, "op", opposite())  # type: ignore[misc]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, _drop_not
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield node, _drop
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OPPOSITE:
            yield node, _other_call
        elif isinstance(node, ast.If | ast.IfExp) and isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            yield node.test, _negate
        elif isinstance(node, ast.Constant) and not isinstance(node.value, type(None) | type(...)):
            yield node, _other_constant


def _live(tree: ast.Module) -> Iterator[ast.AST]:
    """Walk what runs and can change a verdict: no docstrings, annotations, or words of errors."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop(0)
        yield node
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "type_comment", "type_params", "decorator_list"}:
                continue
            waiting += [
                child
                for child in (value if isinstance(value, list) else [value])
                if isinstance(child, ast.AST) and not _is_text(node, name, child)
            ]


def _is_text(parent: ast.AST, name: str, child: ast.AST) -> bool:
    if isinstance(parent, ast.Expr) and isinstance(child, ast.Constant):
        return True  # a docstring
    if isinstance(parent, ast.Call) and name == "args" and _is_error(parent):
        return True  # the words of an error; its kind is a keyword
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id.startswith("parse_"):
        return child in parent.args[1:]  # what is read, for the words of an error
    return isinstance(parent, ast.FormattedValue) and name != "value"


def _is_error(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id.endswith(ERRORS)


def _drop_not(twin: ast.AST) -> None:
    assert isinstance(twin, ast.UnaryOp)
    twin.op = ast.Not()
    twin.operand = ast.UnaryOp(ast.Not(), twin.operand)


def _drop(twin: ast.AST) -> None:
    """`raise X` or a call whose result nobody takes becomes `pass`, so that the block keeps a statement."""
    twin.__class__ = ast.Pass
    twin.__dict__ = {key: value for key, value in twin.__dict__.items() if "line" in key or "col" in key}


def _other_call(twin: ast.AST) -> None:
    assert isinstance(twin, ast.Call)
    assert isinstance(twin.func, ast.Name)
    twin.func.id = OPPOSITE[twin.func.id]


def _negate(twin: ast.AST) -> None:
    """What is tested becomes its opposite. In place: a copy of the node is what is denied."""
    inner = copy.copy(twin)
    twin.__class__ = ast.UnaryOp
    twin.__dict__ = {key: value for key, value in twin.__dict__.items() if "line" in key or "col" in key}
    twin.op, twin.operand = ast.Not(), inner  # type: ignore[attr-defined]


def _other_constant(twin: ast.AST) -> None:
    assert isinstance(twin, ast.Constant)
    value = twin.value
    if isinstance(value, bool):
        twin.value = not value
    elif isinstance(value, int):
        twin.value = value + 1
    elif isinstance(value, str):
        twin.value = value + "!"
    elif isinstance(value, bytes):
        twin.value = value + b"!"


def _twin(tree: ast.AST, copied: ast.AST, node: ast.AST) -> ast.AST:
    return next(there for here, there in zip(ast.walk(tree), ast.walk(copied), strict=True) if here is node)
