"""The documents say what the code does: generated ones are fresh, links lead somewhere, names that are pointed at exist."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import commands, envelope, streams
from bus.connection import Ack
from bus.envelope import Head, Meta
from bus.errors import Rejected
from domain.events import COMMANDS, EVENTS, Command, Event
from labledger import docs

ROOT = docs.FOLDER.parent
PAGES = sorted([*ROOT.glob("*.md"), *docs.FOLDER.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


# -- generated files ------------------------------------------------------------------------------------------------------


def test_generated_documents_are_fresh() -> None:
    assert docs.aged() == [], "the code says something else by now: run `make docs` and commit docs/"


def test_no_stored_or_sent_shape_has_changed_under_its_version() -> None:
    assert docs.broken_promises() == []


def test_the_schema_of_every_version_of_every_event_is_kept() -> None:
    wanted = {f"{name}.v{version}.json" for name, cls in EVENTS.items() for version in range(1, cls.VERSION + 1)}
    assert wanted <= {path.name for path in (docs.FOLDER / "schemas").iterdir()}


def test_every_event_says_what_it_means_and_who_writes_it() -> None:
    for name, cls in EVENTS.items():
        assert docs.meaning(cls), f"{name} has no docstring"
        assert docs.writer(name), f"labledger.docs.WRITERS does not say who writes {name}"


def test_every_command_says_what_it_orders() -> None:
    for name, cls in COMMANDS.items():
        assert docs.meaning(cls), f"{name} has no docstring"


def test_no_words_are_kept_for_what_says_it_itself_or_is_gone() -> None:
    known: dict[str, type[Event] | type[Command]] = {**EVENTS, **COMMANDS}
    assert {name for name in docs.MEANINGS if name not in known or known[name].__doc__} == set()
    kinds = {name.split(".")[0] for name in EVENTS}
    assert {name for name in docs.WRITERS if name not in EVENTS and name not in kinds} == set()


# -- what counts as a broken promise -----------------------------------------------------------------------------------------


def schema(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or [], **more}


BEFORE = schema(
    {"id": {"type": "string", "maxLength": 10}, "mode": {"enum": ["a", "b"]}, "n": {"type": "integer"}}, ["id"]
)


def changed(**properties: Any) -> dict[str, Any]:
    return schema({**BEFORE["properties"], **properties}, ["id"])


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (schema({"id": {"type": "string", "maxLength": 10}, "mode": {"enum": ["a", "b"]}}, ["id"]), "n: is gone"),
        (schema(BEFORE["properties"], ["id", "n"]), "n: must now be given"),
        (schema({**BEFORE["properties"], "new": {"type": "string"}}, ["id", "new"]), "new: must now be given"),
        (changed(n={"type": "string"}), 'n: type was "integer", is "string"'),
        (changed(n={"type": "integer", "default": 3}), "n: default was null, is 3"),
        (changed(mode={"enum": ["a"]}), 'mode: "b" is no choice any more'),
        (changed(n={"enum": [1, 2]}), "n: has choices now"),
        (changed(id={"type": "string", "maxLength": 9}), "id: maxLength was 10, is 9"),
        (changed(id={"type": "string", "maxLength": 10, "pattern": "^x"}), "id: pattern was null"),
        (changed(id={"type": "string", "maxLength": 10, "minLength": 1}), "id: minLength was null, is 1"),
    ],
)
def test_a_changed_shape_under_the_same_version_is_told_in_words(after: dict[str, Any], words: str) -> None:
    (found,) = {line for line in docs.broken(BEFORE, after) if "type was" not in line or "type" in words}
    assert words in found


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        BEFORE | {"description": "other words"},
        changed(new={"type": "string", "default": ""}),
        changed(mode={"enum": ["a", "b", "c"]}),
        changed(id={"type": "string", "maxLength": 20}),
        changed(id={"type": "string"}),
    ],
)
def test_what_is_added_and_need_not_be_given_breaks_nothing(after: dict[str, Any]) -> None:
    assert docs.broken(BEFORE, after) == []


def test_a_change_within_a_shared_part_is_found() -> None:
    def with_part(part: dict[str, Any]) -> dict[str, Any]:
        return schema({"parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}}}) | {"$defs": {"Part": part}}

    before, after = with_part(schema({"x": {"type": "number"}})), with_part(schema({}))
    assert docs.broken(before, after) == ["parts.[].x: is gone"]


def test_a_part_that_holds_itself_is_compared_once() -> None:
    tree = {"$ref": "#/$defs/Node", "$defs": {"Node": schema({"next": {"$ref": "#/$defs/Node"}})}}
    assert docs.broken(tree, tree) == []


def test_a_broken_promise_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    path = tmp_path / "schemas" / "scan.completed.v1.json"
    promised = docs.event_schema(EVENTS["scan.completed"])
    promised["properties"]["operator"] = {"type": "string"}
    path.write_text(json.dumps(promised))
    with pytest.raises(
        ValueError, match=r"scan\.completed\.v1: operator: is gone \(raise its version to 2 and add from_v1\)"
    ):
        docs.write(tmp_path)
    assert json.loads(path.read_text()) == promised
    assert [one.name for one in tmp_path.iterdir()] == ["schemas"]


def test_an_event_that_nobody_knows_any_more_is_a_broken_promise(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "scan.forgotten.v1.json").write_text("{}")
    (line,) = docs.broken_promises(tmp_path)
    assert "scan.forgotten.v1: nothing of that name is known any more" in line


def test_writing_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    assert set(docs.write(tmp_path)) == set(docs.documents())
    assert docs.write(tmp_path) == []


# -- AsyncAPI ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return docs.asyncapi()


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_every_reference_in_the_asyncapi_document_leads_somewhere(api: dict[str, Any]) -> None:
    for reference in set(_references(api)):
        node: Any = api
        for token in reference.removeprefix("#/").split("/"):
            assert token in node, reference
            node = node[token]


def test_every_event_and_command_is_a_message_on_its_channel(api: dict[str, Any]) -> None:
    for name in EVENTS:
        kind = name.split(".")[0]
        assert name in api["channels"][f"evt.{kind}"]["messages"]
        assert name in api["channels"][f"live.{kind}"]["messages"]
    for name in COMMANDS:
        assert api["channels"][f"cmd.{name}"]["address"] == f"cmd.{name}"
        assert api["operations"][name]["action"] == "receive"
        assert api["operations"][name]["reply"]["channel"] == {"$ref": "#/channels/outcome"}


def test_every_channel_is_a_subject_of_a_stream(api: dict[str, Any]) -> None:
    patterns = [subject for it in streams.STREAMS.values() for subject in it["subjects"]] + ["live.evt.>"]

    def matches(pattern: str, subject: list[str]) -> bool:
        wanted = pattern.split(".")
        if wanted[-1] == ">":
            return len(subject) >= len(wanted) and all(
                w in ("*", s) for w, s in zip(wanted[:-1], subject, strict=False)
            )
        return len(wanted) == len(subject) and all(w in ("*", s) for w, s in zip(wanted, subject, strict=True))

    for name, channel in api["channels"].items():
        if channel["address"] is not None:
            subject = re.sub(r"\{\w+\}", "x", channel["address"]).split(".")
            assert any(matches(pattern, subject) for pattern in patterns), name


def test_the_headers_of_an_event_are_those_described() -> None:
    meta = Meta(causation="c", actor="ø", traceparent="00-0-0-00")
    headers, _ = envelope.seal("evt.scan.x", "scan.completed.v1", b"{}", Head(), meta, "c:0")
    described = docs.EVENT_HEADERS
    assert set(headers) == set(described["properties"])
    assert set(described["required"]) == set(headers) - {"traceparent"}
    for name, value in headers.items():
        rule = described["properties"][name]
        assert value == rule.get("const", value)
        assert re.search(rule.get("pattern", ""), value), name


def test_the_headers_of_a_command_are_checked_as_described() -> None:
    described = docs.COMMAND_HEADERS["properties"]
    for name, rule in {
        "ce-id": commands._ID,
        commands.REPLY_TO: commands._INBOX,
        "traceparent": commands._TRACE,
    }.items():
        assert described[name]["pattern"] == f"^{rule.pattern}$"


async def test_the_headers_that_our_own_client_sends_are_those_described() -> None:
    sent: dict[str, str] = {}

    class Nats:
        def new_inbox(self) -> str:
            return "_INBOX_publisher.1234"

    class Wire:
        nc = Nats()

        async def subscribe(self, *_: Any, **__: Any) -> None: ...

        async def publish(self, subject: str, body: bytes, headers: dict[str, str], **_: Any) -> Ack:
            sent.update(headers)
            return Ack(err_code=10054, error="too large")

    Nats.subscribe = Wire.subscribe  # type: ignore[attr-defined]
    with pytest.raises(Rejected):
        await commands.Sender(Wire(), "me").send("scan.pause", b"{}", "an-id", correlation="flow")  # type: ignore[arg-type]
    described = docs.COMMAND_HEADERS["properties"]
    assert set(sent) <= set(described)
    for name, value in sent.items():
        assert value == described[name].get("const", value)
        assert re.search(described[name].get("pattern", ""), value), name


@pytest.mark.slow
def test_the_official_parser_finds_nothing_wrong(tmp_path_factory: pytest.TempPathFactory) -> None:
    """@asyncapi/parser from the npm registry; skipped where there is no Node or no registry."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no Node.js here")
    folder = tmp_path_factory.mktemp("asyncapi")
    install = [
        npm,
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(folder),
        "@asyncapi/parser@3",
    ]
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=120, cwd=folder, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer")
    if done.returncode:
        pytest.skip(f"@asyncapi/parser cannot be installed: {done.stderr[-300:]}")
    script = folder / "validate.mjs"
    script.write_text(
        "import { Parser } from '@asyncapi/parser';\n"
        "import { readFileSync } from 'node:fs';\n"
        "const { diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));\n"
        "console.log(JSON.stringify(diagnostics.filter(d => d.severity <= 1)));\n"
    )
    said = subprocess.run(
        [node, str(script), str(docs.FOLDER / "asyncapi.json")], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(said.stdout) == []


# -- pages written by hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} points to {target}"


def _names(path: Path) -> set[str]:
    """The functions, classes, methods and module-level names of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                inner = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
                found |= {f"{node.name}.{one.name}" for one in inner}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                found |= {one.id for one in ast.walk(target) if isinstance(one, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_functions_that_are_pointed_at_exist(page: Path) -> None:
    """`bus/store.py` must be there, and in `bus/store.py: EventStore.append` the method too."""
    text = page.read_text(encoding="utf-8")
    for path, name in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|mjs|toml|json))(?:: ([\w.]+))?`", text):
        if path.split("/")[0] not in (
            "domain",
            "bus",
            "handlers",
            "projections",
            "adapters",
            "labledger",
            "tests",
            "examples",
        ):
            continue
        assert (ROOT / path).exists(), f"{page.relative_to(ROOT)} speaks of {path}"
        if name:
            assert name in _names(ROOT / path), f"{page.relative_to(ROOT)} speaks of {name} in {path}"


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_every_make_target_that_is_named_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"`([^`]*)`", (ROOT / page).read_text()))))
    assert named <= targets


def test_examples_in_the_contracts_are_what_the_models_say() -> None:
    """Each JSON block of docs/contracts.md that is marked with a schema fits it."""
    text = (docs.FOLDER / "contracts.md").read_text(encoding="utf-8")
    found = re.findall(r"<!-- (\S+) -->\n```json\n(.*?)```", text, flags=re.DOTALL)
    assert {name for name, _ in found} >= {"outcome.v1", "connection.v1", "scan.request", "scan.completed"}
    for name, block in found:
        model = docs.OTHERS.get(name) or COMMANDS.get(name) or EVENTS[name]
        model.model_validate_json(block)


def test_the_hash_in_the_contracts_is_the_hash_that_is_written() -> None:
    """The worked example: subject, headers, body and digest, as printed for those who verify in another language."""
    text = (docs.FOLDER / "contracts.md").read_text(encoding="utf-8")
    match = re.search(
        r"<!-- hash example -->\n```text\n(.*?)\n\n(\{.*?\})\n```\n.*?`([0-9a-f]{64})`", text, flags=re.DOTALL
    )
    assert match, "the worked example is gone"
    lines = match[1].split("\n")
    lines += [""] * (1 + len(envelope.HASHED) - len(lines))
    headers: dict[str, str] = dict(zip(envelope.HASHED, lines[1:], strict=True))
    assert envelope.digest(lines[0], headers, match[2].encode()) == match[3]
