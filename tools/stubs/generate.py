"""Writes TypeScript, Go and Java stubs and the descriptor set from protos/, with plugins from their own registries.

Usage: python tools/stubs/generate.py --buf PATH [--out build/stubs] [--compile] [LANGUAGE ...]

Nothing is installed outside build/. A language whose toolchain is missing is skipped with a line that says so; a
generator or compiler that fails ends the run with 1. Every child has a time limit and no standard input, so that the
command never hangs. Package options (go_package, java_package) are buf's managed mode: the protos name no language.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOOLS = ROOT / "build" / "stubs-tools"

# Pinned together: each pair is generated and run by releases that belong together.
PROTOC_GEN_GO, PROTOC_GEN_GO_GRPC = "v1.36.10", "v1.5.1"
PROTOC_JAVA, GRPC_JAVA = "4.31.1", "1.76.0"
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
GO_MODULE = "counterseal.dev/go"

INSTALL_SECONDS, RUN_SECONDS = 300, 300


class Skip(Exception):
    """A language cannot be written on this machine; the text says why."""


def run(*command: str, cwd: Path = ROOT, seconds: int = RUN_SECONDS, **environment: str) -> None:
    """Run a child to its end; raises CalledProcessError or TimeoutExpired."""
    env = {**os.environ, **environment}
    subprocess.run(command, cwd=cwd, env=env, check=True, timeout=seconds, stdin=subprocess.DEVNULL)


def install(*command: str, cwd: Path = ROOT, **environment: str) -> None:
    """Run an installation; where it fails or stalls (no registry in reach) the language is skipped."""
    try:
        run(*command, cwd=cwd, seconds=INSTALL_SECONDS, **environment)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Skip(f"its generator could not be installed: {error}") from None


def need(*programs: str) -> None:
    """Skip the language unless every program is on the path."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise Skip(f"not found on this machine: {', '.join(missing)}")


def typescript(out: Path) -> list[dict[str, Any]]:
    """ts-proto: plain objects and clients for grpc-js (docs/decisions/0010-stubs-for-other-languages.md)."""
    need("node", "npm")
    folder = TOOLS / "ts"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / "ts" / name, folder)
    shutil.copytree(HERE / "ts" / "project", out, dirs_exist_ok=True)
    install("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", cwd=folder)
    plugin = folder / "node_modules" / ".bin" / "protoc-gen-ts_proto"
    options = ["outputServices=grpc-js", "env=node", "forceLong=bigint", "esModuleInterop=true", "importSuffix=.js"]
    options += ["useExactTypes=false", "useDate=false", "oneof=unions-value", "stringEnums=false"]
    return [{"local": str(plugin), "out": str(out / "src"), "opt": options, "include_imports": True}]


def go(out: Path) -> list[dict[str, Any]]:
    """protoc-gen-go and protoc-gen-go-grpc, the languages' own generators."""
    need("go")
    binaries = TOOLS / "go"
    modules = {
        "protoc-gen-go": f"google.golang.org/protobuf/cmd/protoc-gen-go@{PROTOC_GEN_GO}",
        "protoc-gen-go-grpc": f"google.golang.org/grpc/cmd/protoc-gen-go-grpc@{PROTOC_GEN_GO_GRPC}",
    }
    for name, module in modules.items():
        if not (binaries / name).exists():
            install("go", "install", module, GOBIN=str(binaries), GOFLAGS="-mod=mod")
    shutil.copytree(HERE / "go", out, dirs_exist_ok=True)
    options = [f"module={GO_MODULE}"]
    return [{"local": str(binaries / name), "out": str(out), "opt": options} for name in modules]


