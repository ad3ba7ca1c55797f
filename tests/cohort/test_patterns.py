"""Patterns mean what the standard library says they mean, but for circles."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest

from wsi_magnet.cohort.patterns import expand

FILES = ("a.svs", "b.tif", "x/a.svs", "x/y/c.svs", "x/y/[1].svs", "x/.hidden/d.svs", ".e.svs", "z/a.svs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.svs").symlink_to("a.svs")
    (tmp_path / "dangling.svs").symlink_to("nothing")
    (tmp_path / "other").symlink_to("x")
    return tmp_path


PATTERNS = ("*.svs", "**/*.svs", "x/**/c.svs", "*/*.svs", "**/[[]1].svs", "x/?/*", "?.*", ".*.svs", "**/y", "no/*.svs")


@pytest.mark.parametrize("pattern", [*PATTERNS, "a.svs/*", "**/**/*.tif", "[ab].*", "x/y/../*.svs", "**"])
def test_as_the_standard_library(folder: Path, pattern: str) -> None:
    expected = {Path(path) for path in glob.glob(str(folder / pattern), recursive=True)}
    assert expand(folder / pattern) == expected
    assert expected or pattern in ("no/*.svs", "a.svs/*")


def test_circles_end(folder: Path) -> None:
    for number in range(4):
        (folder / "x" / f"back{number}").symlink_to("..")
        (folder / f"self{number}").symlink_to(".")
    found = expand(folder / "**" / "*.svs")
    assert {path.name for path in found} >= {"a.svs", "c.svs", "[1].svs", "link.svs"}
    assert len({path.resolve() for path in found}) == 6
