"""Options of the tests that break things, and a lab for each."""

import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.lab import Lab, seed


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("labledger")
    group.addoption("--kills", type=int, default=None, help="how many processes each kill test kills (default 3)")
    group.addoption("--slow", action="store_true", help="every combination, and outages of 30 s instead of 8 s")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--kills", default=None) or os.environ.get("LABLEDGER_FAULTS_KILLS")
    return int(given or 3)


@pytest.fixture
def outage_s(request: pytest.FixtureRequest) -> float:
    return 30.0 if _slow(request.config) else 8.0


@pytest.fixture
def chance() -> Iterator[random.Random]:
    """The random instants of a test. Seen again with LABLEDGER_FAULTS_SEED."""
    number = seed()
    print(f"\nLABLEDGER_FAULTS_SEED={number}")
    yield random.Random(number)


@pytest.fixture
def make_lab(tmp_path: Path) -> Callable[..., Lab]:
    count = itertools.count(1)

    def make(**options: Any) -> Lab:
        folder = tmp_path / f"lab{next(count)}"
        folder.mkdir()
        return Lab(folder, **options)

    return make


def _slow(config: pytest.Config) -> bool:
    return bool(config.getoption("--slow", default=False) or os.environ.get("LABLEDGER_FAULTS_SLOW"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)
            if item.get_closest_marker("slow") and not _slow(config):
                item.add_marker(pytest.mark.skip(reason="with --slow (or LABLEDGER_FAULTS_SLOW=1)"))
