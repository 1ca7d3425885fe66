"""All settings, one reader: the environment, then one TOML file, then the defaults below.

    LABLEDGER_NATS_URL=nats://10.0.0.5:4222     or in labledger.toml     [nats]
                                                                         url = "nats://10.0.0.5:4222"

The file is `labledger.toml` in the working folder, or what LABLEDGER_CONFIG names. A variable `..._FILE` gives the path of a
file that holds the value (secrets of containers). Unknown names are errors: a setting that is misspelt would else be
silently ignored. `labledger config` prints `reference(settings)`.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from bus.connection import Credentials
from bus.roles import Role
from domain.events import Id
from domain.routing import Rule

PREFIX = "LABLEDGER_"
FILE_NAME = "labledger.toml"


class SettingsError(Exception):
    """A setting is wrong or missing. The text names the file or the variable, and says what to do."""


def _split(value: object) -> object:
    """Several addresses in one variable are separated by commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Addresses = Annotated[list[str], BeforeValidator(_split)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Nats(Section):
    """The event stream's server. Without `url` the embedded one is used."""

    url: Addresses = Field(
        default=[], description="Addresses of given NATS servers, separated by commas. Empty: embedded."
    )
    user: str | None = Field(
        default=None, description="User at a given server. Empty: the role's own from the connection file."
    )
    password: SecretStr | None = Field(default=None, description="Password of that user.")
    credentials_file: Path | None = Field(
        default=None, description="A .creds file (JWT and seed), in place of user and password."
    )
    port: int = Field(default=0, ge=0, le=65535, description="Port of the embedded server. 0: chosen once, then kept.")
    replicas: int = Field(
        default=1, ge=1, le=5, description="Copies of each stream; 3 where three servers form a cluster."
    )


class PostgresDatabase(Section):
    """The read models' database. Without `url` the embedded one is used."""

    url: SecretStr | None = Field(
        default=None, description="Address of a given database, as its owner (postgresql://...)."
    )
    readonly_url: SecretStr | None = Field(default=None, description="The same database, as a user who only reads.")
    port: int = Field(default=0, ge=0, le=65535, description="Port of the embedded server. 0: chosen once, then kept.")


class Lease(Section):
    """How long an instrument stays with a station that is not heard of."""

    ttl_s: float = Field(
        default=3.0, gt=0, le=600, description="A station that was not heard for so long loses its instruments."
    )
    beat_s: float = Field(
        default=1.0, gt=0, le=200, description="How often a station is heard; at most a third of ttl_s."
    )


class Projections(Section):
    """Batches in which events go into the read models. One batch is one transaction."""

    batch_events: int = Field(
        default=500, ge=1, le=100_000, description="A batch is written when it has so many events,"
    )
    batch_s: float = Field(default=0.05, gt=0, le=10, description="or when its first event is so old.")


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least serious line written."
    )
    format: Literal["text", "json"] = Field(default="text", description="Lines for people, or JSON for a collector.")


class Blobs(Section):
    """Files too large for events, kept by their SHA-256."""

    store: Literal["local", "s3", "nats"] = Field(
        default="local", description="A folder, a bucket of S3, or the object store of NATS."
    )
    dir: Path | None = Field(
        default=None, description="That folder; of the other two, what is on its way. Empty: DATA_DIR/blobs."
    )
    options: dict[str, Any] = Field(
        default_factory=dict[str, Any],
        description="Of the store s3: bucket, endpoint_url, prefix, ... (docs/delivery.md). In a variable: as JSON.",
    )


class CleanUp(Section):
    """Local files that are removed once they are published."""

    folders: Annotated[list[Path], BeforeValidator(_split)] = Field(
        default=[], description="Only in and below these folders, as the role `commands` sees them. Empty: nothing is."
    )


class Extract(Section):
    """Workers that read curves from images, fit models to them and make the artifacts of scans."""

    processes: int = Field(
        default=0, ge=0, le=256, description="Processes of one worker, each with one image at a time. 0: one a core."
    )
    workers: int = Field(default=1, ge=0, le=64, description="Workers that `labledger up` runs on this machine.")
    limit_s: float = Field(default=120.0, gt=0, le=86400, description="An extraction that takes longer is ended.")
    fit_limit_s: float = Field(default=900.0, gt=0, le=86400, description="A model fit that takes longer is ended.")
    artifacts_limit_s: float = Field(
        default=3600.0, gt=0, le=86400, description="Making the artifacts of a scan is ended when it takes longer."
    )
    on_upload: bool = Field(
        default=True, description="`labledger images add` requests an extraction, unless told not to."
    )


