"""Pictures drawn here, with known data."""

from collections.abc import Callable

import pytest

from tests.plots import draw

Drawing = Callable[..., bytes]


@pytest.fixture
def drawing() -> Drawing:
    return draw
