"""Merging: all rows are there with their meaning, sites are told apart, and those that are held out judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataset import made_layouts as made
from wsi_magnet.dataset.build_manifest import ManifestOptions, make_manifest
from wsi_magnet.dataset.manifest import read_manifest
from wsi_magnet.dataset.merge_manifests import merge_manifests
from wsi_magnet.errors import ManifestError


@pytest.fixture
def manifests(tmp_path: Path) -> list[Path]:
    """Two data sets: three microarrays, the third with a test split, and three slides."""
    made.gleason2019(tmp_path / "gleason")
    made.sicapv2(tmp_path / "sicap")
    paths = [tmp_path / "lists" / "gleason.csv", tmp_path / "lists" / "sicap.csv"]
    options = ManifestOptions(test=("slide003",), validation=("slide002",))
    make_manifest("gleason2019", tmp_path / "gleason", paths[0], options)
    make_manifest("sicapv2", tmp_path / "sicap", paths[1], ManifestOptions())
    return paths


def test_rows_keep_files_splits_and_codings(manifests: list[Path], tmp_path: Path) -> None:
    merged, notes = merge_manifests(manifests, tmp_path / "both.csv")
    rows = [sample for path in manifests for sample in read_manifest(path).samples]
    assert notes == ()
    for one, before in zip(merged.samples, rows, strict=True):
        assert (one.image, one.annotations, one.mpp) == (before.image, before.annotations, before.mpp)
        assert (one.split, one.labels, one.consensus) == (before.split, before.labels, before.consensus)
        assert one.group == f"{one.site}/{before.group}"
    assert {sample.site for sample in merged.samples} == {"gleason", "sicap"}
    assert [sample.row for sample in merged.samples] == list(range(2, len(rows) + 2))


def test_sites_that_are_held_out_judge_alone(manifests: list[Path], tmp_path: Path) -> None:
    before = {sample.image: sample.split for path in manifests for sample in read_manifest(path).samples}
    merged, notes = merge_manifests(manifests, tmp_path / "both.csv", test=["sicap"])
    assert {sample.site for sample in merged.of("test")} == {"sicap"}
    assert not [sample for sample in merged.of("train", "validation") if sample.site == "sicap"]
    for sample in merged.samples:
        if sample.site == "gleason":
            assert sample.split == ("train" if before[sample.image] == "test" else before[sample.image])
    assert notes == ("1 test rows of the other sites are train rows now",)


def test_merged_manifests_are_merged_again(manifests: list[Path], tmp_path: Path) -> None:
    once, _ = merge_manifests(manifests, tmp_path / "both.csv")
    made.zurich_tma(tmp_path / "zurich")
    make_manifest("zurich-tma", tmp_path / "zurich", tmp_path / "zurich.csv", ManifestOptions())
    twice, _ = merge_manifests([tmp_path / "both.csv", tmp_path / "zurich.csv"], tmp_path / "all.csv")
    assert {sample.site for sample in twice.samples} == {"gleason", "sicap", "zurich"}
    assert twice.samples[: len(once.samples)] == once.samples


def test_groups_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for site in ("north", "south"):
        for name in ("P1_D5_1_1_1", "P1_D5_2_1_1", "P1_D5_3_1_1"):
            made.image(tmp_path / site / "img" / f"{name}.png")
            made.mask(tmp_path / site / "mask" / f"{name}.png", 1)
        make_manifest("rings-glands", tmp_path / site, tmp_path / f"{site}.csv", ManifestOptions(seed=len(site[0])))
    merged, _ = merge_manifests([tmp_path / "north.csv", tmp_path / "south.csv"], tmp_path / "m.csv", test=["south"])
    assert len({sample.group for sample in merged.samples}) == 6


def test_the_same_picture_in_two_splits_is_refused(manifests: list[Path], tmp_path: Path) -> None:
    made.sicapv2(tmp_path / "copy")
    originals = sorted((tmp_path / "sicap" / "images").iterdir())
    for path in originals:
        (tmp_path / "copy" / "images" / path.name).write_bytes(path.read_bytes())
    make_manifest("sicapv2", tmp_path / "copy", tmp_path / "copy.csv", ManifestOptions())
    with pytest.raises(ManifestError, match="has the same content as"):
        merge_manifests([*manifests, tmp_path / "copy.csv"], tmp_path / "m.csv", test=["copy"])
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize(
    ("test", "why"),
    [(["zurich"], "unknown site 'zurich'; the sites are gleason, sicap"), (["gleason", "sicap"], "all sites are held")],
)
def test_sites_that_cannot_be_held_out_are_refused(
    manifests: list[Path], tmp_path: Path, test: list[str], why: str
) -> None:
    with pytest.raises(ManifestError, match=why):
        merge_manifests(manifests, tmp_path / "m.csv", test=test)


def test_manifests_of_one_name_and_one_that_would_be_replaced_are_refused(
    manifests: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "sicap.csv").write_bytes(manifests[1].read_bytes())
    with pytest.raises(ManifestError, match="would both be site 'sicap'; rename one"):
        merge_manifests([*manifests, tmp_path / "sicap.csv"], tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="is one of the manifests to merge"):
        merge_manifests(manifests, manifests[0])
