"""compose.yaml, Dockerfile and what they mount, held against each other and against the suite.

No container engine runs where these tests do: they check what can be checked without one, and `prepare.sh`, which needs
none, is run.
"""

import importlib.util
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from counterseal import config as configuration
from counterseal.rpc.runtime import ServiceConfig
from counterseal.vault.names import SERVICES
from counterseal.vault.settings import Provision

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
PARTS: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ONE_SHOT = {"prepare", "setup"}
DEPLOYED = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
EVERYTHING = [*DEPLOYED, ROOT / "compose.yaml", ROOT / "Dockerfile"]
SETTING = re.compile(r"\s*-?\s*\"?([\w.]*(?:password|secret|token|private_key)[\w.]*)\"?\s*[:=]\s*(\S+)", re.IGNORECASE)


def _tables(service: str) -> dict[str, Any]:
    return configuration.load(DEPLOY / "config" / f"{service}.toml", {})


def test_every_part_of_the_suite_is_there_and_nothing_else() -> None:
    assert set(PARTS) == {*SERVICES, "postgres", "openbao", "collector", *ONE_SHOT}


@pytest.mark.parametrize("part", sorted(PARTS))
def test_every_container_gives_up_what_it_does_not_need(part: str) -> None:
    settings = PARTS[part]
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings.get("privileged") is None
    # postgres keeps its data directory and its socket in the image's own places.
    assert settings.get("read_only") is True or part == "postgres"


def test_no_container_is_root_but_the_one_that_hands_out_files() -> None:
    roots = {name for name, part in PARTS.items() if re.fullmatch(r"0(:0)?|root.*", str(part.get("user", "0")))}
    assert roots == {"prepare"}
    assert PARTS["prepare"]["network_mode"] == "none"
    assert PARTS["prepare"]["restart"] == "no"


def test_the_image_is_pinned_and_runs_as_the_user_that_compose_names() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) for base in bases), bases
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert users == ["10001:10001"]
    assert all(PARTS[service]["user"] == users[0] for service in SERVICES)
    assert len({PARTS[service]["image"] for service in SERVICES}) == 1


def test_every_image_names_an_exact_version() -> None:
    for name, part in PARTS.items():
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$", part["image"]), name


def test_the_image_installs_the_services_and_nothing_of_the_embedded_stack() -> None:
    (extras,) = re.findall(r"'\.\[(.*?)\]'", DOCKERFILE)
    assert set(extras.split(",")) == {*SERVICES, "otel"}


def test_everything_that_serves_has_a_health_check() -> None:
    for name, part in PARTS.items():
        if name in ONE_SHOT | {"collector"}:  # the collector's image holds no program that could check
            continue
        assert part["healthcheck"]["test"], name
        assert part["restart"] == "unless-stopped", name


@pytest.mark.parametrize("service", SERVICES)
def test_a_health_check_asks_the_port_that_the_service_listens_on(service: str) -> None:
    port = _tables(service)["server"]["listen"].rsplit(":", 1)[1]
    assert f"('127.0.0.1', {port})" in PARTS[service]["healthcheck"]["test"][-1]
    assert PARTS[service]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_ports_are_published_on_loopback_only_and_only_by_the_services() -> None:
    published = {name: part["ports"] for name, part in PARTS.items() if "ports" in part}
    assert set(published) == set(SERVICES)
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_everything_starts_after_what_it_needs() -> None:
    def waits(part: str) -> dict[str, str]:
        return {name: how["condition"] for name, how in PARTS[part].get("depends_on", {}).items()}

    done, healthy = "service_completed_successfully", "service_healthy"
    assert waits("postgres") == {"prepare": done}
    assert waits("openbao") == {"postgres": healthy}
    assert waits("setup") == {"openbao": healthy}
    assert all(waits(service) == {"setup": done} for service in SERVICES)


def test_only_the_executor_reaches_targets_and_only_services_reach_the_data() -> None:
    networks = {name: set(part.get("networks", [])) for name, part in PARTS.items()}
    assert {name for name, joined in networks.items() if "targets" in joined} == {"executor"}
    assert {name for name, joined in networks.items() if "data" in joined} == {
        *SERVICES,
        "postgres",
        "openbao",
        "setup",
    }
    assert COMPOSE["networks"]["data"] == {"internal": True}


def test_every_path_that_is_mounted_or_run_exists() -> None:
    for name, part in PARTS.items():
        for volume in part.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] if not source.startswith(".") else (ROOT / source).is_file(), volume
        for word in part.get("command", []):
            if name in {*SERVICES, *ONE_SHOT} and word.startswith("/etc/counterseal/"):
                assert (DEPLOY / word.removeprefix("/etc/counterseal/")).is_file(), word


