"""Which artifacts go where: what is given must match, what the scan says goes first."""

import pytest
from pydantic import ValidationError

from domain.artifact import Role
from domain.errors import Refused
from domain.routing import Rule, must_take_files, routes, words
from domain.scan import Scan
from domain.target import TargetOpened

SCAN = Scan(queue_id="night", template="grid", sample_id="W12-3", title="grid 100 x 100")
PLOTS = Rule(artifacts=("plot",), targets=("ipfs",))
ALL = Rule(targets=("archive", "cold"))


def targets(scan: Scan, role: Role, *rules: Rule) -> list[str]:
    return [target for rule in routes(scan, role, rules) for target in rule.targets]


def test_each_artifact_goes_where_the_rules_for_it_say() -> None:
    assert targets(SCAN, "plot", PLOTS, ALL) == ["ipfs", "archive", "cold"]
    assert targets(SCAN, "raw_data", PLOTS, ALL) == ["archive", "cold"]
    assert targets(SCAN, "file", PLOTS, ALL) == []
    assert targets(SCAN, "plot") == []


@pytest.mark.parametrize(
    "asked, matches",
    [
        ({"queue": "night"}, True),
        ({"queue": "day"}, False),
        ({"template": "gr*"}, True),
        ({"sample": "W12-?"}, True),
        ({"sample": "W12"}, False),
        ({"title": "grid*", "queue": "night"}, True),
        ({"title": "grid*", "queue": "day"}, False),
        ({"title": "GRID*"}, False),
    ],
)
def test_all_that_a_rule_asks_for_must_match(asked: dict[str, str], matches: bool) -> None:
    rule = Rule.model_validate({"targets": ["archive"], **asked})
    assert rule.matches(SCAN) is matches


def test_what_a_scan_does_not_have_matches_no_pattern() -> None:
    assert not Rule(targets=("a",), sample="*").matches(Scan())
    assert not Rule(targets=("a",), template="*").matches(Scan())


def test_what_the_scan_says_goes_before_the_rules() -> None:
    by_itself = Scan(deliver=("mine", "mine"))
    assert targets(by_itself, "raw_data", ALL) == ["mine"]
    assert targets(Scan(deliver=()), "plot", PLOTS, ALL) == []


def test_a_pointer_points_to_one_place() -> None:
    rule = Rule(artifacts=("plot",), targets=("ipfs",), pointer="newest", key="{sample_id}:latest")
    assert rule.all_targets == ("ipfs", "newest")
    with pytest.raises(ValidationError, match="a rule of its own"):
        Rule(targets=("ipfs", "other"), pointer="newest")
    with pytest.raises(ValidationError, match="key is that of a pointer"):
        Rule(targets=("archive",), key="x")


def test_what_the_scan_is_can_be_in_names_and_wins_over_its_metadata() -> None:
    told = words(Scan(sample_id="W12-3", metadata={"run": 7, "role": "mine"}), "plot")
    assert told["run"] == 7 and told["role"] == "plot" and told["sample_id"] == "W12-3" and "title" not in told


@pytest.mark.parametrize("system, word", [("kv", "pointer"), ("maskhub", "runs")])
def test_systems_that_take_no_files_are_refused_with_what_to_do_instead(system: str, word: str) -> None:
    opened = TargetOpened(target_id="t", adapter="a.b", system=system, description={}, concurrency=1)
    with pytest.raises(Refused, match=word):
        must_take_files("t", opened)
    must_take_files("t", opened.model_copy(update={"system": "s3"}))
