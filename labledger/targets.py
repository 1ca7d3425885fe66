"""Targets of deliveries, made from the settings: `[targets.archive] adapter = "storage.s3"` is `adapters.storage.s3.Target`."""

import importlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydantic import BaseModel, ValidationError

from domain.ports import HasRetryNumbers, RetryPolicy, Target, TargetContext
from labledger.settings import Settings, SettingsError, TargetSettings


@dataclass(frozen=True)
class OpenedTarget:
    """A target and what the settings say of its use. Made without I/O."""

    name: str
    adapter: str
    target: Target
    concurrency: int
    retry: RetryPolicy


def open_target(
    settings: Settings,
    name: str,
    nats: Callable[[], Awaitable[Any]],
    environ: Mapping[str, str] | None = None,
) -> OpenedTarget:
    """The target of that name. Raises `SettingsError` for one that there is not, or whose options are wrong."""
    it = settings.targets.get(name)
    if it is None:
        known = ", ".join(settings.targets) or "none"
        raise SettingsError(f"there is no target {name!r} in the settings; there are: {known}. Add [targets.{name}]")
    target = make_target(it.adapter, name, it.options, TargetContext(os.environ if environ is None else environ, nats))
    return OpenedTarget(name, it.adapter, target, it.limits.concurrency, _retry(it, target))


def make_target(adapter: str, name: str, options: Mapping[str, Any], context: TargetContext) -> Target:
    """Raises `SettingsError` for an adapter that there is not, or options that it does not take."""
    try:
        module: Any = importlib.import_module(f"adapters.{adapter}")
        cls: Any = module.Target
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("adapters"):
            raise SettingsError(
                f"targets.{name}: {adapter} needs {error.name}: pip install 'labledger[delivery]'"
            ) from error
        raise SettingsError(
            f"targets.{name}: there is no adapter {adapter!r} (a file in adapters/ with a Target)"
        ) from error
    model: type[BaseModel] = cls.Options
    try:
        return cls(name, model.model_validate(dict(options)), context)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
            for one in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError(f"targets.{name}.options: {wrong}") from None


def _retry(it: TargetSettings, target: Target) -> RetryPolicy:
    """What our settings say, else what the system's own configuration says, else the policy's defaults."""
    own = dict(target.retry) if isinstance(target, HasRetryNumbers) else {}
    said = {name: value for name, value in it.retry.model_dump().items() if value is not None}
    known = {field.name for field in fields(RetryPolicy)}
    numbers: dict[str, Any] = (
        asdict(RetryPolicy()) | {name: value for name, value in own.items() if name in known} | said
    )
    return RetryPolicy(**numbers)
