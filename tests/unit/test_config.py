"""Configuration refuses what it does not know and says everything at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from counterseal.config import ConfigError, bind, check_sections, load, read_secret


@dataclass(frozen=True, slots=True)
class Inner:
    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    key_file: Path
    inner: Inner
    seconds: float = 1.5
    on: bool = False
    tags: tuple[str, ...] = ()
    targets: Mapping[str, Inner] = field(default_factory=dict)
    note: str | None = None


GOOD = {"name": "a", "key_file": "/k", "inner": {"port": 1}}


def test_a_table_becomes_a_frozen_dataclass() -> None:
    value = bind(Section, {**GOOD, "seconds": 2, "tags": ["x"], "targets": {"t": {"port": 2}}, "note": "n"}, "s")
    assert value == Section("a", Path("/k"), Inner(1), 2.0, tags=("x",), targets={"t": Inner(2)}, note="n")


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as info:
        bind(Section, {"nmae": "a", "inner": {"port": "1", "hots": ""}, "on": 1, "tags": "x"}, "s")
    assert info.value.problems == (
        "s.nmae: unknown key",
        "s.name: missing",
        "s.key_file: missing",
        "s.inner.hots: unknown key",
        "s.inner.port: expected int, got str",
        "s.on: expected bool, got int",
        "s.tags: expected an array",
    )


def test_a_boolean_is_no_integer() -> None:
    with pytest.raises(ConfigError, match=r"s.port: expected int, got bool"):
        bind(Inner, {"port": True}, "s")


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[server]\nlisten = "a:1"\n')
    environ = {"COUNTERSEAL_SERVER__LISTEN": "b:2", "COUNTERSEAL_SERVER__DRAIN": "7", "COUNTERSEAL_SHARED": "x"}
    assert load(tmp_path / "c.toml", environ) == {"server": {"listen": "b:2", "drain": 7}}


def test_an_unknown_section_is_a_problem() -> None:
    assert check_sections({"server": {}, "sevrer": {}}, ["server"]) == ["sevrer: unknown section"]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.toml: No such file"):
        load(tmp_path / "nothing.toml", {})


def test_a_secret_file_is_named_when_it_fails_and_its_content_never(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"\xff\xfehunter2")
    with pytest.raises(ConfigError) as info:
        read_secret(tmp_path / "s")
    assert "hunter2" not in str(info.value)
