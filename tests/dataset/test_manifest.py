"""Manifests: read as a whole or refused, with the row named; written so that they are read back the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.dataset import leaks
from wsi_magnet.dataset.manifest import Manifest, read_manifest, write_manifest
from wsi_magnet.dataset.sample import SPLITS, Sample
from wsi_magnet.errors import ManifestError

HEADER = "image,annotation,mpp,group,split,labels,consensus"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images a to f and their masks, none like another."""
    for name in "abcdef":
        (tmp_path / f"{name}.png").write_text(f"image {name}")
        (tmp_path / f"{name}_mask.png").write_text("mask")
    return tmp_path


def read(folder: Path, *lines: str) -> Manifest:
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_manifest(path)


def refusal(folder: Path, *lines: str) -> str:
    with pytest.raises(ManifestError) as caught:
        read(folder, *lines)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder / "manifest.csv") in text
    return text.replace(f"{folder}/", "")


def test_a_row_is_read_in_full(folder: Path) -> None:
    row = "a.png,a_mask.png; b_mask.png,0.25,P1,train,0=ignore; 1=2|3,majority"
    assert read(folder, HEADER, row).samples == (
        Sample(
            row=2,
            image=folder / "a.png",
            annotations=(folder / "a_mask.png", folder / "b_mask.png"),
            mpp=0.25,
            group="P1",
            split="train",
            labels="0=ignore; 1=2|3",
            consensus="majority",
        ),
    )


def test_a_site_is_read_and_written_back_where_there_is_one(folder: Path) -> None:
    with_site = read(
        folder, HEADER + ",site", "a.png,a_mask.png,,P1,train,,first,north", "b.png,b_mask.png,,P2,test,,,"
    )
    assert [sample.site for sample in with_site.samples] == ["north", ""]
    write_manifest(folder / "again.csv", with_site.samples)
    assert read_manifest(folder / "again.csv").samples == with_site.samples
    write_manifest(folder / "plain.csv", [replace(sample, site="") for sample in with_site.samples])
    assert (folder / "plain.csv").read_text().splitlines()[0] == HEADER


def test_what_may_be_missing_has_its_default(folder: Path) -> None:
    sample = read(folder, "Slide,MASK,Group", "a.png,a_mask.png,P1").samples[0]
    assert (sample.mpp, sample.labels, sample.consensus, sample.split) == (None, "", "first", "train")


