"""Keys of ours in the alphabet of NATS' key-value store, one to one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.keyvalue import read, spelled

#: What the server's documentation allows.
ALPHABET = re.compile(r"^[-/_=.a-zA-Z0-9]+$")


@pytest.mark.parametrize(
    ("ours", "there"),
    [
        ("temperature:daily:latest", "temperature.daily.latest"),
        ("a.b", "a=2Eb"),
        ("a=b", "a=3Db"),
        ("a b", "a=20b"),
        ("ä", "=C3=A4"),
        (":a", "=3Aa"),
        ("a:", "a=3A"),
        ("a::b", "a=3A=3Ab"),
        (":", "=3A"),
        ("a/b_c-d", "a/b_c-d"),
        ("*", "=2A"),
        (">", "=3E"),
    ],
)
def test_the_table(ours: str, there: str) -> None:
    assert spelled(ours) == there and read(there) == ours


@given(st.text(min_size=1, max_size=40) | st.text(":.=a", min_size=1, max_size=8))
def test_every_key_has_one_spelling_that_nats_takes(key: str) -> None:
    there = spelled(key)
    assert ALPHABET.match(there) and read(there) == key
    assert not there.startswith(".") and not there.endswith(".") and ".." not in there
