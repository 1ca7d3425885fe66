"""compose.yaml and its secrets: their form, and that the NATS server accepts its part. No container is started."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bus.roles import Role
from labledger.deploy import write_secrets
from labledger.embedded.nats_server import nats_binary
from labledger.settings import load

COMPOSE: dict[str, Any] = yaml.safe_load((Path(__file__).resolve().parents[3] / "compose.yaml").read_text())


def test_every_role_of_ours_runs_from_one_image_and_looks_after_its_health() -> None:
    roles = {name: it for name, it in COMPOSE["services"].items() if it.get("command", [""])[0] == "run"}
    assert sorted(roles) == ["commands", "deliver", "extract", "projections", "station"]
    for name, service in roles.items():
        assert service["image"] == "labledger:local"
        assert service["command"] == ["run", name]
        assert service["healthcheck"]["test"] == ["CMD", "labledger", "doctor", "--role", name]
        assert service["depends_on"] == {"provision": {"condition": "service_completed_successfully"}}


def test_what_the_services_use_is_declared() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_the_secrets_are_what_the_server_and_our_processes_read(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert write_secrets(folder)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    checked = subprocess.run([nats_binary(), "-t", "-c", folder / "nats.conf"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    settings = load({"LABLEDGER_CONNECTION_FILE": str(folder / "connection.json")}, tmp_path)
    for role in Role:
        to = settings.connection(role)
        assert to.nats_urls == ("nats://nats:4222",)
        assert to.credentials.user == role.value
    password = (folder / "postgres-password").read_text()
    assert settings.connection("commands").postgres_url == f"postgresql://labledger:{password}@postgres:5432/labledger"


def test_secrets_are_never_overwritten(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert not write_secrets(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    (tmp_path / "nats.conf").unlink()
    with pytest.raises(FileExistsError, match=r"postgres-password, connection.json and not the others"):
        write_secrets(tmp_path)
    assert json.loads(before["connection.json"])["version"] == 1
