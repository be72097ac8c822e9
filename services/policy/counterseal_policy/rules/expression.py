"""What a compiled condition reads and calls: its read-set, and the constructs that are banned because they can hang,
leak or differ between processes.

Works on the engine's serialised `cel.expr.CheckedExpr`; the library has no interface for its syntax tree.
Source of the bans: the policy design, section 1 (each was reproduced).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage

from counterseal.api.policy.v1.checked_expr_pb2 import CelCheckedExpr, CelComprehension, CelExpr

_OFFSET = re.compile(r"UTC|[+-]\d\d:\d\d")
_ZONED = frozenset(
    {
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    }
)
_BANNED_CALLS = {
    "dyn": "dyn() switches type checking off",
    "type": "type() makes a rule depend on the engine's types",
}
MAX_NODES = 2000


@dataclass(frozen=True, slots=True)
class Expression:
    """reads: dotted paths such as `action.num.amount_minor`. guarded: paths that only `has()` looks at.

    problems: (code, message) of each banned construct.
    """

    reads: frozenset[str]
    guarded: frozenset[str]
    problems: tuple[tuple[str, str], ...]


def inspect(serialized: bytes) -> Expression:
    """Read `Expression.serialize()` of the engine."""
    wrapper = AnyMessage.FromString(serialized)
    checked = CelCheckedExpr.FromString(wrapper.value)
    walker = _Walker(checked)
    walker.walk(checked.expr, in_loop=False)
    return Expression(frozenset(walker.reads), frozenset(walker.guarded), tuple(dict.fromkeys(walker.problems)))


class _Walker:
    def __init__(self, checked: CelCheckedExpr) -> None:
        self._types = checked.type_map
        self.reads: set[str] = set()
        self.guarded: set[str] = set()
        self.problems: list[tuple[str, str]] = []
        self._local: set[str] = set()
        self._nodes = 0

    def walk(self, expr: CelExpr, *, in_loop: bool) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._problem("TOO_LARGE", f"the condition has more than {MAX_NODES} nodes")
            return
        kind = expr.WhichOneof("expr_kind")
        if kind in ("ident_expr", "select_expr") or self._is_index(expr):
            self._read(expr, in_loop=in_loop)
        elif kind == "call_expr":
            self._call(expr, in_loop=in_loop)
        elif kind == "comprehension_expr":
            self._comprehension(expr.comprehension_expr, in_loop=in_loop)
        elif kind == "struct_expr":
            self._problem("STRUCT", "message and map literals are not allowed")
        elif kind is None:
            self._problem("UNKNOWN_NODE", "the condition holds a construct that the lint does not know")
        else:
            for child in expr.list_expr.elements:
                self.walk(child, in_loop=in_loop)

    def _read(self, expr: CelExpr, *, in_loop: bool) -> None:
        path, test_only, others = self._path(expr)
        for other in others:
            self.walk(other, in_loop=in_loop)
        if path is not None and path.split(".")[0] not in self._local:
            (self.guarded if test_only else self.reads).add(path)

    def _path(self, expr: CelExpr) -> tuple[str | None, bool, list[CelExpr]]:
        """Return the dotted path of a chain of selects, whether it ends in has(), and what else must be walked."""
        parts: list[str] = []
        test_only = False
        while True:
            kind = expr.WhichOneof("expr_kind")
            if kind == "select_expr":
                parts.append(expr.select_expr.field)
                test_only = test_only or expr.select_expr.test_only
                expr = expr.select_expr.operand
            elif self._is_index(expr):
                key = expr.call_expr.args[1].const_expr
                literal = key.WhichOneof("constant_kind")
                if literal not in ("string_value", "int64_value"):
                    self._problem("DYNAMIC_KEY", "index maps and lists by a literal only")
                    return None, False, list(expr.call_expr.args)
                if literal == "string_value":
                    parts.append(key.string_value)
                expr = expr.call_expr.args[0]
            elif kind == "ident_expr":
                parts.append(expr.ident_expr.name)
                return ".".join(reversed(parts)), test_only, []
            else:
                return None, False, [expr]

    def _is_index(self, expr: CelExpr) -> bool:
        return expr.WhichOneof("expr_kind") == "call_expr" and expr.call_expr.function == "_[_]"

    def _call(self, expr: CelExpr, *, in_loop: bool) -> None:
        call = expr.call_expr
        name, args = call.function, list(call.args)
        if name in _BANNED_CALLS:
            self._problem("BANNED_CALL", _BANNED_CALLS[name])
        if name == "matches":
            self._matches(args, in_loop=in_loop)
        if name in _ZONED and args:
            zone = args[0].const_expr
            if zone.WhichOneof("constant_kind") != "string_value" or not _OFFSET.fullmatch(zone.string_value):
                self._problem("NAMED_ZONE", "time zones are UTC or a fixed offset such as +01:00, as a literal")
        if name == "@in":
            self._membership(args, in_loop=in_loop)
            return
        for child in self._children(expr):
            self.walk(child, in_loop=in_loop)

    def _membership(self, args: list[CelExpr], *, in_loop: bool) -> None:
        """`"x" in action.num` looks at one key of a map, like has(); of a list it reads the list."""
        self.walk(args[0], in_loop=in_loop)
        if self._is_map(args[1]):
            path, _, others = self._path(args[1])
            for other in others:
                self.walk(other, in_loop=in_loop)
            key = args[0].const_expr
            if path is not None and key.WhichOneof("constant_kind") == "string_value":
                self.guarded.add(f"{path}.{key.string_value}")
            else:
                self._problem("DYNAMIC_KEY", "test maps for a literal text only")
            return
        self.walk(args[1], in_loop=in_loop)

    def _matches(self, args: list[CelExpr], *, in_loop: bool) -> None:
        if in_loop:
            self._problem("REGEX_IN_LOOP", "matches() inside a macro can block the service; use `in` or contains()")
        if not args or args[-1].const_expr.WhichOneof("constant_kind") != "string_value":
            self._problem("REGEX_NOT_LITERAL", "the pattern of matches() must be a literal")

    def _comprehension(self, loop: CelComprehension, *, in_loop: bool) -> None:
        if in_loop:
            self._problem("NESTED_MACRO", "macros may not be nested")
        boolean = loop.accu_init.const_expr.WhichOneof("constant_kind") == "bool_value"
        if self._is_map(loop.iter_range) and not boolean:
            self._problem("MAP_ORDER", "over a map use only in, has, size, exists, all: its order differs per process")
        self.walk(loop.iter_range, in_loop=True)
        local = {loop.iter_var, loop.accu_var} - self._local
        self._local |= local
        for part in (loop.accu_init, loop.loop_condition, loop.loop_step, loop.result):
            self.walk(part, in_loop=True)
        self._local -= local

    def _is_map(self, expr: CelExpr) -> bool:
        return expr.id in self._types and self._types[expr.id].HasField("map_type")

    def _children(self, expr: CelExpr) -> Iterator[CelExpr]:
        if expr.call_expr.HasField("target"):
            yield expr.call_expr.target
        yield from expr.call_expr.args

    def _problem(self, code: str, message: str) -> None:
        self.problems.append((code, message))
