"""Checking samples: each is opened and counted, and what is wrong names its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_magnet.dataset.checks import survey_manifest
from wsi_magnet.dataset.manifest import Manifest, read_manifest
from wsi_magnet.errors import ManifestError
from wsi_magnet.nets.spec import ClassInfo

CLASSES = (ClassInfo("stroma", 1, (0, 255, 0)), ClassInfo("Gleason 5", 5, (255, 0, 0)))


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
        survey_manifest(listed, CLASSES, 1.0)
    return str(caught.value)


@pytest.mark.parametrize("threads", [1, 3])
def test_all_samples_are_counted_in_order(tmp_path: Path, threads: int) -> None:
    listed = manifest(tmp_path, [[1, 5], [1, 255], [5, 5]])
    surveys = survey_manifest(listed, CLASSES, 1.0, threads=threads)
    assert tuple(surveys) == listed.samples
    assert [list(one.class_pixels(2)) for one in surveys.values()] == [[32, 32], [32, 0], [0, 64]]


def test_only_the_splits_that_are_wanted_are_opened(tmp_path: Path) -> None:
    listed = manifest(tmp_path, [[1, 5], [9, 9], [1, 1]])
    assert tuple(survey_manifest(listed, CLASSES, 1.0, ["train", "test"])) == listed.of("train", "test")


def test_a_class_that_no_row_of_train_labels_is_named(tmp_path: Path) -> None:
    listed = manifest(tmp_path, [[1, 1], [5, 5]])
    assert "class 'Gleason 5' (5) has no pixel in the rows of train; leave it out" in refusal(listed)
    assert len(survey_manifest(listed, CLASSES, 1.0, ["validation"])) == 1


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
        survey_manifest(manifest(tmp_path, [[1, 5]]), CLASSES, 1.0, ["test"])