def test_semicolons_and_the_mark_of_utf8_are_understood(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_bytes('image;annotation;mpp;group\r\na.png;"a_mask.png;b_mask.png";0,25;Käthe\r\n'.encode("utf-8-sig"))
    sample = read_manifest(path).samples[0]
    assert (sample.mpp, sample.group, len(sample.annotations)) == (0.25, "Käthe", 2)


def test_tabs_are_understood(folder: Path) -> None:
    sample = read(folder, "image\tannotation\tmpp\tgroup", "a.png\ta_mask.png\t\tP1").samples[0]
    assert (sample.mpp, sample.group) == (None, "P1")


@pytest.mark.parametrize("said", ["sep=;", "SEP=;"])
def test_the_line_in_which_spreadsheets_name_the_separator_is_passed_over(folder: Path, said: str) -> None:
    sample = read(folder, said, "image;annotation;group", 'a.png;"a_mask.png;b_mask.png";P1').samples[0]
    assert (sample.row, len(sample.annotations)) == (3, 2)


def test_a_quote_that_is_never_closed_is_refused(folder: Path) -> None:
    assert "not CSV" in refusal(folder, "image,annotation,group", 'a.png,"a_mask.png,P1', "b.png,b_mask.png,P2")


def test_the_users_own_columns_are_passed_over(folder: Path) -> None:
    assert len(read(folder, "image,annotation,group,isup", "a.png,a_mask.png,P1,3").samples) == 1


def test_blank_lines_count_as_lines(folder: Path) -> None:
    assert read(folder, HEADER, "", ",,,", "a.png,a_mask.png,,P1,,,").samples[0].row == 4


def test_short_names_of_splits_are_known(folder: Path) -> None:
    rows = [
        f"{n}.png,{n}_mask.png,{n},{s}"
        for n, s in zip("abcde", ["Train", "VAL", "valid", "validation", "test"], strict=True)
    ]
    samples = read(folder, "image,annotation,group,split", *rows).samples
    assert [s.split for s in samples] == ["train", "validation", "validation", "validation", "test"]


def test_without_splits_whole_groups_are_split(folder: Path) -> None:
    rows = [f"{n}.png,{n}_mask.png,{g}" for n, g in zip("abcdef", "AAABCC", strict=True)]
    manifest = read(folder, "image,annotation,group", *rows)
    assert sorted(len(manifest.of(split)) for split in SPLITS) == [1, 2, 3]
    assert len({(s.group, s.split) for s in manifest.samples}) == 3


def test_paths_from_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert read(folder, "image,annotation,group", "~/a.png,~/a_mask.png,P").samples[0].image == folder / "a.png"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (",a_mask.png,,P1,train,,", "row 2: image is empty"),
        ("a.png,,,P1,train,,", "row 2: annotation is empty"),
        ("a.png,a_mask.png;;b_mask.png,,P1,train,,", "row 2: annotation is empty between two ';'"),
        ("a.png,a_mask.png,,,train,,", "row 2: group is empty"),
        ("x.png,a_mask.png,,P1,train,,", "row 2: image x.png: no such file"),
        ("a.png,x.png,,P1,train,,", "row 2: annotation x.png: no such file"),
        ("a.png,a_mask.png,0,P1,train,,", "row 2: mpp '0' is not a positive number"),
        ("a.png,a_mask.png,nan,P1,train,,", "row 2: mpp 'nan' is not"),
        ("a.png,a_mask.png,-1,P1,train,,", "row 2: mpp '-1' is not"),
        ("a.png,a_mask.png,inf,P1,train,,", "row 2: mpp 'inf' is not"),
        ("a.png,a_mask.png,forty,P1,train,,", "row 2: mpp 'forty' is not"),
        ("a.png,a_mask.png,1000,P1,train,,", "row 2: mpp '1000' is out of range"),
        ("a.png,a_mask.png,,P1,tset,,", "row 2: split 'tset' is not train, validation or test"),
        ("a.png,a_mask.png,,P1,train,,mean", "row 2: consensus 'mean' is not first, majority or soft"),
        ("a.png,a_mask.png,,P1,train,,,,", "row 2: 9 cells under 7 columns"),
        ("a.png,a_mask.png,,P1,train,1=1 // 1=2,", "row 2: labels has 2 codings (// between them) for 1 files"),
        (f"{'x' * 5000}.png,a_mask.png,,P1,train,,", "is not a file name"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(folder: Path, row: str, why: str) -> None:
    assert why in refusal(folder, HEADER, row)


def test_a_folder_is_no_image(folder: Path) -> None:
    (folder / "slide").mkdir()
    assert "image slide is a folder" in refusal(folder, HEADER, "slide,a_mask.png,,P1,,,")


def test_further_rows_with_problems_are_counted(folder: Path) -> None:
    rows = ["a.png,a_mask.png,x,P1,,,", "b.png,b_mask.png,,P1,,,", "c.png,c_mask.png,x,,,,", "x,d_mask.png,,P,,,"]
    text = refusal(folder, HEADER, *rows)
    assert "row 2: mpp" in text
    assert text.endswith("(and 2 more rows with problems)")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([""], "is empty"),
        ([HEADER], "has a header but no rows"),
        (["image,annotation", "a.png,a_mask.png"], "has no column 'group'"),
        (["image,mask,annotation,group", "a.png,a_mask.png,a_mask.png,P"], "has 2 columns for 'annotation'"),
        (["image,annotation,group,label", "a.png,a_mask.png,P,"], "has a column 'label'; is 'labels' meant?"),
        (["image,annotation,group,spilt", "a.png,a_mask.png,P,"], "has a column 'spilt'; is 'split' meant?"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(folder: Path, lines: list[str], why: str) -> None:
    assert why in refusal(folder, *lines)


def test_no_file_and_no_utf8_are_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.csv: No such file"):
        read_manifest(folder / "none.csv")
    (folder / "latin.csv").write_bytes("image,annotation,group\na.png,a_mask.png,Käthe".encode("latin-1"))
    with pytest.raises(ManifestError, match="is not UTF-8"):
        read_manifest(folder / "latin.csv")


def test_a_split_in_some_rows_only_is_refused(folder: Path) -> None:
    rows = ["a.png,a_mask.png,,P1,train,,", "b.png,b_mask.png,,P2,,,"]
    assert "row 3: split is empty, but other rows have one" in refusal(folder, HEADER, *rows)


def test_a_group_in_two_splits_is_refused(folder: Path) -> None:
    rows = ["a.png,a_mask.png,,P1,train,,", "b.png,b_mask.png,,P2,test,,", "c.png,c_mask.png,,P1,test,,"]
    assert "group 'P1' is in train (row 2) and test (row 4); give all its rows the same split" in refusal(
        folder, HEADER, *rows
    )


def test_an_image_twice_is_refused_by_whatever_name(folder: Path) -> None:
    (folder / "link.png").symlink_to(folder / "a.png")
    for name in ("a.png", "./a.png", "link.png"):
        rows = ["a.png,a_mask.png,,P1,train,,", f"{name},b_mask.png,,P1,train,,"]
        assert "is also in row 2" in refusal(folder, HEADER, *rows)


def test_an_annotation_of_two_groups_is_refused(folder: Path) -> None:
    rows = ["a.png,a_mask.png,,P1,train,,", "b.png,a_mask.png,,P2,train,,"]
    assert "belongs to group 'P1' (row 2) and to group 'P2' (row 3)" in refusal(folder, HEADER, *rows)


def test_a_copy_in_another_split_is_refused(folder: Path) -> None:
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    text = refusal(folder, HEADER, "a.png,a_mask.png,,P1,train,,", "b.png,b_mask.png,,P2,test,,")
    assert "row 3: image b.png has the same content as a.png (row 2), but one is in train and the other in test" in text


def test_a_copy_in_the_same_split_is_allowed(folder: Path) -> None:
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    rows = ["a.png,a_mask.png,,P1,train,,", "b.png,b_mask.png,,P2,train,,"]
    assert len(read(folder, HEADER, *rows).samples) == 2


def test_files_that_begin_alike_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "HEAD_BYTES", 5)
    (folder / "a2.png").write_bytes((folder / "a.png").read_bytes())
    paths = [folder / name for name in ("a.png", "b.png", "a2.png", "a_mask.png")]
    assert leaks.identical_files(paths) == [[folder / "a.png", folder / "a2.png"]]


NAMES = st.text('abz ,"äß|=#', min_size=1, max_size=12).map(str.strip).filter(bool)


@given(
    group=NAMES, labels=NAMES, mpp=st.none() | st.floats(0.01, 100), n=st.integers(1, 3), split=st.sampled_from(SPLITS)
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, group: str, labels: str, mpp: float | None, n: int, split: str
) -> None:
    inside, outside = tmp_path_factory.mktemp("inside"), tmp_path_factory.mktemp("outside")
    for path in (inside / "a, b.png", outside / "ä.png"):
        path.write_text(path.name)
    masks = tuple(inside / f"mask {i}.png" for i in range(n))
    for mask in masks:
        mask.touch()
    first = Sample(2, inside / "a, b.png", masks, mpp, group, split, labels, "soft")  # type: ignore[arg-type]
    samples = (first, replace(first, row=3, image=outside / "ä.png"))
    write_manifest(inside / "m.csv", samples)
    assert read_manifest(inside / "m.csv").samples == samples


def test_paths_below_the_manifest_are_written_relative(folder: Path) -> None:
    (folder / "lists").mkdir()
    sample = Sample(2, folder / "a.png", (folder / "lists" / "a.png",), None, "P", "train")
    (folder / "lists" / "a.png").touch()
    write_manifest(folder / "lists" / "m.csv", [sample])
    assert (folder / "lists" / "m.csv").read_text().splitlines()[1] == f"{folder / 'a.png'},a.png,,P,train,,first"


def test_a_path_that_the_list_cannot_hold_is_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match="holds ';'"):
        write_manifest(folder / "m.csv", [Sample(2, folder / "a.png", (folder / "a;b.png",), None, "P", "train")])
    assert not (folder / "m.csv").exists()
