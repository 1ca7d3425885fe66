"""Events and commands: frozen, named for ever, and found by their names.

An event's `name` is what is stored; the class may be renamed or moved. A new field with a default keeps the version, a
changed shape raises it and adds `from_vN` beside the fields:

    class UploadCompleted(Event, name="upload.completed", version=2):
        sha256: str

        @staticmethod
        def from_v1(data: dict[str, Any]) -> dict[str, Any]:
            return {"upload_id": data["upload_id"], "sha256": data["checksum"]}

A command's name is `<kind>.<verb>`; it is published to `cmd.<kind>.<verb>`.
"""

import json
import re
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, StringConstraints

from domain.errors import UnknownEvent

NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")

#: Ids are one token of a NATS subject: letters, digits, `_` and `-`.
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Event(BaseModel):
    """Something that happened, in the past tense, with all that a reader needs."""

    # Its validator is made when it is first used, in whichever thread: a process meets few of the 180 events and commands, and
    # to make those of all took it a sixth of the time in which it starts.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", defer_build=True)

    NAME: ClassVar[str]
    VERSION: ClassVar[int]
    TYPE: ClassVar[str]

    def __init_subclass__(cls, **_: Any) -> None:
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str | None = None, version: int = 1, **_: Any) -> None:
        if name is None:
            return
        if not NAME.fullmatch(name):
            raise TypeError(f"event name {name!r} is not `<kind>.<what_happened>`")
        if name in EVENTS:
            raise TypeError(f"event name {name!r} is taken by {EVENTS[name].__qualname__}")
        for old in range(1, version):
            if not hasattr(cls, f"from_v{old}"):
                raise TypeError(f"{name} v{version} needs from_v{old}: what is stored is never edited")
        cls.NAME, cls.VERSION, cls.TYPE = name, version, f"{name}.v{version}"
        EVENTS[name] = cls


class Command(BaseModel):
    """An order from outside. It can be refused. Ids are chosen by the sender, so that sending twice is harmless."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    NAME: ClassVar[str]
    KIND: ClassVar[str]

    def __init_subclass__(cls, **_: Any) -> None:
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str | None = None, **_: Any) -> None:
        if name is None:
            return
        if not NAME.fullmatch(name):
            raise TypeError(f"command name {name!r} is not `<kind>.<verb>`")
        if name in COMMANDS:
            raise TypeError(f"command name {name!r} is taken by {COMMANDS[name].__qualname__}")
        cls.NAME, cls.KIND = name, name.split(".")[0]
        COMMANDS[name] = cls

    @property
    def aggregate_id(self) -> str:
        """The aggregate that the command is for: the field `<kind>_id`, or `name` where ids are names."""
        return str(getattr(self, f"{self.KIND}_id"))


EVENTS: dict[str, type[Event]] = {}
COMMANDS: dict[str, type[Command]] = {}


def encode(event: Event) -> bytes:
    """The event's body as stored: plain JSON."""
    return event.model_dump_json().encode()


def decode(type_: str, body: bytes) -> Event:
    """The event of a stored type (`scan.completed.v1`) and body, upcast to the newest version.

    Raises `UnknownEvent` for a type or a version that this software does not know.
    """
    name, _, version_text = type_.rpartition(".v")
    cls = EVENTS.get(name)
    if cls is None or not version_text.isdigit() or not 1 <= int(version_text) <= cls.VERSION:
        raise UnknownEvent(f"event type {type_!r} is not known to this version of labledger")
    version = int(version_text)
    if version == cls.VERSION:
        return cls.model_validate_json(body)
    data: dict[str, Any] = json.loads(body)
    for old in range(version, cls.VERSION):
        data = getattr(cls, f"from_v{old}")(data)
    return cls.model_validate(data)
