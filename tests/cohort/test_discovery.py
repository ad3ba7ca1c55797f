"""Sources that a user names, and the slides found: tiny folders of empty files."""

from __future__ import annotations

import glob
import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_magnet.cohort.discovery import expand_pattern, find_slides
from wsi_magnet.errors import CohortError, ManifestError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder: Path, *sources: str, out: str = "out") -> list[str]:
    """The slides found, relative to the folder."""
    slides = find_slides([str(folder / source) for source in sources], folder / out).slides
    return [os.path.relpath(slide.path, folder) for slide in slides]


def test_a_folder_gives_the_slides_below_it_by_their_path(tmp_path: Path) -> None:
    touch(
        tmp_path, "s/b.svs", "s/a.tif", "s/deep/er/c.NDPI", "s/picture.png", "s/photo.jpg", "s/notes.txt", "s/._b.svs"
    )
    touch(tmp_path, "s/.cache/d.svs", "s/mask.ome.zarr/e.tif")
    assert found(tmp_path, "s") == ["s/a.tif", "s/b.svs", "s/deep/er/c.NDPI"]


def test_pictures_are_slides_if_named_or_matched(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.png", "s/b.jpg", "s/c.txt", "s/d.svs")
    assert found(tmp_path, "s/a.png", "s/c.txt") == ["s/a.png", "s/c.txt"], "what is named is meant"
    assert found(tmp_path, "s/*") == ["s/a.png", "s/b.jpg", "s/d.svs"]
    assert found(tmp_path, "s/?.jpg", "s") == ["s/b.jpg", "s/d.svs"]


def test_pictures_in_a_folder_are_left_out_with_a_note(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.svs", "s/b.png", "s/more/c.jpg", "s/h/d.vms", "s/h/part.jpg", "s/m.mrxs", "s/m/part.png")
    source = str(tmp_path / "s")
    result = find_slides([source], tmp_path / "out")
    assert [Path(slide.path).suffix for slide in result.slides] == [".svs", ".vms", ".mrxs"]
    assert [note for note in result.notes if "left out" in note] == [
        f"2 PNG or JPEG images in {source} left out, such as b.png: to segment such images, name them or a pattern "
        f'("{source}/*.png")'
    ]


def test_results_and_the_output_are_left_out(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "s/a.svs",
        "s/old/x/run.json",
        "s/old/x/x.tif",
        "s/old/y.svs",
        "s/cohort/.cohort/x.json",
        "s/cohort/m.tif",
    )
    touch(tmp_path, "s/out/b.tif", "s/study/run.json", "s/study/c.svs")
    (tmp_path / "s/old/x/mask.ome.zarr").mkdir()
    assert found(tmp_path, "s", out="s/out") == ["s/a.svs", "s/old/y.svs", "s/study/c.svs"]
    assert found(tmp_path, "s/**", out="s/out") == ["s/a.svs", "s/old/y.svs", "s/study/c.svs"]
    assert found(tmp_path, "s/*", out="s/out") == ["s/a.svs", "s/old/y.svs", "s/study/c.svs"]


@pytest.mark.parametrize("source", ["s", "s/*.svs", "s/**/*.svs"])
def test_results_beside_their_slides(tmp_path: Path, source: str) -> None:
    touch(tmp_path, "s/a.svs", "s/a/run.json", "s/a/export.tif", "s/.cohort/a.json", "s/deep/b.svs")
    (tmp_path / "s/a/mask.ome.zarr").mkdir()
    assert found(tmp_path, source, out="s")[0] == "s/a.svs"
    assert "s/a/export.tif" not in found(tmp_path, source, out="s")


def test_deep_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "s/a/1.svs", "s/a/b/2.svs", "s/3.svs", "s/a/2.tif")
    assert found(tmp_path, "s/**/*.svs") == ["s/3.svs", "s/a/1.svs", "s/a/b/2.svs"]
    assert found(tmp_path, "s/a*") == ["s/a/1.svs", "s/a/2.tif", "s/a/b/2.svs"], "as the shell would give the folder"


def test_names_with_the_letters_of_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "s/a[1].svs", "s/a1.svs", "s/what?.svs", "s/[x]/b.svs")
    assert found(tmp_path, "s/a[1].svs") == ["s/a[1].svs"]
    assert found(tmp_path, "s/what?.svs") == ["s/what?.svs"]
    assert found(tmp_path, "s/[x]") == ["s/[x]/b.svs"]


def test_a_slide_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.svs", "s/b.svs")
    (tmp_path / "s/link.svs").symlink_to("a.svs")
    (tmp_path / "again").symlink_to("s")
    assert found(tmp_path, "s/b.svs", "s", "again", "s/../s/a.svs") == ["s/b.svs", "s/a.svs"]


