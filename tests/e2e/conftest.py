"""One lab for all tests of the command line: it is started as a person would."""

from collections.abc import Iterator

import pytest

from tests.e2e.cli import RunningLab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """`labledger up --simulate` in a temporary folder, up for all tests."""
    running = RunningLab(tmp_path_factory.mktemp("e2e") / "lab", "--simulate")
    yield running
    running.stop()
