"""From JSON to dataclasses: what is of another type is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from wsi_magnet.errors import BundleError
from wsi_magnet.schema import parse


@dataclass(frozen=True, slots=True)
class Made:
    """One field of each kind."""

    needed: int
    shown: bool = True
    limit: int | None = None
    pair: tuple[int, int] | None = None
    words: Mapping[str, int | float] | None = None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"needed": 1}, Made(1)),
        ({"needed": 1, "shown": False}, Made(1, False)),
        ({"needed": 1, "limit": None}, Made(1)),
        ({"needed": 1, "limit": 4}, Made(1, limit=4)),
        ({"needed": 1, "pair": [2, 3]}, Made(1, pair=(2, 3))),
        ({"needed": 1, "words": {"a": 1, "b": 0.5}}, Made(1, words={"a": 1, "b": 0.5})),
    ],
)
def test_values_become_fields(values: dict[str, Any], expected: Made) -> None:
    assert parse(Made, values, "made") == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"needed": None}, "made.needed is None, not a whole number"),
        ({"needed": True}, "made.needed is True, not a whole number"),
        ({"needed": 1, "shown": 1}, "made.shown is 1, not true or false"),
        ({"needed": 1, "shown": "yes"}, "made.shown is 'yes', not true or false"),
        ({"needed": 1, "limit": "4"}, "made.limit is '4', not a whole number"),
        ({"needed": 1, "pair": [2]}, "made.pair has 1 values, not 2"),
        ({"needed": 1, "words": {"a": True}}, "made.words.a is True, not a number"),
        ({}, "made: missing field 'needed'"),
        ({"needed": 1, "b": 1, "a": 2}, "made: unknown field 'a', 'b'"),
    ],
)
def test_what_is_of_another_type_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(Made, values, "made")
    assert str(caught.value) == said
