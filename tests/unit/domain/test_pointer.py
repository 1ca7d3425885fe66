"""Keys of pointers."""

import pytest

from domain.errors import Refused
from domain.pointer import TEMPLATE, key_of


def test_a_key_is_made_from_its_words() -> None:
    assert key_of(TEMPLATE, {"sensor_type": "temperature", "interval": "daily"}) == "temperature:daily:latest"
    assert key_of("{a}/{b}", {"a": 1, "b": "x"}) == "1/x"
    assert key_of("fixed", {}) == "fixed"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (TEMPLATE, {"sensor_type": "temperature"}),
        (TEMPLATE, {"sensor_type": "temperature", "interval": ""}),
        (TEMPLATE, {"sensor_type": "a:b", "interval": "c"}),
        (TEMPLATE, {"sensor_type": ["a"], "interval": "c"}),
        (TEMPLATE, {"sensor_type": True, "interval": "c"}),
        ("{a}", {"a": "."}),
        ("{a}", {"a": "x\ny"}),
        ("{a}", {"a": "ä" * 300}),
        ("", {}),
    ],
)
def test_what_makes_no_key_is_refused(template: str, words: dict[str, object]) -> None:
    with pytest.raises(Refused):
        key_of(template, words)


def test_words_are_not_read_as_templates() -> None:
    assert key_of("{a}:x", {"a": "{b}", "b": "c"}) == "{b}:x"
