"""Where MaskHub's addresses, token and retry numbers come from."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr, ValidationError

from adapters.maskhub.config import Config, Options, find
from adapters.maskhub.runs import Target
from domain.ports import RetryPolicy, TargetContext

ENV = {"MASKHUB_API": "http://env/api/", "MASKHUB_API_V3": "http://env/api/v3", "MASKHUB_API_TOKEN": "env-token"}
CREDENTIALS = {"api_url": "http://file/api", "api_v3_url": "http://file/api/v3", "api_token": "file-token"}
NUMBERS = {"timeout": 7, "max_retries": 9, "retry_multiplier": 3, "retry_min_wait": 1.5}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home, and an empty folder to be in."""
    for folder in ("home", "here"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def look(environ: Mapping[str, str] | None = None, **options: Any) -> Config:
    home = Path("../home").resolve()
    return find(Options.model_validate(options), {"HOME": str(home), **(environ or {})})


def target(environ: Mapping[str, str] | None = None, **options: Any) -> Target:
    async def nats() -> Any:
        raise AssertionError

    home = {"HOME": str(Path("../home").resolve())}
    return Target("hub", Options.model_validate(options), TargetContext(environ=home | dict(environ or {}), nats=nats))


def test_nothing_anywhere_is_local_only() -> None:
    found = look()
    assert found.missing == ("MASKHUB_API", "MASKHUB_API_V3", "MASKHUB_API_TOKEN")
    assert found.source == "nowhere" and not found.notes


def test_three_variables_of_the_environment() -> None:
    found = look(ENV)
    assert (found.api_url, found.api_v3_url, found.token.get_secret_value()) == (
        "http://env/api",
        "http://env/api/v3",
        "env-token",
    )
    assert not found.missing and found.source == "environment"


def test_a_part_of_the_three_is_ignored_and_what_lacks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    write(Path("maskhub_config.json"), {"credentials": CREDENTIALS})
    with caplog.at_level(logging.WARNING, "labledger.maskhub"):
        found = look({"MASKHUB_API": "http://env/api", "MASKHUB_API_TOKEN": "env-token"})
    assert found.api_url == "http://file/api" and found.token.get_secret_value() == "file-token"
    assert found.notes == ("the environment is left out of account: MASKHUB_API_V3 is not set",)
    assert "MASKHUB_API_V3" in caplog.text and "env-token" not in caplog.text


def test_a_part_of_the_three_and_no_file_is_local_only_and_says_so() -> None:
    one = target({"MASKHUB_API": "http://env/api"})
    assert list(one.missing()) == ["MASKHUB_API", "MASKHUB_API_V3", "MASKHUB_API_TOKEN"]
    assert "MASKHUB_API_V3, MASKHUB_API_TOKEN is not set" in one.describe()["notes"][0]


@pytest.mark.parametrize("shape", [CREDENTIALS, {"credentials": CREDENTIALS}], ids=["top level", "credentials"])
@pytest.mark.parametrize(
    "place", ["../home/.edwa/maskhub_config.json", "config/maskhub_config.json", "maskhub_config.json"]
)
def test_a_file_in_each_of_its_places(place: str, shape: Any) -> None:
    write(Path(place), shape)
    found = look()
    assert found.token.get_secret_value() == "file-token" and not found.missing
    assert found.source.endswith("maskhub_config.json")


def test_the_places_have_an_order_and_an_explicit_path_comes_first() -> None:
    places = ["../home/.edwa/maskhub_config.json", "config/maskhub_config.json", "maskhub_config.json"]
    for number, place in reversed(list(enumerate(places))):
        write(Path(place), CREDENTIALS | {"api_token": f"token {number}"})
        assert look().token.get_secret_value() == f"token {number}"
    mine = write(Path("mine.json"), CREDENTIALS | {"api_token": "mine"})
    assert look(config_file=mine).token.get_secret_value() == "mine"
    assert look(ENV, config_file=mine).token.get_secret_value() == "env-token"


def test_our_settings_come_before_all_and_may_be_completed_by_the_environment() -> None:
    write(Path("maskhub_config.json"), CREDENTIALS)
    found = look(ENV, api_url="http://ours/api/", api_v3_url="http://ours/v3")
    assert (found.api_url, found.api_v3_url, found.token.get_secret_value()) == (
        "http://ours/api",
        "http://ours/v3",
        "env-token",
    )
    alone = look(api_url="http://ours/api", api_v3_url="http://ours/v3", api_token=SecretStr("ours"))
    assert (alone.token.get_secret_value(), alone.source) == ("ours", "settings")
    with_file = look(api_url="http://ours/api")
    assert (with_file.api_url, with_file.token.get_secret_value()) == ("http://ours/api", "file-token")


@pytest.mark.parametrize("environ", [{}, ENV], ids=["credentials of the file", "credentials of the environment"])
def test_retry_numbers_of_the_file_apply_wherever_the_credentials_come_from(environ: dict[str, str]) -> None:
    """The public client never reads them with credentials of the environment, and has the numbers fixed anyway."""
    write(Path("maskhub_config.json"), {"credentials": CREDENTIALS, "settings": NUMBERS})
    one = target(environ)
    assert one.retry == {"max_retries": 9, "multiplier": 3.0, "min_wait_s": 1.5}
    assert look(environ).settings.timeout == 7


def test_a_file_may_leave_the_numbers_out() -> None:
    write(Path("maskhub_config.json"), {"credentials": CREDENTIALS, "settings": {"max_retries": 2}})
    assert target().retry == target(ENV).retry == {"max_retries": 2, "multiplier": 2.0, "min_wait_s": 15.0}


def test_its_numbers_mean_what_they_mean_to_its_own_client() -> None:
    """Five attempts, 15, 15, 15 and 16 s apart: the floor hides the exponent until the last."""
    write(Path("maskhub_config.json"), {"credentials": CREDENTIALS, "settings": {"max_retries": 5}})
    policy = RetryPolicy(**cast("Any", target().retry))
    assert policy.max_retries == 5
    assert [policy.wait_s(failures, 0.0) for failures in range(1, 5)] == [15, 15, 15, 16]


def test_without_numbers_the_lab_decides() -> None:
    write(Path("maskhub_config.json"), {"credentials": CREDENTIALS, "settings": {"timeout": 10}})
    assert target().retry == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ({"credentials": "x"}, "`credentials`"),
        ({"credentials": CREDENTIALS, "settings": {"max_retries": "often"}}, "max_retries"),
        ({"credentials": CREDENTIALS, "settings": {"timeout": -1}}, "timeout"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content: Any, words: str) -> None:
    write(Path("maskhub_config.json"), content)
    found = look()
    assert found.missing and words in found.notes[0] and "maskhub_config.json" in found.notes[0]
    assert "file-token" not in str(found)
    assert not look(ENV).missing, "it keeps nobody from working who has said all otherwise"


def test_an_explicit_path_that_is_not_there_is_named() -> None:
    found = look(config_file=Path("gone.json"))
    assert found.missing and "gone.json cannot be read" in found.notes[0]


def test_half_a_file_is_not_enough() -> None:
    write(Path("maskhub_config.json"), {"credentials": {"api_url": "http://file/api", "api_token": ""}})
    assert look().missing == ("MASKHUB_API_V3", "MASKHUB_API_TOKEN")


def test_a_setting_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({"token": "x"})