class Curves(Section):
    """The endpoint that the extraction method `llm` asks. Off without a key."""

    llm_url: str = Field(default="", description="An OpenAI-compatible endpoint, up to before /chat/completions.")
    llm_model: str = Field(default="gpt-4o", description="The vision model that is asked there.")
    llm_key: SecretStr | None = Field(default=None, description="The key. Without one the method llm is refused.")


class Station(Section):
    """One process that holds instruments."""

    instruments: dict[Id, dict[str, Any]] = Field(
        default_factory=dict[Id, dict[str, Any]],
        description="Instruments by name; each as adapters.instruments says: driver, address, connection, options, ...",
    )


class Limits(Section):
    """How much of it at once."""

    concurrency: int = Field(default=4, ge=1, le=256, description="Deliveries under way at once, over all workers.")


class Retry(Section):
    """What passes by itself is tried again (`domain.ports.RetryPolicy`). What is not set is as the target's own
    configuration has it, else as the policy's defaults."""

    max_retries: int | None = Field(default=None, ge=1, le=10_000)
    multiplier: float | None = Field(default=None, ge=0, le=3600)
    min_wait_s: float | None = Field(default=None, ge=0, le=86400)
    max_wait_s: float | None = Field(default=None, ge=0, le=86400)


class TargetSettings(Section):
    """One outside system that takes deliveries."""

    adapter: str = Field(pattern=r"^[a-z_]+\.[a-z_0-9]+$", description="Its file in adapters/, such as storage.s3.")
    options: dict[str, Any] = {}
    limits: Limits = Limits()
    retry: Retry = Retry()


