"""JSON values as dataclasses: fields, bounds and words, and errors that name the key, the value and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from wsi_magnet.errors import ConfigError
from wsi_magnet.schema import Bounds, SchemaError, parse, stored_as, to_json


@dataclass(frozen=True, slots=True)
class Point:
    """A nested value that checks itself."""

    x: float
    y: float = 0.0

    def __post_init__(self) -> None:
        if self.x > 100:
            raise ValueError(f"x {self.x:g} is far away")
        if self.x < -100:
            raise ConfigError(f"--x {self.x:g} is far away")


@dataclass(frozen=True, slots=True)
class Made:
    """One field of each kind."""

    needed: int
    shown: bool = True
    limit: int | None = None
    pair: tuple[int, int] | None = None
    words: Mapping[str, int | float] | None = None
    kind: Literal["slow", "quick"] = "slow"
    refine: Literal["all", "auto"] | float = "all"
    share: Annotated[float, Bounds(0, 1)] = 0.5
    count: Annotated[int, Bounds(1)] | None = None
    minutes: Annotated[float, Bounds(0, 60, open_below=True)] = 1.0
    points: tuple[Point, ...] = ()
    anything: Any = None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"needed": 1}, Made(1)),
        ({"needed": 1, "shown": False}, Made(1, False)),
        ({"needed": 1, "limit": None}, Made(1)),
        ({"needed": 1, "limit": 4}, Made(1, limit=4)),
        ({"needed": 1, "pair": [2, 3]}, Made(1, pair=(2, 3))),
        ({"needed": 1, "words": {"a": 1, "b": 0.5}}, Made(1, words={"a": 1, "b": 0.5})),
        ({"needed": 1, "kind": "quick"}, Made(1, kind="quick")),
        ({"needed": 1, "refine": "auto"}, Made(1, refine="auto")),
        ({"needed": 1, "refine": 0.2}, Made(1, refine=0.2)),
        ({"needed": 1, "share": 1, "count": 1, "minutes": 60}, Made(1, share=1.0, count=1, minutes=60.0)),
        ({"needed": 1, "points": [{"x": 1}, {"x": 2, "y": 3}]}, Made(1, points=(Point(1.0), Point(2.0, 3.0)))),
        ({"needed": 1, "anything": [1, "a"]}, Made(1, anything=[1, "a"])),
    ],
)
def test_values_become_fields(values: dict[str, Any], expected: Made) -> None:
    assert parse(Made, values, "made") == expected
    assert parse(Made, json.loads(json.dumps(to_json(expected))), "made") == expected


KNOWN = "needed, shown, limit, pair, words, kind, refine, share, count, minutes, points, anything"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "made is [], not an object"),
        ({"needed": None}, "made.needed is None, not a whole number"),
        ({"needed": True}, "made.needed is True, not a whole number"),
        ({"needed": 1, "shown": 1}, "made.shown is 1, not true or false"),
        ({"needed": 1, "shown": "yes"}, "made.shown is 'yes', not true or false"),
        ({"needed": 1, "limit": "4"}, "made.limit is '4', not a whole number"),
        ({"needed": 1, "pair": [2]}, "made.pair has 1 values, not 2"),
        ({"needed": 1, "pair": 2}, "made.pair is 2, not a list"),
        ({"needed": 1, "words": {"a": True}}, "made.words.a is True, not a number"),
        ({"needed": 1, "words": {1: 2}}, "a key of made.words is 1, not text"),
        ({"needed": 1, "kind": "fast"}, "made.kind is 'fast', not one of slow, quick"),
        ({"needed": 1, "refine": "some"}, "made.refine is 'some', not one of all, auto or a number"),
        ({"needed": 1, "share": 1.5}, "made.share is 1.5, not between 0 and 1"),
        ({"needed": 1, "share": float("nan")}, "made.share is nan, not a number"),
        ({"needed": 1, "count": 0}, "made.count is 0, not at least 1"),
        ({"needed": 1, "minutes": 0}, "made.minutes is 0.0, not above 0 and at most 60"),
        ({"needed": 1, "points": [{"x": 1}, {"x": "1"}]}, "made.points[1].x is '1', not a number"),
        ({"needed": 1, "points": [{"x": 101}]}, "made.points[0]: x 101 is far away"),
        ({}, "made: missing field 'needed'"),
        ({"needed": 1, "b": 1, "a": 2}, f"made: unknown field 'a', 'b'; known are {KNOWN}"),
    ],
)
def test_what_is_not_allowed_is_named(values: Any, said: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parse(Made, values, "made")
    assert str(caught.value) == said


def test_keys_of_a_newer_program_can_be_ignored_at_every_depth() -> None:
    values = {"needed": 1, "new": 2, "points": [{"x": 1, "z": 3}]}
    assert parse(Made, values, "made", unknown="ignore") == Made(1, points=(Point(1.0),))


def test_a_file_without_a_name_names_its_keys_alone() -> None:
    for values, said in (
        ({"needed": "1"}, "needed is '1', not a whole number"),
        (3, "the content is 3, not an object"),
    ):
        with pytest.raises(SchemaError) as caught:
            parse(Made, values, "")
        assert str(caught.value) == said


def test_a_dataclass_may_raise_an_error_of_its_own() -> None:
    with pytest.raises(ConfigError, match="--x -101 is far away"):
        parse(Point, {"x": -101}, "point")


@dataclass(frozen=True, slots=True)
class Renamed:
    """Fields with keys of their own."""

    started: str = field(metadata=stored_as("begun"))
    params: Mapping[str, int] = field(metadata=stored_as("asked"), default_factory=dict)


def test_a_key_need_not_be_its_fields_name() -> None:
    value = Renamed("now", {"x": 1})
    assert to_json(value) == {"begun": "now", "asked": {"x": 1}}
    assert parse(Renamed, to_json(value), "") == value
    for values, said in (
        ({}, "missing field 'begun'"),
        ({"begun": 1}, "begun is 1, not text"),
        ({"begun": "now", "started": "then"}, "unknown field 'started'; known are begun, asked"),
    ):
        with pytest.raises(SchemaError) as caught:
            parse(Renamed, values, "")
        assert str(caught.value) == said


def test_a_whole_number_beyond_all_floats_is_no_number() -> None:
    with pytest.raises(SchemaError, match=r"made\.share is 9+, not a number"):
        parse(Made, {"needed": 1, "share": int("9" * 400)}, "made")