def java(out: Path) -> list[dict[str, Any]]:
    """protoc's own Java generator and protoc-gen-grpc-java, both as Maven artifacts."""
    need("java", "mvn")
    binaries = TOOLS / "java"
    classifier = _maven_classifier()
    artifacts = {
        "protoc": f"com.google.protobuf:protoc:{PROTOC_JAVA}:exe:{classifier}",
        "protoc-gen-grpc-java": f"io.grpc:protoc-gen-grpc-java:{GRPC_JAVA}:exe:{classifier}",
    }
    programs: dict[str, Path] = {}
    for name, artifact in artifacts.items():
        programs[name] = binaries / f"{name}-{classifier}.exe"
        if not programs[name].exists():
            flags = [f"-Dartifact={artifact}", f"-DoutputDirectory={binaries}", "-Dmdep.stripVersion=true"]
            install("mvn", "--quiet", "--batch-mode", MAVEN_COPY, *flags)
        programs[name].chmod(0o755)
    shutil.copytree(HERE / "java", out, dirs_exist_ok=True)
    sources = str(out / "src" / "main" / "java")
    return [
        {"protoc_builtin": "java", "protoc_path": str(programs["protoc"]), "out": sources},
        {"local": str(programs["protoc-gen-grpc-java"]), "out": sources, "opt": ["@generated=omit"]},
    ]


def _maven_classifier() -> str:
    system = {"Linux": "linux", "Darwin": "osx"}.get(platform.system())
    machine = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "aarch_64", "aarch64": "aarch_64"}.get(
        platform.machine()
    )
    if system is None or machine is None:
        raise Skip(f"no generator is published for {platform.system()} {platform.machine()}")
    return f"{system}-{machine}"


def compile_typescript(out: Path) -> None:
    """Type-check the stubs with the compiler that generate.py pinned."""
    modules = out / "node_modules"
    if not modules.exists():
        modules.symlink_to(TOOLS / "ts" / "node_modules")
    run("node", str(modules / "typescript" / "bin" / "tsc"), "--noEmit", cwd=out)


def compile_go(out: Path) -> None:
    """Build every package; module sums are fetched on first use."""
    run("go", "build", "./...", cwd=out, GOFLAGS="-mod=mod")


def compile_java(out: Path) -> None:
    """Compile every class by Maven."""
    run("mvn", "--quiet", "--batch-mode", "compile", cwd=out)


LANGUAGES: dict[str, tuple[Callable[[Path], list[dict[str, Any]]], Callable[[Path], None]]] = {
    "ts": (typescript, compile_typescript),
    "go": (go, compile_go),
    "java": (java, compile_java),
}


def write(buf: str, language: str, out: Path) -> None:
    """Write one language's stubs into an emptied folder."""
    prepare, _ = LANGUAGES[language]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    try:
        plugins = prepare(out)
    except Skip:
        shutil.rmtree(out)
        raise
    managed = {
        "enabled": True,
        "override": [
            {"file_option": "go_package_prefix", "value": GO_MODULE},
            {"file_option": "java_package_prefix", "value": "dev"},
            {"file_option": "java_multiple_files", "value": True},
        ],
    }
    template = {"version": "v2", "managed": managed, "plugins": plugins}
    run(buf, "generate", "--template", json.dumps(template))


def main(argv: list[str] | None = None) -> int:
    """Write what was asked for; 0 when every language was written or skipped with a reason, 1 when one failed."""
    parser = argparse.ArgumentParser(description="Stubs for other languages and the descriptor set.")
    parser.add_argument("--buf", required=True, help="the buf binary")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "stubs")
    parser.add_argument("--compile", action="store_true", help="compile what was written")
    parser.add_argument("language", nargs="*", choices=[*LANGUAGES, []], help="ts, go or java; default: all")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    run(arguments.buf, "build", "--as-file-descriptor-set", "-o", str(out / "descriptor.binpb"))
    print(f"descriptor: {out / 'descriptor.binpb'}")
    failed = False
    for language in arguments.language or LANGUAGES:
        try:
            write(arguments.buf, language, out / language)
            if arguments.compile:
                LANGUAGES[language][1](out / language)
            count = sum(1 for path in (out / language).rglob("*") if path.suffix in {".ts", ".go", ".java"})
            print(f"{language}: {count} files in {out / language}{', compiled' if arguments.compile else ''}")
        except Skip as skip:
            print(f"{language}: skipped, {skip}")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            failed = True
            print(f"{language}: FAILED, {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
