"""Names of results: after the slide, unique, and the same later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.cohort.naming import LONGEST_BYTES, fold, name_slides
from wsi_magnet.cohort.paths import RESERVED
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.errors import CohortError


def slide(path: str, name: str | None = None) -> CohortSlide:
    """A slide that need not be there."""
    return replace(CohortSlide.of(Path(path), "list.csv, row 7"), real_path=path, name=name)


def names(*paths: str, known: dict[str, str] | None = None) -> list[str]:
    return name_slides([slide(path) for path in paths], known or {})


def test_a_result_is_named_after_its_slide() -> None:
    assert names("/s/a.svs", "/s/b.ome.tif") == ["a", "b.ome"]


def test_the_same_name_in_different_folders() -> None:
    assert names("/s/p1/a.svs", "/s/p2/A.svs", "/s/p2/b.svs") == ["p1-a", "p2-A", "b"]


def test_the_same_name_in_folders_of_the_same_name() -> None:
    first, second, third = names("/s/1/x/a.svs", "/s/2/x/a.svs", "/s/y/a.svs")
    assert third == "y-a"
    assert first != second
    assert all(name.startswith("a-") and len(name) == len("a-") + 8 for name in (first, second))


def test_names_that_are_there_stay(tmp_path: Path) -> None:
    assert names("/s/p1/a.svs", "/s/p2/a.svs", known={"/s/p2/a.svs": "a"}) == ["p1-a", "a"]
    assert names("/s/p1/a.svs", known={"/gone/a.svs": "A", "/gone/b.svs": "p1-a"})[0].startswith("a-")


def test_a_name_made_of_a_folder_is_not_that_of_another_slide() -> None:
    assert names("/s/p1-a.svs", "/s/p1/a.svs", "/s/p2/a.svs")[0] == "p1-a"
    assert len({fold(name) for name in names("/s/p1-a.svs", "/s/p1/a.svs", "/s/p2/a.svs")}) == 3


@pytest.mark.parametrize("stem", ["summary.csv", ".cohort", "log.jsonl", "x.zarr", "a\nb", "n" * 240, "é" * 120, ".."])
def test_names_that_no_folder_may_have(stem: str) -> None:
    [name] = names(f"/s/{stem}.svs")
    assert name not in RESERVED
    assert ".zarr" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= LONGEST_BYTES
    assert name.isprintable()


def test_a_list_names() -> None:
    assert name_slides([slide("/s/a.svs", "b"), slide("/s/b.svs")], {}) == ["b", "s-b"]
    assert name_slides([slide("/s/a.svs", "b")], {"/s/a.svs": "b"}) == ["b"]


@pytest.mark.parametrize("name", ["../x", "x/y", "summary.csv", "SUMMARY.CSV", ".x", "x.zarr", " x"])
def test_a_list_cannot_name_what_no_folder_may_be(name: str) -> None:
    with pytest.raises(CohortError, match=r"list.csv, row 7: name .* cannot be that of a result folder"):
        name_slides([slide("/s/a.svs", name)], {})


def test_a_list_cannot_take_names() -> None:
    with pytest.raises(CohortError, match=r"that of /s/b\.svs"):
        name_slides([slide("/s/b.svs", "x"), slide("/s/a.svs", "X")], {})
    with pytest.raises(CohortError, match=r"that of /old\.svs"):
        name_slides([slide("/s/a.svs", "x")], {"/old.svs": "x"})
    with pytest.raises(CohortError, match="named 'a'"):
        name_slides([slide("/s/a.svs", "x")], {"/s/a.svs": "a"})


PARTS = st.sampled_from(["a", "A", "b", "a-b", "ß", "ss", "é", "e\u0301", "x.zarr", ".cohort"])
PATHS = st.tuples(PARTS, PARTS, PARTS, st.sampled_from([".svs", ".tif"])).map(lambda p: f"/{p[0]}/{p[1]}/{p[2]}{p[3]}")


@given(paths=st.lists(PATHS, unique=True, max_size=12), data=st.data())
def test_names_are_different_do_not_depend_on_the_order_and_stay(paths: list[str], data: st.DataObject) -> None:
    given_names = dict(zip(paths, names(*paths), strict=True))
    assert len({fold(name) for name in given_names.values()}) == len(paths)
    shuffled = data.draw(st.permutations(paths))
    assert dict(zip(shuffled, names(*shuffled), strict=True)) == given_names
    later = data.draw(
        st.lists(PATHS, unique=True, max_size=6).map(lambda new: [*paths, *(p for p in new if p not in paths)])
    )
    again = dict(zip(later, names(*later, known=given_names), strict=True))
    assert {path: again[path] for path in paths} == given_names
    assert len({fold(name) for name in again.values()}) == len(later)
