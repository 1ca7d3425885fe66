"""Settings: which source wins, what is said about wrong ones, and that no secret is shown."""

import json
from pathlib import Path

import pytest

from labledger.blobs import blobs_of
from labledger.settings import SettingsError, load, reference


def test_without_anything_the_lab_runs_on_embedded_servers_in_the_working_folder(tmp_path: Path) -> None:
    settings = load({}, tmp_path)
    assert (settings.data_dir, settings.blob_dir) == (tmp_path / "lab", tmp_path / "lab" / "blobs")
    assert settings.embedded_nats and settings.embedded_postgres
    assert (settings.lease.ttl_s, settings.lease.beat_s) == (3.0, 1.0)


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "labledger.toml").write_text('[log]\nlevel = "error"\nformat = "json"\n')
    settings = load({"LABLEDGER_LOG_LEVEL": "debug"}, tmp_path)
    assert (settings.log.level, settings.source("log.level")) == ("debug", "LABLEDGER_LOG_LEVEL")
    assert (settings.log.format, settings.source("log.format")) == ("json", str(tmp_path / "labledger.toml"))
    assert settings.source("lease.ttl_s") == "default"


def test_paths_in_the_file_count_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "my.toml").write_text('data_dir = "data"\n')
    settings = load({"LABLEDGER_CONFIG": "etc/my.toml", "LABLEDGER_BLOBS_DIR": "blobs"}, tmp_path)
    assert settings.data_dir == tmp_path / "etc" / "data"
    assert settings.blob_dir == tmp_path / "blobs"


def test_stations_are_passed_through_to_the_drivers(tmp_path: Path) -> None:
    (tmp_path / "labledger.toml").write_text(
        "[stations.bench-1.instruments.stage]\n"
        'driver = "simulated_stage"\naddress = "sim::1"\noptions = { speed_mm_s = 2.5 }\n'
    )
    stage = load({}, tmp_path).stations["bench-1"].instruments["stage"]
    assert stage == {"driver": "simulated_stage", "address": "sim::1", "options": {"speed_mm_s": 2.5}}
    by_variable = load({"LABLEDGER_STATIONS": json.dumps({"s": {"instruments": {"m": {"driver": "x"}}}})}, tmp_path)
    assert list(by_variable.stations) == ["s"]


def test_blobs_are_kept_where_the_settings_say(tmp_path: Path) -> None:
    options = {"bucket": "lab", "access_key_id": "known", "secret_access_key": "very secret"}
    environ = {"LABLEDGER_BLOBS_STORE": "s3", "LABLEDGER_BLOBS_OPTIONS": json.dumps(options)}
    settings = load(environ, tmp_path)
    assert type(blobs_of(settings, "station")).__name__ == "S3Blobs"
    shown = {row.name: row.value for row in reference(settings)}
    assert shown["blobs.options"] == "bucket, access_key_id, secret_access_key"
    assert type(blobs_of(load({}, tmp_path), "station")).__name__ == "LocalBlobs"
    with pytest.raises(SettingsError, match=r"blobs\.options\.bucket: Field required"):
        blobs_of(load({"LABLEDGER_BLOBS_STORE": "s3"}, tmp_path), "station")
    with pytest.raises(SettingsError, match="store"):
        load({"LABLEDGER_BLOBS_STORE": "tape"}, tmp_path)


