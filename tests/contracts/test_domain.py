"""What every aggregate in `domain` keeps to, whoever adds it: a new file is under these tests at once."""

import ast
import importlib
import sys
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import domain
from bus.commands import HANDLERS
from domain.aggregate import Aggregate, aggregates
from domain.events import COMMANDS, EVENTS, Command, Event, Id
from labledger import wiring
from labledger.docs import UNITS

FOLDER = Path(domain.__file__ or "").parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
KINDS = sorted(aggregates())


def module(kind: str) -> types.ModuleType:
    return importlib.import_module(f"domain.{kind}")


#: The kernel, the plan and the like: they define no events, so they have no history of their own.
NOT_AGGREGATES = {
    name for name in MODULES if not any(event.__module__ == f"domain.{name}" for event in EVENTS.values())
}


def events(kind: str) -> list[type[Event]]:
    return [cls for name, cls in EVENTS.items() if name.split(".")[0] == kind]


def all_commands(kind: str) -> list[type[Command]]:
    """Also those that never come over the wire."""
    found = vars(module(kind)).values()
    return [
        it
        for it in found
        if isinstance(it, type)
        and issubclass(it, Command)
        and it.__module__ == f"domain.{kind}"
        and not it.__name__.startswith("_")
    ]


def members(annotation: Any) -> set[Any]:
    """The classes of a union, however it is nested or named."""
    origin = get_origin(annotation)
    if origin is None or isinstance(annotation, type):
        return {annotation}
    return set().union(*(members(argument) for argument in get_args(annotation)))


#: The fields that say which aggregate an event is of.
def id_field(kind: str) -> str:
    fields = [set(cls.model_fields) for cls in events(kind)]
    shared = set.intersection(*fields)
    named = f"{kind}_id"
    if named in shared:
        return named
    # Readings are those of a scan, and a lease is that of an instrument: the id is theirs.
    (only,) = shared & {"scan_id", "instrument"}
    return only


@pytest.mark.parametrize("name", sorted(set(MODULES) - NOT_AGGREGATES))
def test_a_module_of_the_domain_is_an_aggregate_of_its_own_name(name: str) -> None:
    aggregate = module(name).aggregate
    assert isinstance(aggregate, Aggregate)
    assert aggregate.kind == name


@pytest.mark.parametrize("name", MODULES)
def test_a_module_opens_with_what_it_is(name: str) -> None:
    first = (module(name).__doc__ or "").split("\n")[0]
    assert first.rstrip().endswith((".", ":", ",")) or len(first) > 20, f"domain/{name}.py has no opening words"


@pytest.mark.parametrize("name", MODULES)
def test_the_domain_imports_pydantic_numpy_and_the_standard_library(name: str) -> None:
    allowed = {*sys.stdlib_module_names, "domain", "pydantic", "pydantic_core", "numpy"}
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in allowed


def test_every_event_belongs_to_an_aggregate_in_the_module_of_its_kind() -> None:
    for name, cls in EVENTS.items():
        kind = name.split(".")[0]
        assert kind in KINDS, name
        assert cls.__module__ == f"domain.{kind}", name


def test_every_command_on_the_wire_belongs_to_an_aggregate() -> None:
    for name, cls in COMMANDS.items():
        assert cls.KIND in KINDS, name
        assert cls.__module__ == f"domain.{cls.KIND}", name


@pytest.mark.parametrize("kind", KINDS)
def test_events_and_commands_cannot_be_changed_and_take_nothing_unknown(kind: str) -> None:
    for cls in [*events(kind), *all_commands(kind)]:
        assert cls.model_config.get("frozen") is True, cls
        assert cls.model_config.get("extra") == "forbid", cls


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_events_and_commands_cannot_be_changed_either(kind: str) -> None:
    for value in vars(module(kind)).values():
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == f"domain.{kind}":
            assert value.model_config.get("frozen") is True, value