def test_a_services_files_are_mounted_by_it_and_by_the_two_that_make_them() -> None:
    for service in SERVICES:
        volume = f"{service}-files"
        holders = {name for name, part in PARTS.items() if any(v.startswith(volume) for v in part.get("volumes", []))}
        assert holders == {service, *ONE_SHOT}
        assert PARTS[service]["volumes"] == [f"{volume}:/run/files:ro"]
    holders = {name for name, part in PARTS.items() if any("authority" in v for v in part.get("volumes", []))}
    assert holders == {"prepare"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_configuration_binds_and_names_its_own_place(service: str) -> None:
    bound = ServiceConfig.bind(service, _tables(service))
    assert bound.database.name == f"counterseal_{service}"
    assert bound.database.ca_file is not None
    assert bound.telemetry.otlp_endpoint == "https://collector:4317"
    for peer, address in bound.peers.items():
        assert address == f"{peer}:{_tables(peer)['server']['listen'].rsplit(':', 1)[1]}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_own_command_accepts_its_configuration(service: str) -> None:
    if importlib.util.find_spec(f"counterseal_{service}.main") is None:
        pytest.skip(f"{service} has no main yet")
    file = DEPLOY / "config" / f"{service}.toml"
    command = [str(Path(sys.executable).parent / f"counterseal-{service}"), "--config", str(file), "--check-config"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_settings_of_vault_bind_and_fit_the_configurations() -> None:
    settings = configuration.bind(Provision, configuration.load(DEPLOY / "vault.toml", {}), "vault")
    for service in SERVICES:
        common = _tables(service)["common"]
        assert (common["environment"], common["trust_domain"]) == (settings.environment, settings.trust_domain)
    credentials = _tables("credentials")["credentials"]
    assert set(credentials["tenants"]) == set(settings.tenants)
    agents = {row["agent"] for row in credentials["workloads"].values() if row["kind"] == "agent"}
    assert agents == set(settings.agents)
    for service in SERVICES:
        assert f"{service}-files:{settings.secrets_dir}/{service}" in PARTS["setup"]["volumes"]


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_secret_stands_in_the_clear(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"-----BEGIN", text)
    for line in text.splitlines():
        setting = SETTING.match(line)
        if setting is None or line.lstrip().startswith("#"):
            continue
        name, value = setting.groups()
        named_by_path = re.search(r"(_file|_id_file|_dir|-password)$", name, re.IGNORECASE) or "/run/files" in value
        assert named_by_path or value == "{", f"{path.name}: {line}"


def test_environments_hold_paths_and_addresses_only() -> None:
    for part in PARTS.values():
        for name, value in part.get("environment", {}).items():
            assert not re.search(r"PASSWORD$|TOKEN$|SECRET$", name)
            assert value.startswith(("/", "https://", "--"))


def test_prepare_makes_certificates_that_verify_and_secrets_that_only_their_owner_reads(tmp_path: Path) -> None:
    _prepare(tmp_path)
    for consumer in ("postgres", "openbao", "collector"):
        verify = [
            "openssl",
            "verify",
            "-CAfile",
            "authority/ca.pem",
            "-verify_hostname",
            consumer,
            f"{consumer}/cert.pem",
        ]
        assert subprocess.run(verify, cwd=tmp_path, check=False, capture_output=True, timeout=30).returncode == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    secrets = {path.read_bytes() for path in files if path.name.endswith(("-password", "-secret-id"))}
    assert len(secrets) == 7  # superuser, OpenBao's storage, four owners, the operator: all different
    assert all(len(secret) == 64 for secret in secrets)


def test_prepare_keeps_what_exists(tmp_path: Path) -> None:
    _prepare(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    _prepare(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_prepare_gives_each_service_the_files_that_its_configuration_names(tmp_path: Path) -> None:
    _prepare(tmp_path)
    for service in SERVICES:
        tables = _tables(service)
        handed_over = {"role-id", "secret-id"}  # by `vault setup`
        for key in ("ca_file", "otlp_ca_file", "role_id_file", "secret_id_file"):
            for table in tables.values():
                if key in table:
                    name = Path(table[key]).name
                    assert name in handed_over or (tmp_path / service / name).exists(), table[key]
        assert (tmp_path / "setup" / Path(tables["database"]["owner_password_file"]).name).exists()
        assert not (tmp_path / service / Path(tables["database"]["owner_password_file"]).name).exists()


def _prepare(out: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    own = {name: str(out.stat().st_uid) for name in ("POSTGRES_UID", "OPENBAO_UID", "COLLECTOR_UID", "SERVICE_UID")}
    command = ["sh", str(DEPLOY / "prepare.sh"), str(out)]
    subprocess.run(command, check=True, timeout=60, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **own})


def test_toml_files_are_read_as_they_are_shipped() -> None:
    for path in DEPLOY.rglob("*.toml"):
        tomllib.loads(path.read_text())
