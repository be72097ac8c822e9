"""The committed stubs are what the protos say, and the protos stay compatible with the last accepted contract."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from support.requirements import requirement

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sysconfig.get_path("scripts")) / "buf"
BASELINE = ROOT / "protos" / "baseline.binpb"
PLAN = "protos/counterseal/api/executor/v1/plan.proto"

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("protos")]  # one makes the environment


@pytest.fixture(scope="module")
def generator() -> Path:
    """The pinned generator, in an environment of its own since it caps protobuf below 7."""
    subprocess.run(["make", "--silent", ".venv-protos/.stamp"], cwd=ROOT, check=True, timeout=240)
    return ROOT / ".venv-protos" / "bin" / "python"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the contract and its stubs."""
    for part in ("protos", "src/counterseal/api", "tools"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def _stubs(root: Path) -> dict[str, bytes]:
    api = root / "src" / "counterseal" / "api"
    files = (path for path in api.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(api)): path.read_bytes() for path in files}


def _generate(root: Path, generator: Path) -> None:
    subprocess.run(["bash", "tools/protos.sh", str(generator)], cwd=root, check=True, timeout=120)


def _breaking(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BUF), "breaking", "--against", "protos/baseline.binpb"]
    return subprocess.run(command, cwd=root, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@requirement("contract:stubs-current")
def test_generating_the_stubs_again_changes_no_byte(copy: Path, generator: Path) -> None:
    _generate(copy, generator)
    assert _stubs(copy) == _stubs(ROOT), "run `make protos` and commit what it writes"
    _generate(copy, generator)
    assert _stubs(copy) == _stubs(ROOT)


@pytest.mark.slow
def test_a_proto_edited_without_its_stubs_is_noticed(copy: Path, generator: Path) -> None:
    proto = copy / PLAN
    proto.write_text(proto.read_text().replace("// A proposal.", "// A proposal, edited."))
    _generate(copy, generator)
    differing = {name for name, data in _stubs(copy).items() if _stubs(ROOT).get(name) != data}
    assert differing == {"executor/v1/plan_pb2.pyi"}


def test_the_protos_break_nothing_of_the_accepted_contract() -> None:
    result = _breaking(ROOT)
    assert result.returncode == 0, f"{result.stdout}\nIf the break is meant, `make protos-baseline` accepts it."


@requirement("contract:unbroken")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("string plan_digest = 2;", "string digest_of_plan = 2;"),
        ("string plan_digest = 2;", "string plan_digest = 102;"),
        ("bytes args_json = 4;", "int64 args_json = 4;"),
        ("rpc CommitPlan(CommitPlanRequest)", "rpc ApplyPlan(CommitPlanRequest)"),
        ("service PlanService", "service PlansService"),
        ("returns (stream WatchPlanResponse)", "returns (WatchPlanResponse)"),
    ],
    ids=[
        "renamed-field",
        "renumbered-field",
        "retyped-field",
        "renamed-method",
        "renamed-service",
        "stream-made-unary",
    ],
)
def test_a_planted_break_of_the_contract_is_refused(copy: Path, before: str, after: str) -> None:
    proto = copy / PLAN
    text = proto.read_text()
    assert before in text, "the plant no longer fits the proto; choose another"
    proto.write_text(text.replace(before, after))
    result = _breaking(copy)
    assert result.returncode != 0
    assert PLAN in result.stdout


def test_the_lint_of_the_contract_passes_and_catches_an_uncommented_field(copy: Path) -> None:
    lint = [str(BUF), "lint"]
    assert subprocess.run(lint, cwd=ROOT, check=False, timeout=60).returncode == 0
    proto = copy / PLAN
    proto.write_text(proto.read_text().replace("  // Required. Id of the plan.\n", "", 1))
    assert subprocess.run(lint, cwd=copy, check=False, timeout=60, capture_output=True).returncode != 0
