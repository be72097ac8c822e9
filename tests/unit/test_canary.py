"""The scanner for secrets finds a planted one in every form, wherever it begins, and says nothing else."""

import base64
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from support.canary import Found, files_below, forms, scan

SECRET = 'hvs.CAESI"J\\9kq+/=zÄ-_7f'

WRITTEN: dict[str, Callable[[str], bytes]] = {
    "as it is": str.encode,
    "in a URL": lambda text: urllib.parse.quote(text, safe="").encode(),
    "in JSON": lambda text: json.dumps({"token": text}).encode(),
    "in JSON inside JSON": lambda text: json.dumps({"line": json.dumps({"token": text})}).encode(),
    "in hex": lambda text: text.encode().hex().encode(),
    "in upper-case hex": lambda text: text.encode().hex().upper().encode(),
    "in base64": lambda text: base64.b64encode(text.encode()),
    "in base64 behind one byte": lambda text: base64.b64encode(b"x" + text.encode() + b"tail"),
    "in base64 behind two bytes": lambda text: base64.b64encode(b"xy" + text.encode() + b"tail"),
    "in base64url behind a name": lambda text: base64.urlsafe_b64encode(b"user:" + text.encode()).rstrip(b"="),
}


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in WRITTEN.items()])
def test_a_planted_secret_is_found_in_every_form(write: Callable[[str], bytes]) -> None:
    line = b'{"message":"' + write(SECRET) + b'"}'
    found = scan({SECRET: "token"}, [("log", b"before\n" + line + b"\nafter"), ("other", b"nothing")])
    assert {(hit.kind, hit.where) for hit in found} == {("token", "log")}


def test_what_is_not_there_is_not_found() -> None:
    assert scan({SECRET: "token"}, [("log", SECRET[:-1].encode() + b"x")]) == []


def test_a_finding_never_repeats_the_secret(tmp_path: Path) -> None:
    (tmp_path / "service.log").write_text(f"logged in with {SECRET}")
    found = scan({SECRET: "database password"}, files_below(tmp_path))
    assert found
    assert all(isinstance(hit, Found) and SECRET not in str(hit) for hit in found)


def test_every_form_is_long_enough_to_mean_something() -> None:
    assert all(len(data) >= len(SECRET) - 4 for data in forms(SECRET).values())
