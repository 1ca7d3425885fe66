"""The doctor's findings, each for a machine in order and for one that is not."""

from pathlib import Path

import pytest

from labledger import doctor
from labledger.doctor import Check, exit_code
from labledger.embedded.errors import EmbeddedError
from labledger.settings import load


def test_only_a_failure_makes_the_exit_code_1() -> None:
    assert exit_code([Check("a", "ok", ""), Check("b", "warn", "", "do")]) == 0
    assert exit_code([Check("a", "ok", ""), Check("b", "fail", "", "do")]) == 1


def test_python_must_be_3_11() -> None:
    assert doctor.check_python().state == "ok"
    assert doctor.check_python((3, 10, 13)).state == "fail"


def test_the_programs_of_the_wheels_run() -> None:
    assert doctor.check_nats_program().found.startswith("nats-server: v2.")
    assert doctor.check_postgres_program().found.startswith("postgres (PostgreSQL) 18")


def test_a_program_that_is_not_installed_is_told_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise EmbeddedError("nats-server is not installed")

    monkeypatch.setattr(doctor, "nats_binary", missing)
    check = doctor.check_nats_program()
    assert (check.state, "labledger[embedded]" in check.mend) == ("warn", True)


def test_a_program_that_does_not_run_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "nats-server"
    broken.write_text("#!/bin/sh\necho 'wrong machine' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(doctor, "nats_binary", lambda: broken)
    check = doctor.check_nats_program()
    assert (check.state, check.found) == ("fail", "does not run: wrong machine")


def test_the_data_folder_need_not_exist_yet(tmp_path: Path) -> None:
    check = doctor.check_data_dir(tmp_path / "not" / "yet", need_bytes=1)
    assert (check.state in ("ok", "warn"), "fsync" in check.found) == (True, True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    check = doctor.check_data_dir(tmp_path, need_bytes=10**18)
    assert (check.state, "make room" in check.mend) == ("fail", True)


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    check = doctor.check_data_dir(tmp_path)
    assert (check.state, "LABLEDGER_DATA_DIR" in check.mend) == ("fail", True)


def test_a_disk_that_writes_slowly_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SLOW_FSYNC_S", -1.0)
    check = doctor.check_data_dir(tmp_path, need_bytes=1)
    assert (check.state, "local disk" in check.mend) == ("warn", True)


def test_a_clock_before_the_installation_is_wrong() -> None:
    assert doctor.check_clock().state == "ok"
    assert doctor.check_clock(now_s=86_400.0).state == "fail"


def test_a_visa_backend_is_installed() -> None:
    assert "pyvisa_py" in doctor.check_visa().found


def test_an_optional_program_is_never_a_failure() -> None:
    assert doctor.check_optional_program("no-such-program-7", "for nothing").state == "warn"
    assert doctor.check_optional_program("sh", "for everything").state == "ok"


async def test_a_lab_that_was_never_started_is_told(tmp_path: Path) -> None:
    (check,) = await doctor.check_lab(load({}, tmp_path))
    assert (check.state, "labledger up" in check.found) == ("fail", True)


async def test_servers_that_do_not_answer_are_told_without_the_password(tmp_path: Path) -> None:
    settings = load(
        {
            "LABLEDGER_NATS_URL": "nats://127.0.0.1:1",
            "LABLEDGER_NATS_USER": "me",
            "LABLEDGER_NATS_PASSWORD": "hunter2",
            "LABLEDGER_POSTGRES_URL": "postgresql://me:hunter2@127.0.0.1:1/db",
        },
        tmp_path,
    )
    checks = [*await doctor.check_nats(settings.connection("auditor"), timeout_s=0.2)]
    checks.append(doctor.check_postgres(settings.connection("auditor")))
    assert [(check.name, check.state) for check in checks] == [("NATS", "fail"), ("Postgres", "fail")]
    assert all(check.mend for check in checks)
    assert "hunter2" not in repr(checks)
