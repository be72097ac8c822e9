"""Configuration: one TOML file, overridden by the environment, bound to frozen dataclasses.

Every package owns the dataclass of its section and calls `bind`. Unknown keys are errors, and all problems of a
section are reported at once. A secret is never a value here: the key ends in `_file` and names a path.

An override is `COUNTERSEAL_<SECTION>__<KEY>=<value>`, with more `__` for nested tables. The value is read as TOML
(`8080`, `true`, `["a"]`); what is not TOML is taken as text, so that addresses and paths need no quotes.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

T = TypeVar("T")
Table = Mapping[str, Any]

PREFIX = "COUNTERSEAL_"


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds every finding, each as `section.key: what is wrong`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def load(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Read the file and apply the overrides; raises ConfigError when it is unreadable or no TOML."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from None
    override(tables, environ)
    return tables


def override(tables: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Apply every `COUNTERSEAL_<SECTION>__<KEY>` to `tables`, in place."""
    problems = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        *parents, key = name[len(PREFIX) :].lower().split("__")
        table: Any = tables
        for parent in parents:
            table = table.setdefault(parent, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict) or not key:
            problems.append(f"{name}: does not name a key of a table")
            continue
        table[key] = _value(environ[name])
    if problems:
        raise ConfigError(problems)


def bind(cls: type[T], table: Any, where: str) -> T:
    """Make the frozen dataclass `cls` of a TOML table; raises ConfigError with every problem below `where`.

    Field types may be bool, int, float, str, Path, dataclasses, `X | None`, `tuple[X, ...]` and `Mapping[str, X]`.
    A field without default is required; integers are taken for floats, nothing else is converted.
    """
    problems: list[str] = []
    value = _table(cls, table, where, problems)
    if problems:
        raise ConfigError(problems)
    return typing.cast("T", value)


def check_sections(tables: Table, known: Sequence[str]) -> list[str]:
    """Return one problem for each top-level table that nobody reads."""
    return [f"{name}: unknown section" for name in tables if name not in known]


def read_secret(path: Path) -> str:
    """Return a secret file's one line; raises ConfigError naming the path, never the content."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError([f"{path}: cannot be read"]) from None
    if not text:
        raise ConfigError([f"{path}: is empty"])
    return text


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _table(cls: type, table: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(table, dict):
        problems.append(f"{where}: expected a table")
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    problems.extend(f"{where}.{key}: unknown key" for key in table if key not in fields)
    values: dict[str, Any] = {}
    before = len(problems)
    for name, spec in fields.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], f"{where}.{name}", problems)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            problems.append(f"{where}.{name}: missing")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:  # a dataclass may check ranges in __post_init__
        problems.append(f"{where}: {error}")
        return None


def _convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert(next(a for a in args if a is not type(None)), value, where, problems)
    if dataclasses.is_dataclass(hint):
        return _table(typing.cast("type", hint), value, where, problems)
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{where}: expected an array")
            return ()
        return tuple(_convert(args[0], item, f"{where}[{i}]", problems) for i, item in enumerate(value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            problems.append(f"{where}: expected a table")
            return {}
        return {key: _convert(args[1], item, f"{where}.{key}", problems) for key, item in value.items()}
    return _scalar(hint, value, where, problems)


def _scalar(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    if hint is Any:
        return value
    if hint is Path and isinstance(value, str) and value:
        return Path(value)
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    problems.append(f"{where}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}")
    return None
