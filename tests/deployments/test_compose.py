"""`compose.yaml`: what is promised of it, by reading it, and that the tool itself takes it."""

from __future__ import annotations

import os
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

from memory.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "deployments"
FILE = FOLDER / "compose.yaml"
ENTRYPOINT = FOLDER / "compose" / "entrypoint.py"
SECRET_WORDS = ("password", "secret", "auth_string", "token")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file, with its anchors resolved."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def compose_tool() -> list[str]:
    """The command that reads compose files on this machine; skips where there is none."""
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("neither `docker compose` nor docker-compose is installed (apt-get install docker-compose)")


def config(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the tool says of a file."""
    command = [*compose_tool(), "--file", str(path), "config"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_the_tool_takes_the_file_and_fills_it_in(tmp_path: Path) -> None:
    answer = config(FILE, tmp_path)
    assert answer.returncode == 0, answer.stderr
    services = yaml.safe_load(answer.stdout)["services"]
    assert set(services) == {"redis", "postgres", "prefect", "deploy", "worker", "exporter"}
    assert services["worker"]["environment"]["COINSWARM_NAMESPACE"] == "default"


def test_the_tool_refuses_a_file_with_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(FILE.read_text(encoding="utf-8").replace("healthcheck:", "healthchek:", 1), encoding="utf-8")
    assert config(broken, tmp_path).returncode != 0


def test_every_port_is_on_the_loopback(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert all(str(port).startswith("127.0.0.1:") for each in ports.values() for port in each)
    assert {name for name, each in ports.items() if each} == {"redis", "postgres", "prefect", "exporter"}


def test_every_service_that_stays_has_a_health_check_and_comes_back(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if service["restart"] == "no":
            assert name == "deploy"
        else:
            assert service["restart"] == "unless-stopped"
            assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


def test_databases_hold_every_text_whatever_the_image_takes_by_itself(compose: dict[str, Any]) -> None:
    assert "--encoding=UTF8" in compose["services"]["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split()


def test_no_password_is_written_down(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if any(word in name.lower() for word in SECRET_WORDS):
                assert str(value).startswith("/run/secrets/"), name
            if "://" in str(value):
                assert ":" not in str(value).partition("://")[2].partition("@")[0].partition("/")[0] or "@" not in value


def test_every_secret_that_is_named_is_mounted_and_made(compose: dict[str, Any], tmp_path: Path) -> None:
    subprocess.run([FOLDER / "compose" / "make-secrets", tmp_path / "made"], check=True, capture_output=True)
    assert {path.name for path in (tmp_path / "made").iterdir()} == set(compose["secrets"])
    for name, service in compose["services"].items():
        mounted = set(service.get("secrets", []))
        assert mounted <= set(compose["secrets"])
        named = {
            Path(value).name
            for value in service.get("environment", {}).values()
            if str(value).startswith("/run/secrets/")
        }
        assert named <= mounted, name
    assert all(entry["file"].endswith(f"/{name}") for name, entry in compose["secrets"].items())


def test_secrets_are_random_closed_to_others_and_kept(tmp_path: Path) -> None:
    command = [FOLDER / "compose" / "make-secrets"]
    for place in ("one", "two"):
        subprocess.run([*command, tmp_path / place], check=True, capture_output=True)
    one, two = ({path.name: path.read_text() for path in (tmp_path / place).iterdir()} for place in ("one", "two"))
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    assert one.pop("webhook_url") == two.pop("webhook_url") == ""
    assert len({*one.values(), *two.values()}) == len(one) + len(two)
    assert all(len(value) >= 43 for value in one.values())
    subprocess.run([*command, tmp_path / "one"], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "one").iterdir() if path.read_text()} == one


def test_what_is_stored_lies_in_volumes(compose: dict[str, Any]) -> None:
    used = {
        str(volume).partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if not str(volume).startswith(".")
    }
    assert used == set(compose["volumes"])


def test_what_is_mounted_from_the_project_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            if str(volume).startswith("."):
                assert (FOLDER / str(volume).split(":")[0]).is_file()
                assert str(volume).endswith(":ro")


def test_our_containers_have_no_rights_beyond_their_own(compose: dict[str, Any]) -> None:
    for name in ("prefect", "deploy", "worker", "exporter"):
        service = compose["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert "\nUSER 10001:10001\n" in (FOLDER / "Dockerfile").read_text(encoding="utf-8")


def test_the_build_is_given_what_the_image_holds_and_no_secrets() -> None:
    lines = (FOLDER.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    copied = {
        source
        for line in (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    assert patterns[0] == "*"
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == copied
    assert patterns.index("deployments/compose/secrets") > patterns.index("!deployments")
    assert all((FOLDER.parent / source).exists() for source in copied)


def test_extras_that_the_image_installs_exist() -> None:
    extras = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"EXTRAS=([a-z,]+)", (FOLDER / "Dockerfile").read_text(encoding="utf-8"))
    assert named
    assert {extra for each in named for extra in each.split(",")} <= set(extras["optional-dependencies"])


def test_the_prefect_server_is_closed(compose: dict[str, Any]) -> None:
    environment = compose["services"]["prefect"]["environment"]
    assert environment["PREFECT_SERVER_API_AUTH_STRING_FILE"] == "/run/secrets/prefect_auth"
    assert environment["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
    assert "*" not in environment["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"


def test_settings_that_it_gives_exist(compose: dict[str, Any]) -> None:
    fields = {f"COINSWARM_{name.upper()}" for name in Settings.model_fields}
    for service in compose["services"].values():
        for name in service.get("environment", {}):
            if name.startswith("COINSWARM_"):
                assert name.removesuffix("_PASSWORD_FILE").removesuffix("_FILE") in fields


def entered(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """What a command says that the image's entry point becomes."""
    return subprocess.run(
        [sys.executable, ENTRYPOINT, *command],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **environment},
    )