class Settings(Section):
    """Everything that may be set."""

    data_dir: Path = Field(
        default=Path("lab"), description="The lab's folder: embedded servers, files, connection.json."
    )
    connection_file: Path | None = Field(
        default=None,
        description="Addresses and credentials written by `labledger up`. Empty: DATA_DIR/connection.json.",
    )
    nats: Nats = Field(default_factory=Nats)
    postgres: PostgresDatabase = Field(default_factory=PostgresDatabase)
    lease: Lease = Field(default_factory=Lease)
    projections: Projections = Field(default_factory=Projections)
    log: Log = Field(default_factory=Log)
    blobs: Blobs = Field(default_factory=Blobs)
    extract: Extract = Field(default_factory=Extract)
    clean_up: CleanUp = Field(default_factory=CleanUp)
    curves: Curves = Field(default_factory=Curves)
    stations: dict[Id, Station] = Field(
        default_factory=dict[Id, Station],
        description="Stations by name, each with its instruments. In a variable: as JSON.",
    )

    targets: dict[Id, TargetSettings] = Field(
        default_factory=dict[Id, TargetSettings],
        description="Targets of deliveries by name: adapter, options, limits, retry (docs/delivery.md). In a variable: as JSON.",
    )
    deliver: tuple[Rule, ...] = Field(
        default=(),
        description="Which artifacts of completed scans go to which targets: a [[deliver]] each (docs/delivery.md). "
        "In a variable: as JSON.",
    )

    #: Where each value that is not a default came from, by its name ("nats.url").
    _sources: dict[str, str] = PrivateAttr(default_factory=dict[str, str])

    def source(self, name: str) -> str:
        """Where the value of a setting came from: a variable, a file, or "default"."""
        return self._sources.get(name, "default")

    def remember(self, sources: Mapping[str, str]) -> None:
        self._sources.update(sources)

    @property
    def embedded_nats(self) -> bool:
        return not self.nats.url

    @property
    def embedded_postgres(self) -> bool:
        return self.postgres.url is None

    @property
    def blob_dir(self) -> Path:
        return self.blobs.dir or self.data_dir / "blobs"

    @property
    def connection_path(self) -> Path:
        return self.connection_file or self.data_dir / "connection.json"

    def connection(self, role: Role | str) -> "Connection":
        """How a role reaches NATS and Postgres: what is set here, else what `labledger up` wrote.

        Raises `SettingsError` when neither tells.
        """
        told = self._told()
        urls, credentials = self.nats.url, Credentials(inbox_prefix=f"_INBOX_{role}")
        if urls:
            if self.nats.user:
                password = self.nats.password.get_secret_value() if self.nats.password else None
                credentials = Credentials(self.nats.user, password, f"_INBOX_{self.nats.user}")
        else:
            nats = told.get("nats")
            if not nats:
                raise self._nowhere("NATS", "nats.url")
            urls = [nats["url"]]
        # Also at a given server: the connection file may hold the users of all roles.
        users = told.get("nats", {}).get("users", {})
        if not self.nats.user and not self.nats.credentials_file and role in users:
            it = users[role]
            credentials = Credentials(it["user"], it["password"], it["inbox_prefix"])
        elif not self.nats.url:
            raise SettingsError(
                f"{self.connection_path} knows no user {str(role)!r} of NATS; known: {', '.join(users)}"
            )
        postgres = told.get("postgres", {})
        owner = self.postgres.url.get_secret_value() if self.postgres.url else postgres.get("url")
        reader = self.postgres.readonly_url.get_secret_value() if self.postgres.readonly_url else None
        if reader is None and self.postgres.url is None:
            reader = postgres.get("readonly_url")
        return Connection(tuple(urls), credentials, owner, reader, self.nats.credentials_file)

    def _told(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(self.connection_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except PermissionError as error:
            raise SettingsError(
                f"{self.connection_path} belongs to another user: run as the user who runs `labledger up`, or set "
                f"{variable('nats.url')} and {variable('nats.user')}"
            ) from error
        except ValueError as error:
            raise SettingsError(
                f"{self.connection_path} is damaged ({error}): `labledger up` writes it anew"
            ) from error
        if told.get("version") != 1:
            raise SettingsError(f"{self.connection_path} has version {told.get('version')!r}, this program reads 1")
        return told

    def _nowhere(self, what: str, name: str) -> SettingsError:
        return SettingsError(
            f"no address of {what}: start the lab's own with `labledger up` (it writes {self.connection_path}), or set "
            f"{variable(name)}"
        )


@dataclass(frozen=True)
class Connection:
    """How one role connects. Postgres' addresses are None for what is not told."""

    nats_urls: tuple[str, ...]
    credentials: Credentials
    postgres_url: str | None
    postgres_readonly_url: str | None
    credentials_file: Path | None = None

    def __repr__(self) -> str:
        return f"Connection(nats_urls={self.nats_urls}, user={self.credentials.user!r})"


def variable(name: str) -> str:
    """The variable of a setting: `nats.url` is LABLEDGER_NATS_URL."""
    return PREFIX + name.replace(".", "_").upper()


def _fields(model: type[BaseModel] = Settings, path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every single setting with its name."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _fields(kind, f"{path}{name}.")
        else:
            yield path + name, field


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        inner: Any = values.setdefault(section, {})
        if not isinstance(inner, dict):
            return  # The validation says what is wrong with the file.
        values = cast(dict[str, Any], inner)
    values[last] = value


def _get(values: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    here: Any = values
    for part in name.split("."):
        if not isinstance(here, dict) or part not in here:
            return False, None
        here = cast(dict[str, Any], here)[part]
    return True, here


def _read_file(environ: Mapping[str, str], folder: Path) -> tuple[dict[str, Any], Path | None]:
    named = environ.get(f"{PREFIX}CONFIG")
    path = folder / (named or FILE_NAME)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), path
    except FileNotFoundError:
        if named:
            raise SettingsError(f"{PREFIX}CONFIG names {path}, which does not exist") from None
        return {}, None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error


def load(environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
    """Read the settings. Relative paths in the file count from the file's folder, others from `folder`.

    Raises `SettingsError` with all that is wrong at once.
    """
    environ = os.environ if environ is None else environ
    folder = Path.cwd() if folder is None else folder
    values, path = _read_file(environ, folder)
    names = dict(_fields())
    sources: dict[str, str] = {}
    for name in names:
        there, value = _get(values, name)
        if there and path:
            sources[name] = str(path)
            if name in _PATHS and isinstance(value, str):
                _put(values, name, str(path.parent / value))

    variables = {variable(name): name for name in names}
    for key, text in environ.items():
        if not key.startswith(PREFIX) or key == f"{PREFIX}CONFIG":
            continue
        name, source = variables.get(key), key
        if name is None and key.endswith("_FILE") and (name := variables.get(key.removesuffix("_FILE"))):
            try:
                text, source = Path(text).read_text(encoding="utf-8").rstrip("\n"), f"{key} ({text})"
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"{key} names {text}, which cannot be read: {error}") from error
        if name is None:
            raise SettingsError(f"{key} is no setting{_guess(key, variables)}. `labledger config` lists all")
        if text == "":
            continue  # As good as unset: compose files pass empty variables on.
        value: Any = text
        if name in _JSON:
            try:
                value = json.loads(text)
            except ValueError as error:
                raise SettingsError(f"{key} must be JSON: {error}") from error
        elif name in _PATHS:
            value = str(folder / text)
        _put(values, name, value)
        sources[name] = source

    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, sources, path, names)) from None
    if "data_dir" not in sources:
        settings = settings.model_copy(update={"data_dir": folder / settings.data_dir})
    settings.remember(sources)
    for number, rule in enumerate(settings.deliver, 1):
        if unknown := [target for target in rule.all_targets if target not in settings.targets]:
            raise SettingsError(
                f"deliver, rule {number} ({settings.source('deliver')}): there is no target {unknown[0]!r}"
                f"{_guess(unknown[0], settings.targets)}; add [targets.{unknown[0]}], or take it out of the rule"
            )
    if settings.lease.beat_s * 3 > settings.lease.ttl_s:
        raise SettingsError(
            f"lease.beat_s ({settings.lease.beat_s:g}, {settings.source('lease.beat_s')}) is more than a third of "
            f"lease.ttl_s ({settings.lease.ttl_s:g}, {settings.source('lease.ttl_s')}): one late beat would cost a station "
            f"its instruments"
        )
    return settings


#: Those that a variable holds as JSON.
_JSON = frozenset({"stations", "targets", "deliver", "blobs.options"})
_PATHS = frozenset({"data_dir", "connection_file", "nats.credentials_file", "blobs.dir"})


def _guess(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _explain(error: ValidationError, sources: Mapping[str, str], path: Path | None, names: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        # The value of an element or of a mapping belongs to the setting that holds it.
        setting = next((name for name in names if where == name or where.startswith(name + ".")), where)
        source = sources.get(setting, str(path) if path else "the settings")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: {where} is no setting{_guess(where, names)}")
        else:
            lines.append(f"{source}: {where}: {problem['msg']}")
    return "; ".join(lines)


@dataclass(frozen=True)
class Described:
    """One setting as `labledger config` prints it. Secrets are masked."""

    name: str
    variable: str
    value: str
    source: str
    description: str


def reference(settings: Settings) -> list[Described]:
    """Every setting with its present value, where it came from and what it does. Never shows a secret."""
    rows: list[Described] = []
    for name, field in _fields():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        rows.append(Described(name, variable(name), _show(name, value), settings.source(name), field.description or ""))
    return rows


def _show(name: str, value: Any) -> str:
    if value is None or value == [] or value == {}:
        return ""
    if isinstance(value, SecretStr):
        return "********"
    if name == "nats.url":
        return ", ".join(_without_password(url) for url in value)
    if name == "stations":
        # Names only: options of drivers may hold secrets of devices.
        return "; ".join(f"{station}: {', '.join(it.instruments) or 'no instruments'}" for station, it in value.items())
    if name == "deliver":
        return "; ".join(f"{', '.join(rule.artifacts)} to {', '.join(rule.targets)}" for rule in value)
    if name == "blobs.options":
        return ", ".join(value)
    if name == "targets":
        return "; ".join(f"{target}: {it.adapter}" for target, it in value.items())
    return str(value)


def _without_password(url: str) -> str:
    scheme, slashes, rest = url.rpartition("://")
    secret, at, host = rest.rpartition("@")
    user, colon, _ = secret.partition(":")
    masked = (f"{user}:********" if colon else "********") if at else ""
    return f"{scheme}{slashes}{masked}{at}{host}"
