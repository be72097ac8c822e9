"""What the READMEs show exists: commands, links, code."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("services/*/README.md")),
    ROOT / "deploy" / "compose" / "README.md",
    ROOT / "examples" / "node-client" / "README.md",
]
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_first_command_is_the_demo_and_the_second_the_tests() -> None:
    assert [block.strip() for block in blocks("sh")[:2]] == ["make demo", "make test"]


def test_every_make_target_that_is_named_exists() -> None:
    for target in set(re.findall(r"`?\bmake ([a-z][a-z0-9-]*)`", README)) | {"demo", "test"}:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_code_compiles_and_what_it_imports_and_calls_exists(code: str) -> None:
    tree = ast.parse(code)
    imported: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            imported |= {alias.name: getattr(module, alias.name) for alias in node.names}
    assert imported
    agent = importlib.import_module("counterseal.client").AgentRequest
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "request":
            assert hasattr(agent, node.attr), node.attr


@pytest.mark.parametrize("code", blocks("ts"))
def test_what_the_typescript_code_imports_is_exported(code: str) -> None:
    names, source = re.findall(r"import \{ (.*?) \} from '(.*?)';", code)[0]
    exported = (ROOT / source).read_text()
    for name in names.split(", "):
        assert re.search(rf"\b{name}\b", exported), name
    client = (ROOT / "examples" / "node-client" / "src" / "client.js").read_text()
    for method in set(re.findall(r"client\.(\w+)\(", code)):
        assert re.search(rf"^  (async )?\*?{method}\(", client, re.MULTILINE), method


def test_the_digest_that_the_readme_shows_is_what_its_command_prints() -> None:
    (block,) = [block for block in blocks("sh") if "sha256sum" in block]
    command, comment = block.strip().split("\n# ")
    printed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=10).stdout
    assert printed.split()[0] == comment.strip()