def test_passwords_come_from_files_into_urls(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("a/b c:d@e\n", encoding="utf-8")
    shown = entered(
        {
            "COINSWARM_REDIS_URL": "redis://redis:6379/0",
            "COINSWARM_REDIS_URL_PASSWORD_FILE": str(file),
            "COINSWARM_DATABASE_URL": "postgresql://coinswarm@postgres:5432/coinswarm",
            "COINSWARM_DATABASE_URL_PASSWORD_FILE": str(file),
            "PREFECT_API_AUTH_STRING_FILE": str(file),
        },
        "env",
    ).stdout.splitlines()
    assert "COINSWARM_REDIS_URL=redis://:a%2Fb%20c%3Ad%40e@redis:6379/0" in shown
    assert "COINSWARM_DATABASE_URL=postgresql://coinswarm:a%2Fb%20c%3Ad%40e@postgres:5432/coinswarm" in shown
    assert "PREFECT_API_AUTH_STRING=a/b c:d@e" in shown
    assert not [line for line in shown if "_FILE=" in line]


def test_what_is_a_path_to_prefect_stays_one_and_a_user_is_written_once_over(tmp_path: Path) -> None:
    certificate, file = tmp_path / "ca.pem", tmp_path / "password"
    certificate.write_text("-----BEGIN\nof several lines\n", encoding="utf-8")
    file.write_text("word", encoding="utf-8")
    shown = entered(
        {
            "PREFECT_API_SSL_CERT_FILE": str(certificate),
            "COINSWARM_DATABASE_URL": "postgresql://me%40here@postgres/coinswarm",
            "COINSWARM_DATABASE_URL_PASSWORD_FILE": str(file),
        },
        "env",
    ).stdout.splitlines()
    assert f"PREFECT_API_SSL_CERT_FILE={certificate}" in shown
    assert "COINSWARM_DATABASE_URL=postgresql://me%40here:word@postgres/coinswarm" in shown


def test_a_secret_and_a_file_for_it_are_refused_together(tmp_path: Path) -> None:
    file = tmp_path / "auth"
    file.write_text("of:file", encoding="utf-8")
    answer = entered({"PREFECT_API_AUTH_STRING": "of:hidden", "PREFECT_API_AUTH_STRING_FILE": str(file)}, "env")
    assert answer.returncode == 78
    assert "both set" in answer.stderr
    assert "hidden" not in answer.stderr


@pytest.mark.parametrize("content", [None, "", "two\nlines"])
def test_a_secret_that_is_not_there_is_named_with_the_remedy(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "auth"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    answer = entered({"PREFECT_SERVER_API_AUTH_STRING_FILE": str(file)}, "env")
    assert answer.returncode == 78
    assert str(file) in answer.stderr
    assert "make-secrets" in answer.stderr
    assert "lines" not in answer.stdout


def test_a_program_called_by_its_name_is_given_its_secrets_too(tmp_path: Path) -> None:
    file = tmp_path / "auth"
    file.write_text("of:file", encoding="utf-8")
    own, programs = tmp_path / "own", tmp_path / "programs"
    for folder in (own, programs):
        folder.mkdir()
    (own / "prefect").symlink_to(ENTRYPOINT)
    (programs / "prefect").write_text('#!/bin/sh\necho "$PREFECT_API_AUTH_STRING" "$@"\n', encoding="utf-8")
    (programs / "prefect").chmod(0o755)
    answer = subprocess.run(
        ["prefect", "version", "--json"],
        executable=own / "prefect",
        capture_output=True,
        text=True,
        env={
            "PATH": os.pathsep.join([str(own), str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PREFECT_API_AUTH_STRING_FILE": str(file),
        },
    )
    assert answer.stdout == "of:file version --json\n", answer.stderr


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "nothing-of-this-name").symlink_to(ENTRYPOINT)
    answer = subprocess.run(
        [sys.executable, tmp_path / "nothing-of-this-name"], capture_output=True, text=True, env=dict(os.environ)
    )
    assert answer.returncode != 0
    assert answer.stderr == "coinswarm: there is no program nothing-of-this-name in this image\n"


def test_a_run_of_a_pool_whose_server_asks_for_no_password_has_an_empty_file(tmp_path: Path) -> None:
    file = tmp_path / "prefect_auth"
    file.touch()
    shown = entered({"PREFECT_API_AUTH_STRING_FILE": str(file)}, "env")
    assert (shown.returncode, "AUTH_STRING" in shown.stdout) == (0, False)
    file.unlink()
    assert entered({"PREFECT_API_AUTH_STRING_FILE": str(file)}, "env").returncode == 78


def test_no_address_of_alerts_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "webhook_url"
    file.touch()
    shown = entered({"COINSWARM_WEBHOOK_URL_FILE": str(file)}, "env")
    assert (shown.returncode, "WEBHOOK" in shown.stdout) == (0, False)
    file.write_text("https://hook.example/x", encoding="utf-8")
    assert "COINSWARM_WEBHOOK_URL_FILE" in entered({"COINSWARM_WEBHOOK_URL_FILE": str(file)}, "env").stdout
