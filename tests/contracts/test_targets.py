"""What every adapter of a target keeps to, whoever adds it: found in `adapters` by its class `Target`."""

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

import adapters
from domain.ports import TargetContext

SECRET = "s3cret-that-must-not-be-seen"


def _adapters() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in pkgutil.walk_packages(adapters.__path__, "adapters."):
        if module.name.startswith(("adapters.storage.", "adapters.maskhub.")):
            target = getattr(importlib.import_module(module.name), "Target", None)
            if inspect.isclass(target) and hasattr(target, "Options") and target.__module__ == module.name:
                found[module.name.removeprefix("adapters.")] = target
    return found


TARGETS = _adapters()


async def no_nats() -> Any:
    raise AssertionError("making a target connects to nothing")


#: Options without which a target cannot be meant.
NEEDED: dict[str, dict[str, Any]] = {"storage.s3": {"bucket": "lab"}}


def make(name: str, environ: dict[str, str]) -> Any:
    cls = TARGETS[name]
    return cls("test", cls.Options.model_validate(NEEDED.get(name, {})), TargetContext(environ, no_nats))


def test_there_are_adapters_for_all_kinds_of_targets() -> None:
    assert {cls.kind for cls in TARGETS.values()} == {"s3", "ipfs", "kv", "maskhub"}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_options_are_closed_and_frozen(name: str) -> None:
    options: type[BaseModel] = TARGETS[name].Options
    assert options.model_config.get("extra") == "forbid" and options.model_config.get("frozen") is True


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_sounds_like_a_secret_is_one(name: str) -> None:
    def look(model: type[BaseModel]) -> None:
        for key, field in model.model_fields.items():
            if any(word in key for word in ("token", "secret", "password", "jwt", "authorization")):
                assert SecretStr.__name__ in str(field.annotation), f"{model.__name__}.{key} is no SecretStr"
            for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if inspect.isclass(inner) and issubclass(inner, BaseModel):
                    look(inner)

    look(TARGETS[name].Options)


@pytest.mark.parametrize("name", sorted(TARGETS))
async def test_it_is_made_without_io_and_says_what_it_is(name: str) -> None:
    variables = dict.fromkeys(
        ("PINATA_JWT", "CLOUDFLARE_API_TOKEN", "MASKHUB_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        SECRET,
    )
    target = make(name, variables | {"AWS_ACCESS_KEY_ID": "lab"})
    said = f"{target.describe()!r} {target!r} {target.missing()!r} {vars(target)!r}"
    assert SECRET not in said
    assert target.kind == TARGETS[name].kind and all(isinstance(one, str) for one in target.missing())
    await target.close()
