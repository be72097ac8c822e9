"""`plan canonicalize` and `plan digest`: fixed forms that other people's scripts rely on."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from counterseal.cli import main

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("COUNTERSEAL_SHARED", ROOT.parent / "shared"))
PRINTF_DIGEST = "sha256:654a8a61b65c487c76b23fe951b7613365b60f564f964890e7f1a6a583688ea0"


class _Streams:
    def __init__(self, data: bytes) -> None:
        self.stdin = io.TextIOWrapper(io.BytesIO(data))
        self.stdout = io.TextIOWrapper(io.BytesIO(), write_through=True)

    def output(self) -> bytes:
        self.stdout.flush()
        buffer = self.stdout.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue()


def run(monkeypatch: pytest.MonkeyPatch, data: bytes, *argv: str) -> tuple[int, bytes]:
    streams = _Streams(data)
    monkeypatch.setattr(sys, "stdin", streams.stdin)
    monkeypatch.setattr(sys, "stdout", streams.stdout)
    code = main(["plan", *argv])
    return code, streams.output()


def test_the_digest_of_the_smallest_plan_is_the_one_printf_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, b'{"steps":[],"v":1}', "digest", "-") == (0, PRINTF_DIGEST.encode() + b"\n")


def test_another_kind_has_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out = run(monkeypatch, b'{"steps":[],"v":1}', "digest", "-", "--kind", "step-intent")
    assert (code, out) == (0, b"sha256:e15d9d15ced1711e034ac6dcb18f51765848ebb70e22cec4eadf0d92885116b1\n")


@pytest.mark.parametrize(
    "data",
    [b'{"steps":[],"v":1}\n', b'{"v":1,"steps":[]}', b"", b"[]", b'{"a":1.0}', b"\xff", b'{"a":1,"a":1}', b'{"a":NaN}'],
)
def test_a_digest_of_bytes_that_are_not_canonical_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    assert run(monkeypatch, data, "digest", "-") == (3, b"")
    assert capsys.readouterr().err.startswith("NOT_CANONICAL: ")


def test_canonicalize_writes_the_bytes_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, b' { "v" : 1.0, "a": [1e2, -0] }\n', "canonicalize", "-") == (0, b'{"a":[100,0],"v":1}')


def test_a_refused_document_leaves_standard_output_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, b'{"n":9007199254740993}', "canonicalize", "-") == (3, b"")


def test_a_file_that_is_not_there_is_a_usage_error_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "digest", "no/such/file"]) == 2
    assert capsys.readouterr().err == "no/such/file: No such file or directory\n"


def test_a_kind_that_is_no_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, b"{}", "digest", "-", "--kind", "Plan v2")[0] == 3


def test_the_plan_vectors_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    path = SHARED / "vectors" / "plan" / "plan-vectors.json"
    if not path.exists():
        pytest.skip(f"the shared vectors are not at {SHARED}")
    vectors = json.loads(path.read_bytes())
    for case in vectors["accept"]:
        expected = ("sha256:" + case["sha256"].removeprefix("sha256:") + "\n").encode()
        assert run(monkeypatch, bytes.fromhex(case["canonical_hex"]), "digest", "-") == (0, expected)
    for case in vectors["reject"]:
        body = bytes.fromhex(next(v for k, v in case.items() if k.endswith("hex")))
        assert run(monkeypatch, body, "digest", "-")[0] == 3


def test_canonical_bytes_need_neither_grpc_nor_protobuf() -> None:
    script = (
        "import sys; from counterseal.cli import main; code = main(['plan', 'digest', '-']);"
        "sys.exit(code or any(m.split('.')[0] in ('grpc', 'google') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], input=b"{}", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
