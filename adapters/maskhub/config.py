"""Where MaskHub is and how it is used: from our settings, the environment, or a `maskhub_config.json`.

The three things needed are the two addresses and the token. What the lab's settings say holds; the rest is taken from the environment
if that makes the three complete, else from the first file that there is: `config_file` of the settings, then
`~/.edwa/maskhub_config.json`, `config/maskhub_config.json`, `maskhub_config.json`. A file also has `settings` (timeout,
max_retries, retry_multiplier, retry_min_wait); they hold wherever the credentials come from.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from adapters.web.client import HttpOptions

log = logging.getLogger("labledger.maskhub")

#: The names of the three, in our settings (and a file), and in the environment.
ENVIRONMENT: Mapping[str, str] = {
    "api_url": "MASKHUB_API",
    "api_v3_url": "MASKHUB_API_V3",
    "api_token": "MASKHUB_API_TOKEN",
}
FILE = "maskhub_config.json"


class Options(BaseModel):
    """What the lab's settings may say of it, under `options` of the target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_url: str | None = Field(default=None, description="Address of the base API. [MASKHUB_API]")
    api_v3_url: str | None = Field(default=None, description="Address of the v3 API. [MASKHUB_API_V3]")
    api_token: SecretStr | None = Field(default=None, description="The token, sent as X-API-KEY. [MASKHUB_API_TOKEN]")
    config_file: Path | None = Field(default=None, description="A maskhub_config.json, before the usual three places.")
    heartbeats: bool = Field(default=True, description="Tell MaskHub when a station starts and ends a run.")
    settle_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="So long after a lost answer MaskHub may still be at work on what it got.",
    )
    http: HttpOptions = HttpOptions()


class FileSettings(BaseModel):
    """`settings` of a maskhub_config.json. All may be left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    timeout: float | None = Field(default=None, gt=0)
    max_retries: int | None = Field(default=None, ge=1)
    retry_multiplier: float | None = Field(default=None, ge=0)
    retry_min_wait: float | None = Field(default=None, ge=0)

    @property
    def retry(self) -> dict[str, float]:
        """The numbers of it that are about retries, as `domain.ports.RetryPolicy` calls them; completed as MaskHub's own client
        has them if it says any."""
        said = {"max_retries": self.max_retries, "multiplier": self.retry_multiplier, "min_wait_s": self.retry_min_wait}
        given = {name: value for name, value in said.items() if value is not None}
        return {"max_retries": 5, "multiplier": 2.0, "min_wait_s": 15.0} | given if given else {}


@dataclass(frozen=True)
class Config:
    """What was found. `missing` names what is not set; `notes` are for people; `source` says where it was found."""

    api_url: str
    api_v3_url: str
    token: SecretStr
    missing: tuple[str, ...]
    source: str
    settings: FileSettings
    notes: tuple[str, ...] = ()


class BadFile(ValueError):
    """A configuration file that cannot be used. The text names the file, and shows nothing of what is in it."""


def find(options: Options, environ: Mapping[str, str]) -> Config:
    """Look in all places. Reads files, and never raises: what is wrong with one is said in `notes`."""
    given = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name in ENVIRONMENT
        if (value := getattr(options, name))
    }
    there = {name: environ[variable] for name, variable in ENVIRONMENT.items() if environ.get(variable)}
    notes: list[str] = []
    path, in_file, settings = None, dict[str, str](), FileSettings()
    try:
        path, in_file, settings = _from_files(options.config_file, environ)
    except BadFile as error:
        notes.append(str(error))
    found, source = there | given, "settings" if set(given) == set(ENVIRONMENT) else "environment"
    if lacks := [name for name in ENVIRONMENT if name not in found]:
        if there:
            names = ", ".join(ENVIRONMENT[name] for name in lacks)
            notes.append(f"the environment is left out of account: {names} is not set")
        found, source = in_file | given, str(path) if path else "nowhere"
    for note in notes:
        log.warning("maskhub: %s", note)
    return Config(
        api_url=found.get("api_url", "").rstrip("/"),
        api_v3_url=found.get("api_v3_url", "").rstrip("/"),
        token=SecretStr(found.get("api_token", "")),
        missing=tuple(variable for name, variable in ENVIRONMENT.items() if not found.get(name)),
        source=source,
        settings=settings,
        notes=tuple(notes),
    )


def places(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where a file is looked for, in this order."""
    home = environ.get("HOME")
    yield (Path(home) if home else Path("~").expanduser()) / ".edwa" / FILE
    yield Path("config") / FILE
    yield Path(FILE)


def _from_files(explicit: Path | None, environ: Mapping[str, str]) -> tuple[Path | None, dict[str, str], FileSettings]:
    path = explicit or next((place for place in places(environ) if place.is_file()), None)
    if path is None:
        return None, {}, FileSettings()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise BadFile(f"{path} is no JSON") from None
    if not isinstance(content, dict):
        raise BadFile(f"{path} is no JSON object")
    told = cast("dict[str, Any]", content)
    credentials: Any = told.get("credentials", told)
    if not isinstance(credentials, dict):
        raise BadFile(f"{path}: `credentials` is no JSON object")
    found = {name: value for name in ENVIRONMENT if isinstance(value := credentials.get(name), str) and value}  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    try:
        return path, found, FileSettings.model_validate(told.get("settings", {}))
    except ValidationError as error:
        where = ", ".join(".".join(str(part) for part in one["loc"]) or "settings" for one in error.errors())
        raise BadFile(f"{path}: `settings` has values that cannot be right: {where}") from None
