"""A pointer: the value of a key that says where the newest of something is. It never moves backwards.

Its key is made from a template and the words of what it is about: `{sensor_type}:{interval}:latest`.
"""

import re
from collections.abc import Mapping
from typing import Any

from domain.errors import OutOfLimits, Refused

TEMPLATE = "{sensor_type}:{interval}:latest"
#: What a key-value store takes at most (Cloudflare's limit), in UTF-8.
LONGEST_KEY = 512


def key_of(template: str, words: Mapping[str, Any]) -> str:
    """The key for these words. Raises `Refused` for a word that is missing, or that would be read as more than itself."""

    def word(found: re.Match[str]) -> str:
        name = found[1]
        value = words.get(name)
        if not isinstance(value, str | int | float) or isinstance(value, bool) or str(value) == "":
            raise Refused(
                f"the key {template!r} needs {name!r}, which is not given; there are {', '.join(words) or 'none'}"
            )
        if ":" in str(value):
            # `a:b` and `c` would make the same key as `a` and `b:c`.
            raise Refused(f"{name} is {value!r}; a part of the key may have no colon")
        return str(value)

    return checked_key(re.sub(r"\{(\w+)\}", word, template))


def checked_key(key: str) -> str:
    """Raises `Refused` for what no key-value store takes."""
    if not key or key in (".", "..") or not key.isprintable():
        raise Refused(f"{key!r} is no key: give letters, and neither `.` nor `..`")
    if len(key.encode()) > LONGEST_KEY:
        raise OutOfLimits(f"the key has {len(key.encode())} bytes, at most {LONGEST_KEY} are possible")
    return key