def test_circles_end(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.svs", "s/b/c.svs")
    (tmp_path / "s/b/up").symlink_to("..")
    (tmp_path / "s/self").symlink_to("self")
    assert found(tmp_path, "s") == ["s/a.svs", "s/b/c.svs"]


def test_bad_slides_are_slides(tmp_path: Path) -> None:
    touch(tmp_path, "s/full.svs/inner.tif")
    (tmp_path / "s/folder.svs").mkdir()
    (tmp_path / "s/dangling.svs").symlink_to("nowhere.svs")
    assert found(tmp_path, "s") == ["s/dangling.svs", "s/folder.svs", "s/full.svs/inner.tif"]
    assert found(tmp_path, "s/missing.svs", "s/folder.svs") == ["s/missing.svs", "s/folder.svs"]


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="slidse: no such slide, folder or list"):
        found(tmp_path, "slidse")
    with pytest.raises(CohortError, match="slides are read from files"):
        find_slides(["s3://bucket/a.svs"], tmp_path)
    (tmp_path / "empty").mkdir()
    nothing = find_slides([str(tmp_path / "empty"), str(tmp_path / "*.svs")], tmp_path / "out")
    assert nothing.slides == ()
    assert [note.replace(str(tmp_path), "") for note in nothing.notes] == [
        "no slides in /empty",
        "/*.svs matches no slide",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere")
def test_a_folder_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.svs", "s/closed/b.svs")
    (tmp_path / "s/closed").chmod(0)
    result = find_slides([str(tmp_path / "s")], tmp_path / "out")
    (tmp_path / "s/closed").chmod(0o700)
    assert len(result.slides) == 1
    assert "closed cannot be read" in result.notes[0]


def test_parts_of_slides_are_left_out(tmp_path: Path) -> None:
    touch(
        tmp_path, "s/m.mrxs", "s/m/Data0001.dat", "s/m/strange.tif", "s/v.vms", "s/v.jpg", "s/v_map2.jpg", "s/own.jpg"
    )
    (tmp_path / "s/v.vms").write_text("[Virtual Microscope Specimen]\nImageFile=v.jpg\nMapFile=v_map2.jpg\n")
    assert found(tmp_path, "s/*") == ["s/m.mrxs", "s/own.jpg", "s/v.vms"]
    assert found(tmp_path, "s/m.mrxs", "s/m", "s/v.jpg") == ["s/m.mrxs", "s/v.jpg"]
    assert find_slides([str(tmp_path / "s/m.mrxs"), str(tmp_path / "s/m")], tmp_path).notes == ()


def dicom(path: Path, series: str, *, implicit: bool = False, refers_to: str = "1.9") -> None:
    """The head of a DICOM file that also refers to another series, as derived ones do."""

    def element(group: int, number: int, value: str) -> bytes:
        data = value.encode() + b"\0" * (len(value) % 2)
        length = struct.pack("<I", len(data)) if implicit else b"UI" + struct.pack("<H", len(data))
        return struct.pack("<HH", group, number) + length + data

    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [element(0x0020, 0x000E, refers_to), element(0x0020, 0x000D, "1.2.3"), element(0x0020, 0x000E, series)]
    path.write_bytes(bytes(128) + b"DICM" + b"".join(parts) + bytes(100) + element(0x0020, 0x000E, refers_to))


@pytest.mark.parametrize("implicit", [False, True])
def test_the_files_of_a_dicom_series_are_one_slide(tmp_path: Path, implicit: bool) -> None:
    for name in "abc":
        dicom(tmp_path / f"s/case1/{name}.dcm", "1.2.3.4", implicit=implicit)
        dicom(tmp_path / f"s/both/{name}.dcm", "1.2.3.5" if name == "b" else "1.2.3.61", implicit=implicit)
    assert found(tmp_path, "s") == ["s/both/a.dcm", "s/both/b.dcm", "s/case1/a.dcm"]
    assert [slide.label for slide in find_slides([str(tmp_path / "s")], tmp_path).slides] == ["a", "b", "case1"]


def test_a_list(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.svs", "s/b.svs", "lists/mine.safetensors", "lists/drawn.geojson")
    head, first = "\ufeffSlide,mpp,bundle,name,patient,roi", "../s/a.svs,0.25,,first,P1,drawn.geojson"
    text = f"{head}\r\n{first}\r\n\r\nmissing.svs,,mine.safetensors,,,\r\n"
    (tmp_path / "lists/cohort.csv").write_text(text)
    slides = find_slides([str(tmp_path / "lists/cohort.csv"), str(tmp_path / "s")], tmp_path / "out").slides
    assert [(os.path.relpath(slide.path, tmp_path), *slide.own_options) for slide in slides] == [
        ("s/a.svs", 0.25, None, "first", str(tmp_path / "lists/drawn.geojson")),
        ("lists/missing.svs", None, str(tmp_path / "lists/mine.safetensors"), None, None),
        ("s/b.svs", None, None, None, None),
    ]


def test_a_list_takes_precedence_over_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.svs", "s/b.svs")
    (tmp_path / "list.csv").write_text("slide,mpp\ns/b.svs,0.5\n")
    slides = find_slides([str(tmp_path / "s"), str(tmp_path / "list.csv")], tmp_path / "out").slides
    assert [(Path(slide.path).name, slide.mpp) for slide in slides] == [("a.svs", None), ("b.svs", 0.5)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("mpp\n1\n", "no column 'slide'"),
        ("slide\n", "has a header but no rows"),
        ("slide,mpp\na.svs,0.5\na.svs,fine\n", "row 3: mpp 'fine' is not a number"),
        ("slide,mpp\na.svs,1000\n", "row 2: mpp 1000 is no resolution"),
        ("slide,mpp\n,1\n", "row 2: slide is empty"),
        ("slide,roi\na.svs,b.geojson\n", "b.geojson does not exist"),
        ("slide,bundle\na.svs,b.safetensors\n", "row 2: bundle"),
        ("slide,mpp\na.svs,0.5\na.svs,0.25\n", "row 3: "),
        ("slide,bundel\na.svs,b\n", "is 'bundle' meant"),
        ("slide,mpp\na.svs,0.5,1\n", "row 2: 3 cells under 2 columns"),
        ("slide\na\0.svs\n", "row 2"),
    ],
)
def test_lists_that_cannot_be_used_are_named_with_the_row(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "cohort.csv").write_text(text)
    with pytest.raises(ManifestError) as error:
        found(tmp_path, "cohort.csv")
    assert words in str(error.value)
    assert "cohort.csv" in str(error.value)


NAMES = st.sampled_from(["a.svs", "b.tif", "c.png", "d.txt", "run.json", ".h.svs", "e.mrxs"])
FOLDERS = st.lists(st.sampled_from(["x", "y", "e", ".z", "q.zarr"]), max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.sets(st.tuples(FOLDERS.map(tuple), NAMES), max_size=12), data=st.data())
def test_a_folder_and_its_pattern_find_the_same(
    tmp_path_factory: pytest.TempPathFactory, paths: set[tuple[tuple[str, ...], str]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    touch(folder, *("/".join([*where, name]) for where, name in paths))
    whole = found(folder, ".")
    assert len(set(whole)) == len(whole)
    assert not [path for path in whole if "/." in f"/{path}" or ".zarr" in path]
    order = data.draw(st.permutations(whole))
    assert found(folder, *order, ".") == order, "in the order in which they are named"
    matched = [path for path in found(folder, "**") if not path.endswith(".png")]
    assert set(whole) <= set(matched)


FILES = ("a.svs", "b.tif", "x/a.svs", "x/y/c.svs", "x/y/[1].svs", "x/.hidden/d.svs", ".e.svs", "z/a.svs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path, *FILES)
    (tmp_path / "link.svs").symlink_to("a.svs")
    (tmp_path / "dangling.svs").symlink_to("nothing")
    (tmp_path / "other").symlink_to("x")
    return tmp_path


PATTERNS = ("*.svs", "**/*.svs", "x/**/c.svs", "*/*.svs", "**/[[]1].svs", "x/?/*", "?.*", ".*.svs", "**/y", "no/*.svs")


@pytest.mark.parametrize("pattern", [*PATTERNS, "a.svs/*", "**/**/*.tif", "[ab].*", "x/y/../*.svs", "**", "**/x/*/c.*"])
def test_a_pattern_matches_as_in_the_standard_library_but_each_folder_once(folder: Path, pattern: str) -> None:
    expected = {Path(path) for path in glob.glob(str(folder / pattern), recursive=True)}
    found = expand_pattern(folder / pattern)
    assert found <= expected
    assert {path.resolve() for path in found} == {path.resolve() for path in expected}
    assert "**" in pattern or found == expected
    assert expected or pattern in ("no/*.svs", "a.svs/*")


def test_a_folder_that_is_linked_twice_is_searched_once(folder: Path) -> None:
    found = expand_pattern(folder / "**" / "*.svs")
    assert [path for path in found if path.name == "c.svs"] == [folder / "other" / "y" / "c.svs"]
    assert len({path.resolve() for path in found}) == len(found) - 1, "link.svs is a file of its own"


def test_loops_in_a_pattern_end(folder: Path) -> None:
    for number in range(4):
        (folder / "x" / f"back{number}").symlink_to("..")
        (folder / f"self{number}").symlink_to(".")
    found = expand_pattern(folder / "**" / "*.svs")
    assert {path.name for path in found} >= {"a.svs", "c.svs", "[1].svs", "link.svs"}
    assert len({path.resolve() for path in found}) == 6


def test_a_link_in_a_result_hides_no_slides(tmp_path: Path) -> None:
    """The walk meets the result first, and the slides behind its link must still be found by their own path."""
    touch(tmp_path, "s/a_result/run.json", "s/slides/b.svs")
    (tmp_path / "s/a_result/mask.ome.zarr").mkdir()
    (tmp_path / "s/a_result/link").symlink_to("../slides")
    assert found(tmp_path, "s") == found(tmp_path, "s/**/*.svs") == found(tmp_path, "s/**") == ["s/slides/b.svs"]


def test_a_folder_named_like_a_slide_that_is_linked_twice(tmp_path: Path) -> None:
    touch(tmp_path, "s/full.svs/inner.tif")
    (tmp_path / "s/again.svs").symlink_to("full.svs")
    assert found(tmp_path, "s") == ["s/again.svs/inner.tif"]