@pytest.mark.parametrize("kind", KINDS)
def test_evolve_and_the_union_of_events_know_every_event_of_the_module(kind: str) -> None:
    hints = get_type_hints(aggregates()[kind].evolve)
    assert members(list(hints.values())[1]) == set(events(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_decide_or_a_handler_of_its_own_knows_every_command_of_the_module(kind: str) -> None:
    wiring.consumers()  # imports every handler
    hints = get_type_hints(aggregates()[kind].decide)
    elsewhere = {cls for cls in all_commands(kind) if getattr(cls, "NAME", "") in HANDLERS}
    assert members(list(hints.values())[1]) | elsewhere == set(all_commands(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_decide_answers_events_of_the_module(kind: str) -> None:
    answer = get_type_hints(aggregates()[kind].decide)["return"]
    (element,) = get_args(answer)
    assert members(element) == set(events(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_initial_state_survives_a_snapshot(kind: str) -> None:
    initial = aggregates()[kind].initial
    adapter: TypeAdapter[Any] = TypeAdapter(type(initial))
    assert adapter.validate_json(adapter.dump_json(initial)) == initial


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_cannot_be_changed(kind: str) -> None:
    initial: Any = aggregates()[kind].initial
    if isinstance(initial, BaseModel):
        assert initial.model_config.get("frozen") is True
    else:
        assert initial.__dataclass_params__.frozen is True


@pytest.mark.parametrize("kind", KINDS)
def test_decide_and_evolve_do_not_wait_and_answer_at_once(kind: str) -> None:
    aggregate = aggregates()[kind]
    for function in (aggregate.decide, aggregate.evolve):
        assert isinstance(function, types.FunctionType)
        assert function.__code__.co_flags & 0x80 == 0  # no coroutine
        assert function.__module__ == f"domain.{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_carries_the_id_of_its_aggregate(kind: str) -> None:
    field = id_field(kind)
    for cls in events(kind):
        info = cls.model_fields[field]
        assert info.is_required(), f"{cls.NAME}.{field}"
        assert info.annotation in (UUID, str), f"{cls.NAME}.{field} is {info.annotation}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_names_the_aggregate_that_it_is_for(name: str) -> None:
    cls = COMMANDS[name]
    field = f"{cls.KIND}_id"
    assert field in cls.model_fields and cls.model_fields[field].is_required()
    uuid = cls.model_fields[field].annotation is UUID
    wrong = {field: "../evt.scan.1"}
    with pytest.raises(ValidationError) as caught:
        cls.model_validate(wrong)
    assert any(error["loc"] == (field,) for error in caught.value.errors()), f"{name} takes any text as {field}"
    assert uuid or TypeAdapter(Id).validate_python("a-name_1") == "a-name_1"


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_an_event_is_named_by_what_happened(name: str) -> None:
    kind, _, what = name.partition(".")
    assert kind in KINDS
    last = what.split("_")[-1]
    # English past: -ed, and those that English has otherwise. `stopping` and `answers_again` say a state that holds on.
    irregular = {"stuck", "unstuck", "held", "lost", "idle", "stopping", "again", "answering"}
    assert last.endswith("ed") or last in irregular, f"{name} does not sound like something that happened"


@pytest.mark.parametrize("cls", [*EVENTS.values(), *COMMANDS.values()], ids=lambda cls: cls.NAME)
def test_the_json_schema_of_every_event_and_command_can_be_exported(cls: type[BaseModel]) -> None:
    schema = cls.model_json_schema()
    assert schema["type"] == "object"
    assert set(schema["properties"]) == set(cls.model_fields)


#: Numbers that have no unit, or whose unit stands beside them.
WITHOUT_UNIT = {"value", "values", "time", "start", "stop", "limits", "jitter"}
#: Shares of one and the like; and what has the unit of its axis, or beside it.
WITHOUT_UNIT |= {"confidence", "axes_confidence", "min_confidence", "nrmse", "mare", "capacitance_decades"}
WITHOUT_UNIT |= {"x", "y", "value_from", "value_to"}


def _numbers(model: type[BaseModel], seen: set[type]) -> list[tuple[str, str]]:
    """Every field with a float in it, also in the parts of a model."""
    if model in seen:
        return []
    seen.add(model)
    found: list[tuple[str, str]] = []

    def look(annotation: Any, name: str) -> None:
        if annotation is float:
            found.append((model.__name__, name))
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.extend(_numbers(annotation, seen))
        for argument in get_args(annotation):
            look(argument, name)

    for name, field in model.model_fields.items():
        look(field.annotation, name)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_with_a_unit_has_it_at_the_end_of_its_name(kind: str) -> None:
    seen: set[type] = set()
    for cls in [*events(kind), *all_commands(kind)]:
        for model, name in _numbers(cls, seen):
            free = name in WITHOUT_UNIT or name in ("metadata", "settings", "spec", "result")
            assert free or any(name.endswith(end) for end in UNITS), f"{model}.{name}: in which unit?"


def test_old_versions_of_events_are_upcast() -> None:
    for name, cls in EVENTS.items():
        for old in range(1, cls.VERSION):
            upcast = getattr(cls, f"from_v{old}")
            assert callable(upcast)
            assert upcast.__doc__, f"{name}.from_v{old} does not say what was different"
