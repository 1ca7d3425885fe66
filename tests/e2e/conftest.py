"""One lab for all tests of the command line: it is started as a person would."""

from collections.abc import Iterator

import pytest

from tests.e2e.cli import RunningLab


class Shared:
    """`labledger up --simulate` in a temporary folder, up for as long as tests follow one another that may want it."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._running: RunningLab | None = None

    def lab(self) -> RunningLab:
        if self._running is None:
            self._running = RunningLab(self._folders.mktemp("e2e") / "lab", "--simulate")
        return self._running

    def stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.stop()


_shared = pytest.StashKey[Shared]()


@pytest.fixture(scope="session")
def _shared_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    shared = request.config.stash[_shared] = Shared(tmp_path_factory)
    yield shared
    shared.stop()


@pytest.fixture
def lab(_shared_lab: Shared) -> RunningLab:
    return _shared_lab.lab()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A lab that stands idle beside the tests of other folders costs them a tenth of a core."""
    shared = item.config.stash.get(_shared, None)
    if shared is not None and (nextitem is None or nextitem.path.parent != item.path.parent):
        shared.stop()
