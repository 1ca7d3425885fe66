"""Which artifacts go where by themselves: by the rules of the lab, or as their scan says."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from domain.artifact import Role
from domain.errors import Refused
from domain.events import Id
from domain.scan import Scan
from domain.target import TargetOpened

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]

#: The systems that take no file as it is, and how things get there instead.
NO_FILES = {
    "kv": "takes pointers: name it as the `pointer` of a rule whose target is an IPFS one",
    "maskhub": "takes the measurements of runs: add it to a run (labledger runs add)",
}


class Rule(BaseModel):
    """These artifacts of a scan go to these targets, if all that is given matches the scan. Patterns have `*` and `?`.

    With `pointer`, a key-value target, there is one target, of IPFS: once the file is there, `key` points to it (the target's template if
    empty; words of it are the scan's metadata, scan_id, role, sample_id, queue_id, template, title).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifacts: Annotated[tuple[Role, ...], Field(min_length=1)] = ("raw_data", "plot", "summary")
    targets: Annotated[tuple[Id, ...], Field(min_length=1)]
    pointer: Id | None = None
    key: Annotated[str, StringConstraints(max_length=500)] = ""
    queue: Pattern | None = None
    template: Pattern | None = None
    sample: Pattern | None = None
    title: Pattern | None = None

    @model_validator(mode="after")
    def _a_pointer_points_to_one_place(self) -> Self:
        if self.pointer is not None and len(self.targets) != 1:
            raise ValueError("a pointer points to one target: make a rule of its own for each")
        if self.key and self.pointer is None:
            raise ValueError(
                "key is that of a pointer; the names of files are the target's business (its option `key`)"
            )
        return self

    @property
    def all_targets(self) -> tuple[str, ...]:
        return (*self.targets, *((self.pointer,) if self.pointer else ()))

    def matches(self, scan: Scan) -> bool:
        asked = (
            (self.queue, scan.queue_id),
            (self.template, scan.template),
            (self.sample, scan.sample_id),
            (self.title, scan.title),
        )
        return all(pattern is None or (text is not None and fnmatchcase(text, pattern)) for pattern, text in asked)


def routes(scan: Scan, role: Role, rules: Sequence[Rule]) -> Iterator[Rule]:
    """The rules by which an artifact of a scan goes somewhere. What the scan itself says goes before those of the lab."""
    if scan.deliver is not None:
        if scan.deliver:
            yield Rule(targets=tuple(dict.fromkeys(scan.deliver)))
        return
    yield from (rule for rule in rules if role in rule.artifacts and rule.matches(scan))


def words(scan: Scan, role: Role) -> dict[str, JsonValue]:
    """What names at the targets may be made of, and pointers tell along."""
    told = {"sample_id": scan.sample_id, "queue_id": scan.queue_id, "template": scan.template, "title": scan.title}
    found: dict[str, JsonValue] = {**scan.metadata, "scan_id": str(scan.scan_id), "role": role}
    return found | {name: value for name, value in told.items() if value}


def must_take_files(target_id: str, opened: TargetOpened) -> None:
    """Raises `Refused` for a target whose system takes none."""
    if opened.system in NO_FILES:
        raise Refused(f"target {target_id} is {opened.system}, which {NO_FILES[opened.system]}")