@pytest.mark.parametrize(
    ("environ", "toml", "words"),
    [
        ({"LABLEDGER_NATS_ULR": "x"}, "", "LABLEDGER_NATS_ULR is no setting; did you mean LABLEDGER_NATS_URL?"),
        ({}, '[nats]\nulr = "x"\n', "labledger.toml: nats.ulr is no setting; did you mean nats.url?"),
        (
            {"LABLEDGER_NATS_REPLICAS": "many"},
            "",
            "LABLEDGER_NATS_REPLICAS: nats.replicas: Input should be a valid integer",
        ),
        ({}, "[nats]\nreplicas = 9\n", "labledger.toml: nats.replicas: Input should be less than or equal to 5"),
        ({}, "nats = 3\n", "labledger.toml: nats: Input should be a valid dictionary"),
        ({}, "[nats\n", "labledger.toml is not TOML"),
        ({"LABLEDGER_CONFIG": "none.toml"}, "", "LABLEDGER_CONFIG names .*none.toml, which does not exist"),
        ({"LABLEDGER_STATIONS": "{"}, "", "LABLEDGER_STATIONS must be JSON"),
        ({"LABLEDGER_POSTGRES_URL_FILE": "/nowhere"}, "", "LABLEDGER_POSTGRES_URL_FILE names /nowhere"),
        ({"LABLEDGER_LEASE_BEAT_S": "2"}, "", r"lease.beat_s \(2, LABLEDGER_LEASE_BEAT_S\) is more than a third"),
        ({}, "[stations.'bad name'.instruments]\n", "labledger.toml: stations"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, environ: dict[str, str], toml: str, words: str) -> None:
    (tmp_path / "labledger.toml").write_text(toml)
    with pytest.raises(SettingsError, match=words):
        load(environ, tmp_path)


def test_a_wrong_secret_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "labledger.toml").write_text('[nats]\npassword = ["hunter2"]\n')
    with pytest.raises(SettingsError) as caught:
        load({}, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path) -> None:
    assert load({"LABLEDGER_NATS_URL": ""}, tmp_path).embedded_nats


def test_several_servers_are_separated_by_commas(tmp_path: Path) -> None:
    assert load({"LABLEDGER_NATS_URL": "nats://a:1, nats://b:2"}, tmp_path).nats.url == ["nats://a:1", "nats://b:2"]


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    settings = load({"LABLEDGER_NATS_PASSWORD_FILE": str(tmp_path / "secret")}, tmp_path)
    assert settings.nats.password is not None and settings.nats.password.get_secret_value() == "hunter2"


def test_every_setting_is_described_and_no_secret_is_shown(tmp_path: Path) -> None:
    settings = load(
        {
            "LABLEDGER_NATS_URL": "nats://me:hunter2@a:1,nats://token-hunter2@b:2",
            "LABLEDGER_NATS_PASSWORD": "hunter2",
            "LABLEDGER_POSTGRES_URL": "postgresql://me:hunter2@h/db",
            "LABLEDGER_STATIONS": '{"s": {"instruments": {"m": {"driver": "x", "options": {"key": "hunter2"}}}}}',
        },
        tmp_path,
    )
    rows = {row.name: row for row in reference(settings)}
    assert all(row.description for row in rows.values())
    assert rows["nats.url"].value == "nats://me:********@a:1, nats://********@b:2"
    assert rows["nats.url"].source == rows["nats.url"].variable == "LABLEDGER_NATS_URL"
    assert rows["stations"].value == "s: m"
    assert "hunter2" not in repr(rows) and "hunter2" not in repr(settings.nats.password)


CONNECTION = {
    "version": 1,
    "nats": {
        "url": "nats://127.0.0.1:20001",
        "users": {"station": {"user": "station", "password": "pw", "inbox_prefix": "_INBOX_station"}},
    },
    "postgres": {
        "url": "postgresql://labledger:a@127.0.0.1:2/labledger",
        "readonly_url": "postgresql://r:b@127.0.0.1:2/l",
    },
}


def test_a_role_connects_by_the_file_that_the_lab_wrote(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "connection.json").write_text(json.dumps(CONNECTION))
    to = load({}, tmp_path).connection("station")
    assert to.nats_urls == ("nats://127.0.0.1:20001",)
    assert (to.credentials.user, to.credentials.password, to.credentials.inbox_prefix) == (
        "station",
        "pw",
        "_INBOX_station",
    )
    assert to.postgres_url == CONNECTION["postgres"]["url"]
    assert "pw" not in repr(to)
    with pytest.raises(SettingsError, match="knows no user 'dashboard' of NATS; known: station"):
        load({}, tmp_path).connection("dashboard")


def test_given_servers_win_over_that_file(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "connection.json").write_text(json.dumps(CONNECTION))
    given = {
        "LABLEDGER_NATS_URL": "nats://given:1",
        "LABLEDGER_NATS_USER": "me",
        "LABLEDGER_NATS_PASSWORD": "pw2",
        "LABLEDGER_POSTGRES_URL": "postgresql://given/db",
    }
    to = load(given, tmp_path).connection("station")
    assert (to.nats_urls, to.credentials.user, to.credentials.inbox_prefix) == (("nats://given:1",), "me", "_INBOX_me")
    # A read-only address of another server would show other data.
    assert (to.postgres_url, to.postgres_readonly_url) == ("postgresql://given/db", None)


def test_nowhere_to_connect_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"`labledger up` .* or set LABLEDGER_NATS_URL"):
        load({}, tmp_path).connection("station")


def test_a_rule_of_deliveries_names_targets_that_there_are(tmp_path: Path) -> None:
    file = tmp_path / "labledger.toml"
    target = '[targets.archive]\nadapter = "storage.s3"\n'
    file.write_text(target + '[[deliver]]\nartifacts = ["plot"]\ntargets = ["archive"]\nqueue = "night*"\n')
    (rule,) = load({}, tmp_path).deliver
    assert rule.artifacts == ("plot",) and rule.queue == "night*"
    file.write_text(target + '[[deliver]]\ntargets = ["archiv"]\n')
    with pytest.raises(SettingsError, match=r"rule 1 .*no target 'archiv'; did you mean archive"):
        load({}, tmp_path)
    rules = json.dumps([{"targets": ["archive"], "artifacts": ["movie"]}])
    with pytest.raises(SettingsError, match="LABLEDGER_DELIVER: deliver"):
        load({"LABLEDGER_DELIVER": rules}, tmp_path)
