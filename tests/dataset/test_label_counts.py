"""Surveys: counts and presence against a loop over all pixels, and labels that nobody knows found anywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.annotations.made import ALL, CLASSES, GLAND, GLEASON_3, STROMA, feature, square, write_geojson
from tests.dataset.made import made_sample
from wsi_magnet.dataset import label_counts as label_counts
from wsi_magnet.dataset.label_counts import BLOCK_PX, LabelCounts, check_labels, count_labels, count_manifest_labels
from wsi_magnet.dataset.manifest import Manifest, read_manifest
from wsi_magnet.dataset.open_sample import open_sample
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ManifestError
from wsi_magnet.nets.spec import ClassInfo

PIECES = (1, 2, 3, 255)


def counted(sample: Sample, mpp: float = 0.25) -> LabelCounts:
    opened = open_sample(sample, CLASSES)
    return count_labels(opened, opened.scale(mpp))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), size=st.tuples(st.integers(1, 200), st.integers(1, 200)), mpp=st.floats(0.2, 0.9))
def test_against_a_loop_over_all_pixels(tmp_path: Path, seed: int, size: tuple[int, int], mpp: float) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.choice(np.array(PIECES, np.uint8), size=(10, 10), p=[0.2, 0.1, 0.05, 0.65])
    opened = open_sample(
        made_sample(tmp_path, np.kron(blocks, np.ones((20, 20), np.uint8))[: size[0], : size[1]]), CLASSES
    )
    scale = opened.scale(mpp)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_counts, "READ_PX", 2 * BLOCK_PX)
        found = count_labels(opened, scale)
    presence = np.zeros_like(found.presence)
    counts: Counter[int] = Counter()
    for (y, x), labels in np.ndenumerate(opened.sets(scale, scale.grid)):
        if labels != ALL:
            presence[y // BLOCK_PX, x // BLOCK_PX] |= labels
            counts[int(labels)] += 1
    assert (found.counts, found.presence.tolist()) == (dict(counts), presence.tolist())


def test_the_squares_cover_the_grid(tmp_path: Path) -> None:
    found = counted(made_sample(tmp_path, np.full((65, 129), 1, np.uint8)))
    assert (found.presence.tolist(), found.block_px) == ([[STROMA] * 3] * 2, 64)


def test_a_pixel_of_several_classes_counts_in_equal_parts(tmp_path: Path) -> None:
    mask = np.array([[1, 2, 2, 255]], np.uint8)
    found = counted(made_sample(tmp_path, mask, labels="2=stroma|benign gland"))
    assert found.class_pixels(len(CLASSES)).tolist() == [0, 2, 1, 0]


def test_what_lies_on_top_counts(tmp_path: Path) -> None:
    top, below = np.array([[1, 255]], np.uint8), np.array([[3, 3]], np.uint8)
    assert counted(made_sample(tmp_path, top, below)).counts == {STROMA: 1, GLEASON_3: 1}


def test_annotators_count_together(tmp_path: Path) -> None:
    one, other = np.array([[1, 1, 255, 255]], np.uint8), np.array([[2, 1, 3, 255]], np.uint8)
    found = counted(made_sample(tmp_path, one, other, consensus="majority"))
    assert found.counts == {STROMA: 1, GLEASON_3: 1, STROMA | GLAND: 1}


def test_regions_are_counted(tmp_path: Path) -> None:
    regions = write_geojson(tmp_path / "a.geojson", feature([square(0, 0, 10, 8)]))
    assert counted(made_sample(tmp_path, annotations=[regions]), mpp=0.5).counts == {STROMA: 20}


def test_an_unknown_label_is_found_where_no_pixel_of_the_scale_has_its_centre(tmp_path: Path) -> None:
    mask = np.ones((64, 64), np.uint8)
    mask[63, 0] = 77
    with pytest.raises(ManifestError, match=r"^row 7: .*mask_0\.png: unknown label 77"):
        counted(made_sample(tmp_path, mask), mpp=2.0)


def test_labels_are_checked_in_every_annotation(tmp_path: Path) -> None:
    opened = open_sample(made_sample(tmp_path, np.ones((4, 4), np.uint8), np.full((4, 4), 9, np.uint8)), CLASSES)
    with pytest.raises(ManifestError, match=r"^row 7: .*mask_1\.png: unknown label 9"):
        check_labels(opened)


def test_known_labels_pass(tmp_path: Path) -> None:
    opened = open_sample(made_sample(tmp_path, np.ones((4, 4), np.uint8)), CLASSES)
    check_labels(opened)
    opened.close()


TWO_CLASSES = (ClassInfo("stroma", 1, (0, 255, 0)), ClassInfo("Gleason 5", 5, (255, 0, 0)))


def manifest(folder: Path, masks: list[list[int]], sizes: tuple[int, ...] = (8, 8, 8)) -> Manifest:
    """An image of 8 x 8 pixels a row, in train, validation, test; its mask has these values in columns."""
    rows = ["image,annotation,mpp,group,split"]
    for i, (values, size) in enumerate(zip(masks, sizes, strict=False)):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
        columns = np.repeat(np.array(values, np.uint8), size // len(values))
        Image.fromarray(np.tile(columns, (size, 1))).save(folder / f"{i}_mask.png")
        rows.append(f"{i}.png,{i}_mask.png,1.0,{i},{('train', 'validation', 'test')[i]}")
    (folder / "m.csv").write_text("\n".join(rows))
    return read_manifest(folder / "m.csv")


def refusal(listed: Manifest) -> str:
    with pytest.raises(ManifestError) as caught:
        count_manifest_labels(listed, TWO_CLASSES, 1.0)
    return str(caught.value)


@pytest.mark.parametrize("threads", [1, 3])
def test_all_samples_are_counted_in_order(tmp_path: Path, threads: int) -> None:
    listed = manifest(tmp_path, [[1, 5], [1, 255], [5, 5]])
    label_counts = count_manifest_labels(listed, TWO_CLASSES, 1.0, threads=threads)
    assert tuple(label_counts) == listed.samples
    assert [list(one.class_pixels(2)) for one in label_counts.values()] == [[32, 32], [32, 0], [0, 64]]


def test_only_the_splits_that_are_wanted_are_opened(tmp_path: Path) -> None:
    listed = manifest(tmp_path, [[1, 5], [9, 9], [1, 1]])
    assert tuple(count_manifest_labels(listed, TWO_CLASSES, 1.0, ["train", "test"])) == listed.of("train", "test")


def test_a_class_that_no_row_of_train_labels_is_named(tmp_path: Path) -> None:
    listed = manifest(tmp_path, [[1, 1], [5, 5]])
    assert "class 'Gleason 5' (5) has no pixel in the rows of train; remove it" in refusal(listed)
    assert len(count_manifest_labels(listed, TWO_CLASSES, 1.0, ["validation"])) == 1


def test_an_unknown_label_names_row_and_file(tmp_path: Path) -> None:
    text = refusal(manifest(tmp_path, [[1, 5], [1, 7]]))
    assert f"{tmp_path / 'm.csv'}, row 3: " in text
    assert "1_mask.png: unknown label 7" in text


def test_a_mask_of_another_size_names_its_row(tmp_path: Path) -> None:
    assert "row 2: " in refusal(manifest(tmp_path, [[1, 5]], sizes=(4,)))


def test_a_damaged_image_names_its_row_once(tmp_path: Path) -> None:
    listed = manifest(tmp_path, [[1, 5], [1, 5]])
    (tmp_path / "1.png").write_bytes(b"rubbish")
    assert refusal(listed).count("row 3") == 1


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no row of test"):
        count_manifest_labels(manifest(tmp_path, [[1, 5]]), TWO_CLASSES, 1.0, ["test"])
